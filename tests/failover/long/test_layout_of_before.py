"""What the version before this one left waiting is delivered by this one: once, in order, charged once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.failover.long import test_versions
from tests.failover.nodes import Stores, stores
from tests.system.carriers import in_force
from tests.system.client import Caller, behave, eventually, fetch
from tests.system.conftest import STOP_S, Engine
from tests.system.faults import assert_clean

# The tree of the earlier version (a fixture).
previous = test_versions.previous

# One message after another, so that they arrive in the order in which they are sent.
_ONE_BY_ONE = """
[queues.normal]
concurrency = 1
[queues.express]
concurrency = 1
"""
# Messages of each organisation in each queue: more than lie ready, so that the others wait behind.
_MESSAGES = 400
_BATCH = 100
# The messages of an organisation that a worker with one send in flight may have read, at most.
_HANDED_BACK = 32
_ORGANISATIONS = 3


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Stores]:
    with stores(tmp_path) as shared:
        yield shared


def _admin(engine: Engine, method: str, path: str, body: object = None) -> dict[str, object]:
    status, answer = Caller(engine.admin_url, engine.admin_key).call(method, f"/v1/admin/{path}", body)
    assert status < 300, answer
    return answer or {}


def _organisations(engine: Engine) -> list[str]:
    """The API keys of some new organisations."""
    found = []
    for number in range(_ORGANISATIONS):
        made = _admin(engine, "POST", "organisations", {"name": f"o{number}"})
        top_up = {"units": 100_000, "reference": "first"}
        _admin(engine, "POST", f"organisations/{made['id']}/top-ups", top_up)
        found.append(str(made["api_key"]))
    return found


def _send(engine: Engine, key: str, queue: str, count: int, **more: str) -> list[str]:
    """Have messages accepted; their ids in order."""
    caller, ids = Caller(engine.url, key), []
    message = {"to": "+989121234567", "text": "hello", "queue": queue, **more}
    for _ in range(0, count, _BATCH):
        some = [message] * min(_BATCH, count)
        status, answer = caller.insist("/v1/messages/batch", {"messages": some})
        assert status == 202, answer
        ids += [result["id"] for result in answer["results"]]
    return ids


@pytest.mark.parametrize("provider", ["paused", "slow"])
def test_a_backlog_in_the_layout_of_before_is_delivered_once_and_in_order(
    shared: Stores, previous: Path, provider: str
) -> None:
    simulator = shared.simulator.url
    old = shared.start("old", tree=previous, more=_ONE_BY_ONE)
    try:
        if provider == "paused":
            _admin(old, "POST", "providers/sim/pause")
            # What is read before that is known is put off, and comes back out of order.
            in_force(old)
        else:
            behave(simulator, latency={"constant_ms": 300})
        keys = _organisations(old)
        in_order = [_send(old, key, queue, _MESSAGES) for queue in ("normal", "express") for key in keys]
        # One that is due when the next version runs.
        due = datetime.now(UTC) + timedelta(seconds=5)
        later = _send(old, keys[0], "normal", 1, send_at=due.isoformat())
        if provider == "slow":
            eventually(lambda: fetch(f"{simulator}/stats")["received"] > 3, 30)
        assert old.stop() == 0
    finally:
        old.kill()
    sent_before = fetch(f"{simulator}/stats")["received"]
    everything = [*later, *(message_id for ids in in_order for message_id in ids)]
    assert sent_before < len(everything) / 4
    new = shared.start("new", more=_ONE_BY_ONE)
    try:
        if provider == "paused":
            _admin(new, "POST", "providers/sim/resume")
        else:
            behave(simulator, latency={"constant_ms": 0})
        eventually(lambda: fetch(f"{simulator}/stats")["distinct"] >= len(everything), 2 * STOP_S)
        received = fetch(f"{simulator}/received?limit=1000000")["ids"]
        assert sorted(received) == sorted(everything)
        place = {message_id: n for n, message_id in enumerate(received)}
        # That version hands back what it has read through the due set, which does not keep the order: when it
        # is paused, what a read took that had begun before, which is one message or all that came at once.
        for ids in in_order:
            assert sorted(ids[_HANDED_BACK:], key=place.__getitem__) == ids[_HANDED_BACK:]
        eventually(lambda: assert_clean(new)["totals"]["captured"] >= len(everything), 30)
        totals = assert_clean(new)["totals"]
        assert (totals["captured"], totals["held"]) == (len(everything), 0)
        assert "Traceback" not in new.log.read_text()
        assert time.time() >= due.timestamp()
        assert new.stop() == 0
    finally:
        new.kill()
