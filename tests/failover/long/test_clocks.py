"""A node whose clock is off: what it sends and when, and what it says; real processes under libfaketime."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.failover.nodes import Stores, stores
from tests.system.carriers import message_of
from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import Engine
from tests.system.faults import assert_clean

NUMBER = "+989121234567"
# How far the times of the engine may be from those of this process.
_CLOSE = timedelta(seconds=2)


def _shifted(by: str) -> dict[str, str]:
    """The environment of a node whose clock is off by so much, as faketime(1) writes it."""
    spec = find_spec("libfaketime")
    if spec is None or spec.origin is None:
        pytest.skip("the package libfaketime is not here")
    library = Path(spec.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"
    return {"LD_PRELOAD": str(library), "FAKETIME": by, "DONT_FAKE_MONOTONIC": "1"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with stores(tmp_path_factory.mktemp("clocks")) as shared:
        yield shared


@pytest.fixture(scope="module")
def right(shared: Stores) -> Iterator[Engine]:
    engine = shared.start("right")
    yield engine
    engine.kill()


def _send(engine: Engine, **fields: Any) -> tuple[int, Any]:
    body = {"to": NUMBER, "text": "hello", "queue": "express", **fields}
    return Caller(engine.url, engine.api_key).call("POST", "/v1/messages", body)


def _times(message: dict[str, Any]) -> list[datetime]:
    return [datetime.fromisoformat(event["at"]) for event in message["events"]]


@pytest.mark.parametrize("by", ["+40s", "-40s"])
def test_a_node_whose_clock_is_off_sends_in_time_and_tells_one_story(
    shared: Stores, right: Engine, by: str
) -> None:
    off = shared.start(f"off{by}", variables=_shifted(by))
    try:
        soon = datetime.now(UTC) + timedelta(seconds=20)
        ids, asked = {}, {}
        for engine in (right, off):
            # A validity shorter than the clocks are apart, whoever of the two sends it.
            each: list[dict[str, Any]] = [{"validity": 30, "text": f"{by} {n}"} for n in range(40)]
            for fields in (*each, {"send_at": soon.isoformat()}):
                begun = datetime.now(UTC)
                status, answered = _send(engine, **fields)
                assert status == 202, answered
                ids[answered["id"]] = answered["status"]
                asked[answered["id"]] = begun, datetime.now(UTC)
        due = {message_id for message_id, status in ids.items() if status == "scheduled"}
        received = set(fetch(f"{shared.simulator.url}/received?limit=1000000")["ids"])
        # A slow machine may have taken until then.
        assert datetime.now(UTC) >= soon or not due & received, "sent before it was due"

        def told() -> list[dict[str, Any]]:
            """All of them, when those that are not scheduled are sent."""
            messages = [message_of(right, message_id) for message_id in ids]
            return messages if all(m["id"] in due or m["status"] == "sent" for m in messages) else []

        for message in eventually(told):
            begun, answered_at = asked[message["id"]]
            accepted_at = datetime.fromisoformat(message["accepted_at"])
            assert begun - _CLOSE <= accepted_at <= answered_at + _CLOSE
            times = _times(message)
            assert all(earlier <= later for earlier, later in pairwise([accepted_at, *times])), message
            if message["id"] in due:
                assert message["events"][0]["event"] == "scheduled"
        log = off.log.read_text()
        assert "the clock of this node is off" in log
        seconds = 40 if by.startswith("+") else -40
        _, status = Caller(off.admin_url, off.admin_key).call("GET", "/v1/admin/status")
        assert abs(status["clock_ahead_ms"] - seconds * 1000) < 1000
        assert "that of Redis" in off.run("status").stdout
        # The scheduled ones are sent when they are due, and not before.
        found = eventually(
            lambda: (
                [m for i in due if (m := message_of(right, i))["status"] == "sent"]
                if due <= set(fetch(f"{shared.simulator.url}/received?limit=1000000")["ids"])
                else []
            )
        )
        for message in found:
            assert _times(message)[-1] >= soon
        assert off.stop() == 0
        assert_clean(right)
    finally:
        off.kill()


def test_a_node_an_hour_ahead_takes_in_and_sends_nothing(shared: Stores, right: Engine) -> None:
    off = shared.start("hour", variables=_shifted("+1h"))
    try:
        status, problem = _send(off)
        assert status == 503
        assert "clock of this node is 3600." in problem["detail"], problem
        status, ready = Caller(off.url, "").call("GET", "/readyz")
        assert status == 503
        assert "more than a minute" in str(ready)
        # All that is accepted is sent by the other node, in time, while this one could read it too.
        before = fetch(f"{shared.simulator.url}/stats")["received"]
        for n in range(100):
            assert _send(right, validity=60, text=f"hour {n}")[0] == 202
        eventually(lambda: fetch(f"{shared.simulator.url}/stats")["received"] == before + 100, 30)
        assert right.process.poll() is None
        log = off.log.read_text()
        assert log.count("the clock of this node is off") <= 8, "one line for each process"
        assert off.stop() == 0
        assert_clean(right)
    finally:
        off.kill()
