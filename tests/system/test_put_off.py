"""What an operator is told of a backlog is what providers were really given, also while routes change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from supervisor.simulator import Simulator, start_simulator
from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import Engine, answer, start_engine

PROVIDERS = {"slow": "throughput = 40", "quick": "throughput = 160", "free": ""}
# So many messages may be in flight to a provider, or on their way to it, where a change meets them.
IN_HAND = 100
CONFIG = """
[queues.normal]
concurrency = 50
[[routes]]
prefix = ""
providers = ["free"]
[[routes]]
prefix = "+98"
providers = ["slow"]
"""
PROVIDER = """
[[providers]]
name = "{}"
type = "http"
preset = "simulated"
url = "{}"
{}
"""


class Seen(NamedTuple):
    """One look: what is told, what providers have taken by then, and when, seconds."""

    told: dict[str, Any]
    taken: int
    at_s: float

    @property
    def left(self) -> int:
        return int(self.told["segments_in_10_s"])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Engine, list[Simulator]]]:
    with ExitStack() as stack:
        simulators = [start_simulator() for _ in PROVIDERS]
        for simulator in simulators:
            stack.callback(simulator.stop)
        providers = zip(PROVIDERS, simulators, strict=True)
        parts = [PROVIDER.format(name, s.url, PROVIDERS[name]) for name, s in providers]
        config = tmp_path / "engine.toml"
        config.write_text("".join([*parts, CONFIG]))
        engine = start_engine(tmp_path / "data", ("--demo", "--config", config))
        stack.callback(engine.kill)
        stack.callback(engine.stop)
        yield engine, simulators


def test_what_left_a_backlog_is_what_providers_were_given_while_routes_and_throughputs_change(
    world: tuple[Engine, list[Simulator]],
) -> None:
    engine, simulators = world
    looks: list[Seen] = []

    def taken() -> int:
        return sum(fetch(f"{simulator.url}/stats")["received"] for simulator in simulators)

    def watch(seconds: float) -> list[Seen]:
        until, first = time.monotonic() + seconds, len(looks)
        while time.monotonic() < until:
            told = answer(engine.run("queue", "show", "normal", "--json"))
            looks.append(Seen(told, taken(), time.monotonic()))
            time.sleep(0.2)
        return looks[first:]

    # All begin to be sent at once, however long it takes to send in.
    answer(engine.run("queue", "pause", "normal", "--json"))
    organisations = _fill(engine, 3, 1400)
    answer(engine.run("queue", "resume", "normal", "--json"))
    # What left the backlogs at once has been put off by then.
    eventually(lambda: taken() > IN_HAND)
    watch(6.0)
    for change in (
        ("route", "set", "+98", "quick"),
        ("provider", "throughput", "quick", "120"),
        ("provider", "pause", "free"),
    ):
        answer(engine.run(*change, "--json"))
        for look in watch(5.0):
            rows = {row["organisation_id"]: row for row in look.told["organisations"]}
            assert set(rows) == organisations
            shares = [row["share"] for row in rows.values()]
            assert min(shares) >= 0.1, (change, shares)
            assert all(row["ends_in_ms"] for row in rows.values()), change
    # All of it is within two windows: so much has been taken as may have left, and no more.
    for look in looks:
        assert 0 <= look.left <= look.taken + IN_HAND, [(of.left, of.taken) for of in looks]
    for look in looks:
        lately = look.taken - _taken_at(looks, look.at_s - 10.0)
        assert look.left >= 0.6 * lately - IN_HAND, [(of.left, of.taken) for of in looks]


def _fill(engine: Engine, organisations: int, messages: int) -> set[int]:
    """Send so many messages of each of so many new organisations; their ids."""
    made = [answer(engine.run("org", "create", f"Of {n}", "--json")) for n in range(organisations)]
    for of in made:
        answer(engine.run("org", "topup", of["id"], messages, "--reference", "first", "--json"))
        caller = Caller(engine.url, of["api_key"])
        for first in range(0, messages, 700):
            batch = [{"to": f"+98912{n:07}", "text": "hello"} for n in range(first, first + 700)]
            assert caller.call("POST", "/v1/messages/batch", {"messages": batch})[0] == 202
    return {of["id"] for of in made}


def _taken_at(looks: list[Seen], at_s: float) -> int:
    """How many providers had taken by then."""
    return max((look.taken for look in looks if look.at_s <= at_s), default=0)
