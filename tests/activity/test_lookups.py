"""Look-ups of many callers at once, on a real stream and a real table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from engine.activity.blocks import block_of
from engine.activity.lookups import Lookups
from engine.activity.records import ActivityEntry, MessageKey, RecentRows
from engine.errors import Unavailable
from engine.records import ActivityRow
from engine.redis_keys import activity_key
from engine.shards import shard_of
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stream_id import StreamId
from tests.activity.world import SHARDS, World, blob_of, make_row, new_world


class CountingStore(ClickHouseActivityStore):
    """Notes how many messages each query asked for; a query waits until it may go."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[int] = []
        self.began = asyncio.Semaphore(0)
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def rows_of(
        self, messages: Sequence[MessageKey], timeout_s: float | None = None
    ) -> dict[MessageKey, list[ActivityRow]]:
        self.asked.append(len(messages))
        self.began.release()
        await self.may_go.wait()
        return await super().rows_of(messages, timeout_s)


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


@pytest.fixture
async def store(world: World) -> AsyncIterator[CountingStore]:
    store = CountingStore(world.clickhouse_url)
    yield store
    await store.close()


@pytest.fixture
async def lookups(world: World, store: CountingStore) -> AsyncIterator[Lookups]:
    lookups = Lookups(world.stream, store, SHARDS, 10)
    yield lookups
    await lookups.close()


def key_of(row: ActivityRow) -> MessageKey:
    return MessageKey(row.organisation_id, row.message_id, row.accepted_at_us)


async def filled(world: World, messages: int) -> list[list[ActivityRow]]:
    """Messages of two events each, the first in the table, the second still in the stream."""
    rows = [
        [make_row(3 * n, organisation_id=n % 7), make_row(3 * n + 2, organisation_id=n % 7)]
        for n in range(messages)
    ]
    archived = blob_of([first for first, _ in rows])
    await world.store.insert(block_of([ActivityEntry(shard=0, id=StreamId(1, 0), blob=archived)])[0], "t")
    for _, second in rows:
        key = activity_key(shard_of(second.organisation_id, SHARDS))
        await world.redis.xadd(key, {b"b": blob_of([second])})
    return rows


async def test_callers_that_come_while_a_round_is_under_way_share_the_next(
    world: World, store: CountingStore, lookups: Lookups
) -> None:
    rows = await filled(world, 60)
    store.may_go.clear()
    asking = [asyncio.create_task(lookups.rows_of(key_of(first))) for first, _ in rows[:1]]
    await store.began.acquire()
    asking += [asyncio.create_task(lookups.rows_of(key_of(first))) for first, _ in rows[1:2]]
    await store.began.acquire()
    # Some messages are asked for twice.
    asking += [asyncio.create_task(lookups.rows_of(key_of(first))) for first, _ in [*rows[2:], *rows[:10]]]
    await asyncio.sleep(0)
    store.may_go.set()
    found = await asyncio.gather(*asking)
    assert store.asked == [1, 1, 60]
    for known, expected in zip(found, [*rows, *rows[:10]], strict=True):
        assert sorted(known.rows, key=lambda row: row.at_us) == expected
        assert known.complete


async def test_a_caller_that_gives_up_takes_nothing_from_the_others(
    world: World, store: CountingStore, lookups: Lookups
) -> None:
    rows = await filled(world, 2)
    store.may_go.clear()
    gone, stays = (asyncio.create_task(lookups.rows_of(key_of(first))) for first, _ in rows)
    await store.began.acquire()
    gone.cancel()
    store.may_go.set()
    assert len((await stays).rows) == 2
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_message_of_another_organisation_has_no_rows(world: World, lookups: Lookups) -> None:
    [[first, _]] = await filled(world, 1)
    foreign = await lookups.rows_of(
        MessageKey(first.organisation_id + 1, first.message_id, first.accepted_at_us)
    )
    assert (foreign.rows, foreign.complete) == ([], True)


async def test_an_id_of_a_time_that_cannot_be_takes_nothing_from_the_others(
    world: World, store: CountingStore, lookups: Lookups
) -> None:
    [[first, _]] = await filled(world, 1)
    times = (0, 999, 2**32 * 1_000_000 - 1, (2**48 - 1) * 1000)
    forged = [MessageKey(1, f"forged {at_us}", at_us) for at_us in times]
    *nothing, found = await asyncio.gather(*map(lookups.rows_of, [*forged, key_of(first)]))
    assert store.asked == [5]
    assert all(known.rows == [] and known.complete for known in nothing)
    assert len(found.rows) == 2


async def test_the_store_is_not_asked_of_a_message_whose_acceptance_waits_in_the_stream(
    world: World, store: CountingStore, lookups: Lookups
) -> None:
    young = [make_row(n, organisation_id=1000) for n in (300, 301, 302)]
    key = activity_key(shard_of(1000, SHARDS))
    [[first, second]] = await filled(world, 1)
    for row in young:
        await world.redis.xadd(key, {b"b": blob_of([row])}, id=f"{row.at_us // 1000}-*")
    old, new = await asyncio.gather(lookups.rows_of(key_of(first)), lookups.rows_of(key_of(young[0])))
    assert store.asked == [1]
    assert (sorted(old.rows, key=lambda row: row.at_us), old.complete) == ([first, second], True)
    assert (new.rows, new.complete, new.missing) == (young, True, None)
    await lookups.rows_of(key_of(young[1]))
    assert store.asked == [1]
    await world.redis.xtrim(key, maxlen=2, approximate=False)
    # What has just left the stream is known from before.
    assert (await lookups.rows_of(key_of(young[2]))).rows == young
    assert store.asked == [1, 1], "its acceptance is not in the stream any more"


class LateStream(RedisActivityStream):
    """Is not looked at before `may_be_read` is set."""

    def __init__(self, url: str) -> None:
        super().__init__(url, SHARDS)
        self.may_be_read = asyncio.Event()
        self.may_be_read.set()

    async def recent_rows_of(self, *args: Any, **kwargs: Any) -> dict[MessageKey, RecentRows]:
        await self.may_be_read.wait()
        return await super().recent_rows_of(*args, **kwargs)


class OvertakenStore(CountingStore):
    """Has answered when `archive`, if it is given, archives something; then the stream may be looked at."""

    archive: Callable[[], Awaitable[None]] | None = None

    def __init__(self, url: str, stream: LateStream) -> None:
        super().__init__(url)
        self._stream = stream

    async def rows_of(
        self, messages: Sequence[MessageKey], timeout_s: float | None = None
    ) -> dict[MessageKey, list[ActivityRow]]:
        found = await super().rows_of(messages, timeout_s)
        if self.archive:
            await self.archive()
            self._stream.may_be_read.set()
        return found


@pytest.mark.parametrize(("all_leave", "queries"), [(False, 1), (True, 2)])
async def test_what_is_archived_between_the_answers_of_the_store_and_of_the_stream_is_found(
    world: World, all_leave: bool, queries: int
) -> None:
    [[first, second]] = await filled(world, 1)
    key = activity_key(shard_of(first.organisation_id, SHARDS))
    behind = (await world.redis.xadd(key, {b"b": blob_of([make_row(30)])})).decode()
    stream = LateStream(world.redis_url)
    store = OvertakenStore(world.clickhouse_url, stream)
    lookups = Lookups(stream, store, SHARDS, 10)

    async def archive() -> None:
        entry = ActivityEntry(shard=0, id=StreamId(2, 0), blob=blob_of([second]))
        await world.store.insert(block_of([entry])[0], "second")
        await world.redis.xtrim(key, maxlen=0 if all_leave else 1, approximate=False)
        assert all_leave or (await world.redis.xrange(key))[0][0].decode() == behind

    try:
        # From then on it is known what the stream has.
        assert len((await lookups.rows_of(key_of(first))).rows) == 2
        store.asked.clear()
        stream.may_be_read.clear()
        store.archive = archive
        found = await asyncio.wait_for(lookups.rows_of(key_of(first)), 60)
        assert sorted(found.rows, key=lambda row: row.at_us) == [first, second]
        assert found.complete
        assert len(store.asked) == queries
    finally:
        await lookups.close()
        await stream.close()
        await store.close()


async def test_without_the_store_the_stream_says_what_it_has(world: World) -> None:
    [[_, second]] = await filled(world, 1)
    away = ClickHouseActivityStore("http://127.0.0.1:1/none")
    lookups = Lookups(world.stream, away, SHARDS, 1.0)
    found = await lookups.rows_of(key_of(second))
    assert (found.rows, found.complete) == ([second], False)
    assert isinstance(found.missing, Unavailable)
    await lookups.close()


async def test_a_caller_that_waits_when_the_process_ends_is_told(
    world: World, store: CountingStore, lookups: Lookups
) -> None:
    [[first, _]] = await filled(world, 1)
    store.may_go.clear()
    asking = asyncio.create_task(lookups.rows_of(key_of(first)))
    await store.began.acquire()
    # These two wait for a round: the one has not begun, the other cannot.
    waiting = [asyncio.create_task(lookups.rows_of(MessageKey(n, "none", 0))) for n in (2, 3)]
    await asyncio.sleep(0)
    await lookups.close()
    for caller in (asking, *waiting):
        with pytest.raises(Unavailable, match="process ends"):
            await asyncio.wait_for(caller, 60)
    assert len(store.asked) == 1
