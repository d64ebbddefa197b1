"""How late rows can be read, and how many inserts that takes: an archiver on virtual time."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import pytest

from engine.activity.archiver import Archiver
from engine.activity.linger import Linger
from engine.activity.records import ActivityBlock, ActivityEntry, BlockPlan
from engine.errors import Unavailable
from engine.leases.ports import HeldShards
from engine.stream_id import StreamId
from tests.activity.world import blob_of, make_row
from tests.delivery.turns import VirtualTime

SHARDS = 4
TRIP_S = 0.001
ONE, THOUSAND = (blob_of([make_row(n) for n in range(rows)]) for rows in (1, 1000))
# Most turns of the loop a second: there are three rounds in two seconds at most, of a few steps each.
TURNS = 120


class Inserted(NamedTuple):
    at_s: float
    # How late the oldest row of the block can be read.
    lag_s: float
    rows: int


class Place:
    """The streams of an archiver, and the store, in which an insert takes as long as `takes_s` says of its
    rows; while that is None the store is away."""

    def __init__(self, virtual: VirtualTime, takes_s: Callable[[int], float | None]) -> None:
        self._clock, self.takes_s = virtual.clock, takes_s
        self._entries: list[list[ActivityEntry]] = [[] for _ in range(SHARDS)]
        self._plans: list[BlockPlan] = []
        self._came = asyncio.Event()
        self._number = 0
        self.inserts: list[Inserted] = []

    def put(self, blob: bytes = ONE, count: int = 1) -> None:
        for _ in range(count):
            self._number += 1
            shard, at = self._number % SHARDS, StreamId(int(self._clock.now * 1000), self._number)
            self._entries[shard].append(ActivityEntry(shard=shard, id=at, blob=blob))
        self._came.set()

    async def keep_putting(self, per_s: float) -> None:
        while True:
            self.put()
            await asyncio.sleep(1 / per_s)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._entries))

    async def lease(self, owner: str, ttl_ms: int) -> HeldShards:
        await asyncio.sleep(TRIP_S)
        return HeldShards(frozenset(range(SHARDS)))

    async def plans(self, shards: Collection[int]) -> list[BlockPlan]:
        await asyncio.sleep(TRIP_S)
        return list(self._plans)

    async def backlog(self) -> list[object]:
        return []

    async def read(self, after: Mapping[int, StreamId], count: int, block_ms: int) -> list[ActivityEntry]:
        await asyncio.sleep(TRIP_S)
        if not (found := self._behind(after, count)) and block_ms:
            self._came.clear()
            try:
                async with asyncio.timeout(block_ms / 1000):
                    await self._came.wait()
            except TimeoutError:
                return []
            found = self._behind(after, count)
        return found

    def _behind(self, after: Mapping[int, StreamId], count: int) -> list[ActivityEntry]:
        return [
            entry
            for shard, at in after.items()
            for entry in [entry for entry in self._entries[shard] if entry.id > at][:count]
        ]

    async def propose(self, owner: str, plan: BlockPlan) -> bool:
        await asyncio.sleep(TRIP_S)
        self._plans.append(plan)
        return True

    async def finish(self, plan: BlockPlan, unreadable: Sequence[ActivityEntry]) -> bool:
        await asyncio.sleep(TRIP_S)
        self._plans.remove(plan)
        for part in plan.ranges:
            self._entries[part.shard] = [e for e in self._entries[part.shard] if e.id > part.last]
        return True

    async def insert(self, block: ActivityBlock, token: str) -> None:
        if (takes_s := self.takes_s(block.rows)) is None:
            await asyncio.sleep(0.1)
            raise Unavailable("away")
        await asyncio.sleep(takes_s)
        put_ms = array("Q")
        put_ms.frombytes(block.columns[-2])
        self.inserts.append(Inserted(self._clock.now, self._clock.now - min(put_ms) / 1000, block.rows))

    def since(self, at_s: float) -> list[Inserted]:
        """The inserts after a time, which are forgotten here."""
        found = [each for each in self.inserts if each.at_s >= at_s]
        self.inserts = []
        return found


class Scene:
    """An archiver at work in a place; with `as`."""

    def __init__(self, takes_s: float) -> None:
        self.virtual = VirtualTime()
        self._takes_s = takes_s

    def __enter__(self) -> tuple[VirtualTime, Place]:
        virtual = self.virtual.__enter__()
        place = Place(virtual, lambda rows: self._takes_s)
        archiver = Archiver(place, place, "owner", now=virtual.clock_s)  # type: ignore[arg-type]
        virtual.start(archiver.run(asyncio.Event()))
        return virtual, place

    def __exit__(self, *_: object) -> None:
        self.virtual.__exit__(None, None, None)


@pytest.mark.parametrize("per_s", [1, 5, 100])
@pytest.mark.parametrize(
    ("takes_s", "inserts_per_s"), [(0.05, 1.25), (0.15, 1.25), (0.25, 1.45), (0.34, 1.68)]
)
def test_rows_can_be_read_within_a_second_with_few_more_inserts_however_long_they_take(
    takes_s: float, inserts_per_s: float, per_s: float
) -> None:
    with Scene(takes_s) as (virtual, place):
        virtual.start(place.keep_putting(per_s))
        # It learns how long inserts take.
        virtual.pass_s(10.0, turns_max=TURNS + 3 * per_s)
        begun_s = virtual.clock.now
        virtual.pass_s(60.0, turns_max=TURNS + 3 * per_s)
        inserts = place.since(begun_s)
        assert max(each.lag_s for each in inserts) < 1.0
        assert len(inserts) <= 60 * inserts_per_s + 1


def test_a_row_after_a_pause_does_not_wait_longer_because_inserts_are_quick() -> None:
    with Scene(0.02) as (virtual, place):
        for _ in range(30):
            place.put()
            virtual.pass_s(3.3, turns_max=TURNS)
        assert len(place.inserts) == 30
        assert max(each.lag_s for each in place.inserts) < 0.85


def test_a_burst_goes_in_as_large_blocks() -> None:
    with Scene(0.15) as (virtual, place):
        virtual.start(place.keep_putting(100))
        virtual.pass_s(10.0, turns_max=4 * TURNS)
        begun_s = virtual.clock.now
        place.put(THOUSAND, 250)
        virtual.pass_s(5.0, turns_max=4 * TURNS)
        inserts = place.since(begun_s)
        # What waited before, two full blocks, the rest, and what then comes.
        assert sum(each.rows for each in inserts[:4]) > 250_000
        assert len(inserts) <= 4 + 5
        assert max(each.lag_s for each in inserts) < 1.0


def test_inserts_that_are_slow_come_one_after_another_and_rows_are_soon_in_time_again() -> None:
    with Scene(0.1) as (virtual, place):
        virtual.start(place.keep_putting(100))
        virtual.pass_s(10.0, turns_max=4 * TURNS)
        place.takes_s = lambda rows: 2.0
        virtual.pass_s(60.0, turns_max=4 * TURNS)
        assert len(place.since(10.0)) <= 31
        place.takes_s = lambda rows: 0.1
        virtual.pass_s(4.0, turns_max=4 * TURNS)
        begun_s = virtual.clock.now
        assert len(place.since(begun_s - 4.0)) <= 4 * 1.7 + 1
        virtual.pass_s(60.0, turns_max=4 * TURNS)
        inserts = place.since(begun_s)
        assert max(each.lag_s for each in inserts) < 1.0
        # More often for a few blocks, and then as before.
        assert len(inserts) <= 60 * 1.25 + 5


def test_after_the_store_was_away_there_is_no_storm_of_small_inserts() -> None:
    with Scene(0.1) as (virtual, place):
        virtual.start(place.keep_putting(100))
        virtual.pass_s(10.0, turns_max=4 * TURNS)
        place.takes_s = lambda rows: None
        virtual.pass_s(60.0, turns_max=4 * TURNS)
        place.takes_s = lambda rows: 0.1
        begun_s = virtual.clock.now
        # The pause before it is tried again.
        virtual.pass_s(20.0, turns_max=4 * TURNS)
        inserts = place.since(begun_s)
        back_s = inserts[0].at_s
        # The block that was tried; all that came meanwhile; and then as ever.
        assert inserts[1].rows > 5000
        assert len([each for each in inserts if each.at_s < back_s + 8]) <= 8 * 1.7 + 1
        assert max(each.lag_s for each in inserts[2:]) < 1.0
        assert place.waiting < 200


def test_one_slow_insert_is_soon_forgotten() -> None:
    linger = Linger(0.95, 0.8, 0.6)
    assert linger.seconds == pytest.approx(0.8)
    linger.note(60.0)
    assert linger.seconds == pytest.approx(0.7)
    for _ in range(5):
        linger.note(0.1)
    assert linger.seconds > 0.75
    for _ in range(100):
        linger.note(60.0)
    assert linger.seconds == pytest.approx(0.6)
