"""The time of day is set an hour forward and back: that of one machine, or of all with the stores."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from engine.config import ROLES
from supervisor.embedded.recipes import ClickHouse, Postgres, Valkey
from tests.failover.long.test_clocks import _shifted
from tests.failover.nodes import Stores, stores
from tests.operations.customers import IN_FLIGHT, assert_none_lost, customers
from tests.operations.test_no_room_for_processes import row_of
from tests.system.carriers import in_force, message_of
from tests.system.client import Caller, eventually
from tests.system.conftest import Engine, answer
from tests.system.faults import fetch_processes

HOUR_S = 3600
NUMBER = "+989121234567"


class Clock:
    """The time of day of all processes that were started with `variables`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        shifted = _shifted("+0")
        del shifted["FAKETIME"]
        self.variables = shifted | {
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_XRESET": "1",
        }

    def set(self, ahead_s: int) -> None:
        """Let it be so many seconds ahead of what is true, within a second or two from now."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{ahead_s:+d}\n")
        draft.chmod(0o644)
        os.replace(draft, self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    tmp_path.chmod(0o755)
    return Clock(tmp_path)


@pytest.fixture
def everywhere(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stores have that clock too."""
    for recipe in (Postgres, Valkey, ClickHouse):
        before = recipe.environment or dict(os.environ)
        monkeypatch.setattr(recipe, "environment", {**before, **clock.variables})


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Stores]:
    (tmp_path / "shared").mkdir()
    with stores(tmp_path / "shared") as shared:
        yield shared


@pytest.fixture
def victim(shared: Stores, clock: Clock) -> Iterator[Engine]:
    engine = shared.start("jumps", variables=clock.variables)
    yield engine
    clock.set(0)
    engine.stop()
    engine.kill()


def ahead_s(engine: Engine) -> float:
    """How far its clock is ahead of that of Redis, as it says itself."""
    return (
        float(Caller(engine.admin_url, engine.admin_key).call("GET", "/v1/admin/status")[1]["clock_ahead_ms"])
        / 1000
    )


def test_a_node_takes_nothing_in_while_its_clock_is_an_hour_off_and_goes_on_when_it_is_right(
    victim: Engine, clock: Clock
) -> None:
    before = {r["role"]: r["pid"] for r in fetch_processes(victim)}
    with customers(victim, patience_s=120) as running:
        for by in (HOUR_S, -HOUR_S):
            clock.set(by)
            eventually(lambda by=by: abs(ahead_s(victim) - by) < 5)
            refused = running.refusals["503"]
            eventually(lambda refused=refused: running.refusals["503"] > refused + 20)
            clock.set(0)
            running.go_on(60)
    assert set(running.refusals) == {"503"}
    assert all("The clock of this node is" in sentence for sentence in running.sentences)
    assert {r["role"]: r["pid"] for r in fetch_processes(victim)} == before, "nobody was taken for frozen"
    assert_none_lost(victim, running.stop())


def send(caller: Caller, key: str = "", **fields: Any) -> tuple[int, Any]:
    headers = {"Idempotency-Key": key} if key else {}
    return caller.call("POST", "/v1/messages", {"to": NUMBER, "text": "hello", **fields}, **headers)


def accepted(caller: Caller, key: str = "", **fields: Any) -> str:
    status, answered = eventually(lambda: (a := send(caller, key, **fields))[0] == 202 and a, 30)
    assert status == 202
    return str(answered["id"])


@pytest.mark.usefixtures("everywhere")
def test_all_clocks_an_hour_forward_and_back_lose_nothing_and_stop_nothing(
    victim: Engine, clock: Clock
) -> None:
    before = {r["role"]: r["pid"] for r in fetch_processes(victim)}
    caller = Caller(victim.url, victim.api_key)
    answer(victim.run("provider", "throughput", "sim", 100, "--json"))
    in_force(victim)
    key = str(uuid.uuid4())
    with customers(victim, patience_s=120) as running:
        first = accepted(caller, key)
        soon = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
        scheduled = accepted(caller, send_at=soon)
        clock.set(HOUR_S)
        # It is due by the new time of day.
        eventually(lambda: message_of(victim, scheduled)["status"] == "sent", 30)
        running.go_on(120)
        assert accepted(caller, key) == first, "the answer is kept under its key"
        later = (datetime.now(UTC) + timedelta(hours=1, minutes=10)).isoformat()
        ahead = accepted(caller, send_at=later)
        clock.set(0)
        began = time.monotonic()
        running.go_on(120)
        assert accepted(caller, key) == first
        # Whoever dies now is replaced, and its leases are not kept for an hour.
        for role in ("archiver", "ledger", "express"):
            os.kill(row_of(victim, role)["pid"], signal.SIGKILL)
        running.go_on(60)
        print(f"replaced within {time.monotonic() - began:.0f} s")  # noqa: T201 - what a run saw
    # What was planned for a time waits for it; it can be taken back, and is paid for no longer.
    assert message_of(victim, ahead)["status"] == "scheduled"
    assert caller.call("POST", f"/v1/messages/{ahead}/cancel")[0] == 200
    assert running.refusals.keys() <= {"503"}
    eventually(lambda: len([r for r in fetch_processes(victim) if r["state"] == "ready"]) == len(ROLES))
    after = {r["role"]: r["pid"] for r in fetch_processes(victim)}
    assert [role for role in ("ingest", "normal") if before[role] != after[role]] == []
    last = accepted(caller)
    eventually(lambda: message_of(victim, last)["status"] == "sent")
    # The audit compares the record too: the archiver has gone on. The hour ahead was longer than the validity
    # of the codes that waited then.
    assert_none_lost(victim, running.stop(), duplicates_max=2 * IN_FLIGHT, may_expire=True)


def stepped(victim: Engine, clock: Clock, ahead: Callable[[], float]) -> None:
    """Set the clock by a second to and fro under load: no customer is refused, and no process ended.

    `ahead`: how far the clock that is set is ahead, seconds.
    """
    before = {r["role"]: r["pid"] for r in fetch_processes(victim)}
    with customers(victim, patience_s=60) as running:
        for ahead_s in (1, 0, -1, 0, 1, -1, 0):
            clock.set(ahead_s)
            eventually(lambda ahead_s=ahead_s: abs(ahead() - ahead_s) < 0.3)
            running.go_on(60)
    assert dict(running.refusals) == {}
    assert {r["role"]: r["pid"] for r in fetch_processes(victim)} == before
    assert_none_lost(victim, running.stop())


def test_a_node_whose_clock_is_set_by_a_second_to_and_fro_goes_on(victim: Engine, clock: Clock) -> None:
    stepped(victim, clock, lambda: ahead_s(victim))


@pytest.mark.usefixtures("everywhere")
def test_all_clocks_set_by_a_second_to_and_fro_lose_and_refuse_nothing(
    victim: Engine, clock: Clock, shared: Stores
) -> None:
    with Redis.from_url(shared.servers["redis"].url) as redis:

        def ahead() -> float:
            seconds, microseconds = redis.time()
            return float(seconds + microseconds / 1e6 - time.time())

        stepped(victim, clock, ahead)
