"""The Redis side of the activity: reading, leases of shards, plans, trimming, search."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import msgspec
import pytest

from engine.activity.blocks import plan_of
from engine.activity.records import ActivityEntry, MessageKey
from engine.errors import ConfigError, Unavailable
from engine.leases.ports import HeldShards
from engine.redis_keys import activity_key
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stream_id import STREAM_START
from tests.activity.world import REDIS_DATABASE, SHARDS, T0, World, blob_of, in_database, make_row, until


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    world = World(in_database(redis_url, REDIS_DATABASE), "http://127.0.0.1:1/never-asked")
    await world.redis.flushdb()
    yield world
    await world.close()


START = dict.fromkeys(range(SHARDS), STREAM_START)
ALL = frozenset(range(SHARDS))


async def all_entries(world: World) -> list[ActivityEntry]:
    return await world.stream.read(START, 10_000, 0)


async def test_reading_goes_on_behind_what_was_read_in_every_shard(world: World) -> None:
    await world.put(10)
    first = await world.stream.read(START, 2, 0)
    assert [sum(e.shard == s for e in first) for s in range(SHARDS)] == [2, 2, 2, 2]
    after = {entry.shard: entry.id for entry in first}
    second = await world.stream.read(after, 100, 0)
    assert len(second) == 2
    assert {(e.shard, e.id) for e in first}.isdisjoint((e.shard, e.id) for e in second)


async def test_a_read_that_waits_returns_with_the_first_entry(world: World) -> None:
    reading = asyncio.create_task(world.stream.read(START, 10, 10_000))
    await asyncio.sleep(0)
    await world.put(1)
    async with asyncio.timeout(60):
        assert len(await reading) == 1


async def test_empty_streams_are_read_as_nothing(world: World) -> None:
    assert await world.stream.read(START, 10, 0) == []
    assert await world.stream.read(START, 10, 20) == []


async def test_archivers_divide_the_shards_and_each_shard_has_one_owner(world: World) -> None:
    lease = partial(world.stream.lease, ttl_ms=10_000)
    assert await lease("a") == HeldShards(ALL, frozenset())
    assert await lease("b") == HeldShards(), "nothing is free"
    assert await lease("a") == HeldShards(frozenset({0, 2}), frozenset({1, 3}))
    assert await lease("b") == HeldShards(), "they are not given back yet"
    await world.stream.give_back("b", ALL)
    assert await lease("b") == HeldShards(), "they are not its own to give back"
    await world.stream.give_back("a", [1, 3])
    assert await lease("b") == HeldShards(frozenset({1, 3}), frozenset())
    await world.stream.release("a")
    assert await lease("b") == HeldShards(ALL, frozenset())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
async def test_no_archiver_has_more_than_its_part(world: World, count: int) -> None:
    names = [f"a{n}" for n in range(count)]
    held: dict[str, HeldShards] = {}
    for _ in range(3):
        for name in names:
            held[name] = await world.stream.lease(name, 60_000)
            await world.stream.give_back(name, held[name].leaving)
    assert sorted(shard for has in held.values() for shard in has.shards) == sorted(ALL)
    assert max(len(has.shards) for has in held.values()) == -(-SHARDS // count)


async def test_leases_that_are_not_renewed_end(world: World) -> None:
    assert await world.stream.lease("a", 30)

    async def all_are_its_own() -> bool:
        return (await world.stream.lease("b", 60_000)).shards == ALL

    await until(all_are_its_own)


async def test_what_was_archived_by_another_meanwhile_is_not_planned_again(world: World) -> None:
    """An archiver reads, and sleeps; another archives that and ends; the first has its shards again."""
    await world.put(8)
    await world.stream.lease("a", 10_000)
    entries = await all_entries(world)
    await world.stream.give_back("a", ALL)
    await world.stream.release("a")
    await world.stream.lease("b", 10_000)
    plan = plan_of(entries[:5])
    assert await world.stream.propose("b", plan)
    assert await world.stream.finish(plan, [])
    await world.stream.release("b")
    await world.stream.lease("a", 10_000)
    assert not await world.stream.propose("a", plan_of(entries))
    assert await world.stream.propose("a", plan_of(await all_entries(world)))


async def test_an_archiver_of_a_version_that_had_one_is_not_beside_these(world: World) -> None:
    await world.put(8)
    plan = plan_of(await all_entries(world))
    await world.redis.set("archiver:lock", "old")
    assert await world.stream.lease("a", 10_000) == HeldShards()
    # It has written its plan, and is gone.
    await world.redis.set("archiver:plan", msgspec.msgpack.encode(plan))
    await world.redis.delete("archiver:lock")
    assert (await world.stream.lease("a", 10_000)).shards == ALL
    assert await world.redis.get("archiver:lock") == b"shards", "the old one does not get it"
    assert not await world.stream.propose("a", plan_of((await all_entries(world))[:1]))
    assert await world.stream.plans([3]) == [plan]
    assert await world.redis.get("archiver:plan") is None
    assert await world.redis.pttl("archiver:lock") == -1, "it stays shut while a plan stands"
    await world.stream.lease("a", 10_000)
    assert await world.redis.pttl("archiver:lock") == -1
    assert await world.stream.finish(plan, [])
    assert await world.redis.pttl("archiver:lock") > 0
    await world.stream.release("a")
    assert await world.redis.get("archiver:lock") is None


async def test_a_plan_needs_the_leases_of_its_shards_and_no_other_plan(world: World) -> None:
    await world.put(4)
    entries = await all_entries(world)
    plan, other = plan_of(entries), plan_of(entries[:1])
    assert not await world.stream.propose("a", plan)
    await world.stream.lease("a", 10_000)
    assert not await world.stream.propose("b", plan)
    assert await world.stream.propose("a", plan)
    assert not await world.stream.propose("a", other)
    for shard in ALL:
        assert await world.stream.plans([shard]) == [plan]


async def test_the_entries_of_a_plan_are_exactly_its_ranges(world: World) -> None:
    await world.put(12)
    entries = await all_entries(world)
    inner = [entry for s in range(SHARDS) for entry in entries if entry.shard == s][1:-1]
    plan = plan_of(inner)
    assert await world.stream.entries_of(plan) == inner


async def test_finishing_removes_the_plans_entries_and_the_plan_once(world: World) -> None:
    await world.put(8)
    entries = await all_entries(world)
    later = {s: max(e.id for e in entries if e.shard == s) for s in range(SHARDS)}
    plan = plan_of([e for e in entries if e.id != later[e.shard]])
    await world.stream.lease("a", 10_000)
    await world.stream.propose("a", plan)
    assert await world.stream.finish(plan, [])
    assert {e.shard: e.id for e in await all_entries(world)} == later
    assert not await world.stream.plans(ALL)
    assert not await world.stream.finish(plan, [])
    assert await world.waiting() == SHARDS


async def test_finishing_another_plan_than_the_one_that_stands_changes_nothing(world: World) -> None:
    await world.put(8)
    entries = await all_entries(world)
    await world.stream.lease("a", 10_000)
    await world.stream.propose("a", plan_of(entries))
    assert not await world.stream.finish(plan_of(entries[:3]), [])
    assert await world.waiting() == 8
    assert await world.stream.plans(ALL) == [plan_of(entries)]


async def test_a_plan_that_a_newer_version_wrote_is_understood_and_finished(world: World) -> None:
    await world.put(8)
    plan = plan_of(await all_entries(world))
    parts = [[part.shard, part.first, part.last, "new"] for part in plan.ranges]
    written = msgspec.msgpack.encode([parts, "new"])
    await world.redis.hset("archiver:plans", mapping=dict.fromkeys(range(SHARDS), written))
    assert await world.stream.plans(ALL) == [plan]
    assert await world.stream.finish(plan, [])
    assert await world.waiting() == 0
    assert not await world.stream.plans(ALL)


async def test_an_unreadable_entry_is_set_aside_and_not_lost(world: World) -> None:
    await world.redis.xadd(activity_key(2), {b"b": b"junk"})
    await world.put(3, shards=3)
    entries = await all_entries(world)
    bad = next(e for e in entries if e.blob == b"junk")
    plan = plan_of(entries)
    await world.stream.lease("a", 10_000)
    await world.stream.propose("a", plan)
    assert await world.stream.finish(plan, [bad])
    [(_, fields)] = await world.redis.xrange("archiver:unreadable")
    assert fields == {b"k": b"activity:{2}", b"i": b"%d-%d" % bad.id, b"b": b"junk"}
    assert await world.waiting() == 0


async def test_a_full_redis_can_still_be_emptied(world: World) -> None:
    await world.put(8)
    entries = await all_entries(world)
    plan = plan_of(entries)
    before = (await world.redis.config_get("maxmemory"))["maxmemory"]
    await world.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(Exception, match="maxmemory"):
            await world.put(1)
        assert (await world.stream.lease("a", 10_000)).shards == ALL
        assert await world.stream.propose("a", plan)
        assert await world.stream.finish(plan, entries[:1])
    finally:
        await world.redis.config_set("maxmemory", before)
    assert await world.waiting() == 0


async def test_the_backlog_tells_what_waits_and_since_when(world: World) -> None:
    await world.put(6)
    entries = await all_entries(world)
    backlog = await world.stream.backlog()
    assert [part.entries for part in backlog] == [2, 2, 1, 1]
    for part in backlog:
        assert part.first == min(e.id for e in entries if e.shard == part.shard)
    await world.redis.flushdb()
    assert [(part.entries, part.first) for part in await world.stream.backlog()] == [(0, None)] * SHARDS


async def test_a_message_is_found_in_the_tail_from_its_acceptance_on(world: World) -> None:
    # The three events of one message, among those of others.
    wanted = [make_row(n, organisation_id=1000) for n in (0, 1, 2)]
    namesake = make_row(0, organisation_id=5)
    ms = T0 // 1000
    for at, rows in (
        (ms - 5000, [make_row(2, organisation_id=1000, attempt=9)]),
        (ms - 1500, [wanted[0], make_row(7)]),
        (ms + 10, [make_row(9), namesake]),
        (ms + 60_000, [wanted[1]]),
        (ms + 90_000, [make_row(4), wanted[2]]),
    ):
        await world.redis.xadd(activity_key(1), {b"b": blob_of(rows)}, id=f"{at}-0")
    key = MessageKey(1000, wanted[0].message_id, T0)
    found = (await world.stream.recent_rows_of(1, [key]))[key]
    assert found.complete
    assert found.rows == wanted
    assert (await world.stream.recent_rows_of(0, [key]))[key].rows == []


async def test_a_message_is_found_before_its_acceptance_when_the_clock_of_redis_was_set_back(
    world: World,
) -> None:
    row = make_row(0, organisation_id=7)
    key, ahead_us = activity_key(1), row.accepted_at_us + 3_600_000_000
    entry_id = f"{row.accepted_at_us // 1000}-0"
    await world.redis.xadd(key, {b"b": blob_of([row])}, id=entry_id)
    asked = [MessageKey(7, row.message_id, ahead_us)]
    found = await world.stream.recent_rows_of(1, asked)
    assert [len(of.rows) for of in found.values()] == [1]


async def test_the_search_stops_at_its_bound_and_says_so(world: World) -> None:
    pipe = world.redis.pipeline(transaction=False)
    for n in range(500):
        pipe.xadd(activity_key(0), {b"b": blob_of([make_row(3 * n)])}, id=f"{T0 // 1000 + n}-0")
    await pipe.execute()
    row = make_row(3 * 499)
    key = MessageKey(row.organisation_id, row.message_id, T0)
    assert not (await world.stream.recent_rows_of(0, [key], entries_max=300))[key].complete
    whole = (await world.stream.recent_rows_of(0, [key], entries_max=1000))[key]
    assert whole.complete
    assert whole.rows == [row]


async def test_a_redis_that_is_away_is_unavailable() -> None:
    stream = RedisActivityStream("redis://127.0.0.1:1/0", SHARDS, timeout_s=1.0)
    with pytest.raises(Unavailable, match=r"Redis at .* cannot be reached"):
        await stream.plans(ALL)
    await stream.close()


async def test_a_redis_that_never_answers_is_unavailable_within_the_deadline() -> None:
    held = []
    silent = await asyncio.start_server(lambda reader, writer: held.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    stream = RedisActivityStream(f"redis://127.0.0.1:{port}/0", SHARDS, timeout_s=0.2)
    with pytest.raises(Unavailable, match=r"within 0\.2 s"):
        await stream.plans(ALL)
    await stream.close()
    silent.close()
    for writer in held:
        writer.close()


async def test_a_wrong_password_is_the_operators_to_mend(redis_url: str) -> None:
    host = redis_url.rpartition("@")[2]
    stream = RedisActivityStream(f"redis://:wrong@{host}", SHARDS)
    with pytest.raises(ConfigError, match="password"):
        await stream.plans(ALL)
    await stream.close()


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="redis://"):
        RedisActivityStream("http://127.0.0.1", SHARDS)


async def test_rows_are_whole_only_when_nothing_was_taken_from_the_stream_while_it_was_read(
    world: World,
) -> None:
    """An archiver takes the begin of a stream between two pages of a search, or after the last one."""
    pages, trimmed_to = list[str](), [""]

    class Trimmed(RedisActivityStream):
        async def _page(self, shard: int, start: str, end: str, page_size: int) -> list[ActivityEntry]:
            if start == "-":
                await world.redis.xtrim(activity_key(0), minid=trimmed_to[0], approximate=False)
            pages.append(start)
            return await super()._page(shard, start, end, page_size)

    accepted, sent = (make_row(n, organisation_id=1000) for n in (0, 2))
    for at, row in ((10, accepted), (11, make_row(3)), (12, sent)):
        await world.redis.xadd(activity_key(0), {b"b": blob_of([row])}, id=f"{T0 // 1000 + at}-0")
    key = MessageKey(accepted.organisation_id, accepted.message_id, T0)
    stream = Trimmed(world.redis_url, SHARDS)
    try:
        for at, whole in ((10, True), (11, False)):
            trimmed_to[0] = f"{T0 // 1000 + at}-0"
            found = (await stream.recent_rows_of(0, [key]))[key]
            assert (found.rows, found.complete, found.whole) == ([accepted, sent], True, whole)
        assert not (await stream.recent_rows_of(0, [key]))[key].whole
    finally:
        await stream.close()
    assert pages.count("-") == 2, "it is asked only when an acceptance was found"
