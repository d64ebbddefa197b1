"""The limits of PostgreSQL come into force in Redis, whatever goes back, is lost, or runs beside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from engine import redis_keys as keys
from engine.errors import Unavailable
from engine.limits.keeper import LimitKeeper
from engine.limits.records import InForce, LimitChanges, LimitRow, ShardLimits
from engine.limits.table import LimitTable
from engine.organisations import Limits
from engine.stores.redis.limits import RedisLimits
from engine.stores.redis.link import RedisLink
from engine.stream_id import StreamId
from tests.conftest import own_database

SHARDS = 2


class Books:
    """What PostgreSQL has."""

    def __init__(self) -> None:
        self.version = 0
        self.rows: dict[int, tuple[int, LimitRow]] = {}
        self.away = False
        self.calls: list[int] = []

    def put(self, organisation_id: int, *, paused: bool = False, **limits: Any) -> None:
        self.version += 1
        row = LimitRow(organisation_id, Limits(**limits), paused)
        self.rows[organisation_id] = self.version, row

    async def changes(self, since: int) -> LimitChanges:
        if self.away:
            raise Unavailable("away")
        self.calls.append(since)
        return LimitChanges(self.version, [row for version, row in self.rows.values() if version > since])


class Late(RedisLimits):
    """Another worker is quicker, once: it does `meanwhile` before this one writes."""

    meanwhile: Any = None

    async def put(self, limits: Sequence[ShardLimits]) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        await super().put(limits)


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, 8) as link:
        yield link


class Worker:
    def __init__(self, link: RedisLink, books: Books) -> None:
        self.paused: list[set[int]] = []
        self.readable = True
        self.table = LimitTable(books)
        self.redis = Late(link, SHARDS, lambda organisation_id: organisation_id % SHARDS)
        self.keeper = LimitKeeper(
            self.table, self.redis, lambda o: o % SHARDS, self._note, readable=lambda _: self.readable
        )

    def _note(self, paused: dict[int, StreamId]) -> None:
        self.paused.append(set(paused))

    async def in_force(self) -> tuple[set[str], set[int]]:
        """The versions of the shards, and who is paused."""
        seen = await self.redis.in_force()
        return {version for version, _ in seen}, set().union(*(paused for _, paused in seen))


async def weights(link: RedisLink) -> dict[int, str]:
    """By organisation, what the lines go by; the same in both queues."""
    found: list[dict[int, str]] = []
    for queue in ("express", "normal"):
        flat: list[bytes] = []
        for shard in range(SHARDS):
            flat += await link.call("HGETALL", keys.wait_key(shard, queue))  # type: ignore[arg-type]
        pairs = dict(zip(flat[::2], flat[1::2], strict=True))
        found.append({int(k[7:]): v.decode() for k, v in pairs.items() if k.startswith(b"limits:")})
    assert found[0] == found[1]
    return found[0]


async def test_what_is_set_comes_into_force_and_what_is_taken_back_goes(link: RedisLink) -> None:
    books = Books()
    one, other = Worker(link, books), Worker(link, books)
    await one.keeper.look()
    assert await one.in_force() == ({""}, set())
    books.put(7, weight=2.5)
    books.put(8, paused=True, rate_max=5.0)
    await one.keeper.look()
    assert await one.in_force() == ({"2"}, {8})
    assert await weights(link) == {7: "2.5", 8: "1 paused"}
    await other.keeper.look()
    assert one.paused == other.paused == [{8}]
    books.put(7)
    books.put(8, weight=0.5)
    books.put(9, paused=True)
    # Only what has changed is read, and written.
    await other.keeper.look()
    assert books.calls[-1] == 2
    assert await weights(link) == {8: "0.5", 9: "1 paused"}
    await one.keeper.look()
    assert one.paused == other.paused == [{8}, {9}]
    assert (one.table.weight_of(8), one.table.weight_of(7)) == (0.5, 1.0)
    assert set(one.table.rows) == {8, 9}


async def test_a_postgres_that_went_back_counts(link: RedisLink) -> None:
    books = Books()
    worker, fresh = Worker(link, books), Worker(link, books)
    books.put(7, weight=2.0)
    books.put(9, paused=True)
    await worker.keeper.look()
    # The pause is lost.
    del books.rows[9]
    books.version = 1
    await worker.keeper.look()
    assert await worker.in_force() == ({"1"}, set())
    assert await weights(link) == {7: "2"}
    assert worker.paused == [{9}, set()]
    await fresh.keeper.look()
    assert set(fresh.table.rows) == {7}


async def test_a_redis_that_lost_everything_is_given_it_again_also_without_postgres(link: RedisLink) -> None:
    books = Books()
    worker = Worker(link, books)
    books.put(7, weight=2.0)
    books.put(8, paused=True)
    await worker.keeper.look()
    await link.call("FLUSHDB")
    books.away = True
    await worker.keeper.look()
    assert await worker.in_force() == ({"2"}, {8})
    assert await weights(link) == {7: "2", 8: "1 paused"}
    # One that knows less takes nothing back.
    books.away, books.version = False, 2
    late = Worker(link, books)
    books.away = True
    await late.keeper.look()
    assert late.paused == [{8}]
    assert await worker.in_force() == ({"2"}, {8})


async def test_whoever_is_late_puts_nothing_in_place_of_what_is_newer(link: RedisLink) -> None:
    books = Books()
    slow, quick = Worker(link, books), Worker(link, books)
    books.put(7, weight=2.0)

    async def newer() -> None:
        books.put(7, weight=3.0)
        await quick.keeper.look()

    slow.redis.meanwhile = newer
    await slow.keeper.look()
    assert (await weights(link), await slow.in_force()) == ({7: "3"}, ({"2"}, set()))
    await slow.keeper.look()
    assert await weights(link) == {7: "3"}


async def test_beside_an_older_version_nobody_is_paused(link: RedisLink) -> None:
    books = Books()
    worker = Worker(link, books)
    books.put(8, weight=2.0, paused=True)
    await worker.keeper.look()
    worker.readable = False
    await worker.keeper.look()
    assert await weights(link) == {8: "2"}
    worker.readable = True
    await worker.keeper.look()
    assert await weights(link) == {8: "2 paused"}
    assert worker.paused == [{8}, set(), {8}]


async def test_looks_go_on_when_redis_is_away() -> None:
    class Gone:
        calls = 0

        async def in_force(self) -> list[InForce]:
            self.calls += 1
            raise Unavailable("away")

        async def put(self, limits: Sequence[ShardLimits]) -> None:
            raise AssertionError("nothing is known")

    gone = Gone()
    keeper = LimitKeeper(LimitTable(Books()), gone, lambda o: 0, lambda paused: None, look_s=0.001)
    running = asyncio.create_task(keeper.run())
    async with asyncio.timeout(60):
        while gone.calls < 3:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.001)
    running.cancel()
