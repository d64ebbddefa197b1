"""What keeps credit rests while nobody sends, and is as quick as ever when somebody does: on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from engine.credit.flush import Admitted, Flush
from engine.credit.ledger_records import Stopped
from engine.credit.quota import Quota
from engine.credit.records import LedgerAnswer
from engine.credit.standstill import LATE_S, Standstill
from engine.errors import Unavailable
from engine.records import Submission
from tests.delivery.turns import VirtualTime


class Store:
    """The port `AdmissionStore`: a Redis that answers everything, and a ledger that never does."""

    def __init__(self) -> None:
        self.flushes: list[Flush] = []
        self.stands = False

    async def register(self, name: str) -> list[int]:
        return [1]

    async def beat(self, name: str, answered: Sequence[tuple[int, int]]) -> bool:
        return True

    async def fullness(self) -> float:
        return 0.0

    async def admit(self, name: str, flushes: Sequence[Flush], timeout_s: float) -> list[Any]:
        self.flushes += flushes
        return [Admitted(len(flush.submissions), {}) for flush in flushes]

    async def inbox(
        self, name: str, positions: Sequence[str], block_ms: int
    ) -> list[tuple[int, str, LedgerAnswer | None]]:
        await asyncio.sleep(block_ms / 1000)
        return []

    async def standing(self) -> Stopped:
        return Stopped(frozenset({0} if self.stands else ()))

    async def fence(self, name: str) -> None: ...


def served(virtual: VirtualTime, store: Store) -> Quota:
    quota = Quota(
        store, "holder", shards=1, shard_of=lambda _: 0, now_us=virtual.clock.now_us, quota_s=10.0,
        quota_min=10, validity_s=3600.0,
    )  # fmt: skip

    async def run() -> None:
        await quota.start()
        await quota.run()

    virtual.start(run())
    virtual.pass_s(10.0)
    return quota


def test_a_holder_whose_clients_are_silent_turns_a_few_times_a_second() -> None:
    with VirtualTime() as virtual:
        served(virtual, Store())
        virtual.pass_s(60.0, turns_max=6)


def test_the_rate_of_a_client_that_comes_after_a_rest_is_that_of_its_own_time() -> None:
    with VirtualTime() as virtual:
        store = Store()
        quota = served(virtual, store)
        virtual.pass_s(100.9)
        quota.credit.grant(7, 1000)

        async def send() -> None:
            submission = Submission(organisation_id=7, messages=[], units=100)
            for _ in range(9):
                assert quota.credit.reserve(7, 100)
                quota.admit(submission, quota.incarnation, lambda _: None)
                await asyncio.sleep(0.03)

        virtual.start(send())
        virtual.pass_s(0.6)
        # Nearly all is spent: more was asked for with the first or the second tick.
        assert [flush for flush in store.flushes if flush.notes]
        # And it rests again.
        virtual.pass_s(3.0)
        virtual.pass_s(60.0, turns_max=6)


def test_a_client_that_waits_in_vain_is_told_as_soon_as_after_no_rest() -> None:
    with VirtualTime() as virtual:
        store = Store()
        store.stands = True
        quota = served(virtual, store)
        waiting = virtual.start(quota.wait(7, 1, 1))
        virtual.process.tasks.remove(waiting)
        virtual.pass_s(1.1)
        assert isinstance(waiting.exception(), Unavailable)


@pytest.mark.parametrize("begins_s", [0.01, 0.2, 0.3])
def test_a_ledger_that_goes_on_is_woken_by_nothing_else(begins_s: float) -> None:
    class Noted:
        at_s: float | None = None

        async def note_waits(self, shards: Sequence[int], term: int) -> None:
            if shards and self.at_s is None:
                self.at_s = virtual.clock.now

    with VirtualTime() as virtual:
        usage = Noted()
        standstill = Standstill(usage, virtual.clock_s)  # type: ignore[arg-type]
        standstill.leads(1, [0])
        virtual.start(standstill.run())

        async def lead() -> None:
            for _ in range(100):
                await asyncio.sleep(0.4)
                standstill.moves(())

        virtual.pass_s(begins_s)
        virtual.start(lead())
        virtual.pass_s(30.0, turns_max=6)
        assert usage.at_s is None
        virtual.pass_s(20.0)
        last_s = virtual.clock.now - 50.0 + 40.0
        assert usage.at_s is not None
        assert LATE_S <= usage.at_s - last_s <= LATE_S + 0.26
