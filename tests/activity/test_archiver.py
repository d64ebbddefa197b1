"""Each row put on the streams is in the tables exactly once, wherever archivers stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from engine.activity.archiver import Archiver, Limits
from engine.activity.records import MessageKey
from engine.errors import Unavailable
from engine.redis_keys import activity_key
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from supervisor.embedded.servers import start_clickhouse
from tests.activity.archiver_process import Gated
from tests.activity.world import QUICK, SHARDS, World, blob_of, make_row, new_world, until
from tests.forked import Process, forked

# Between any two steps of a round.
POINTS = ["read:after", "propose:before", "propose:after", "insert:before", "insert:after", "finish:before"]


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


@asynccontextmanager
async def running(archiver: Archiver) -> AsyncIterator[asyncio.Event]:
    """The archiver at work; at the end it is drained."""
    draining = asyncio.Event()
    work = asyncio.create_task(archiver.run(draining))
    try:
        yield draining
    finally:
        draining.set()
        async with asyncio.timeout(60):
            await work


async def drain(
    world: World, owner: str = "last", limits: Limits = QUICK, deadline_s: float = 60.0
) -> Archiver:
    """Archive all there is with a new archiver."""
    archiver = Archiver(world.stream, world.store, owner, limits)
    async with running(archiver):
        await until(lambda: _nothing_waits(world), deadline_s)
    return archiver


async def _nothing_waits(world: World) -> bool:
    return await world.waiting() == 0 and not await world.stream.plans(range(SHARDS))


def process(world: World, owner: str, point: str) -> AbstractAsyncContextManager[Process]:
    """An archiver process."""
    return forked("tests.activity.archiver_process", world.redis_url, world.clickhouse_url, owner, point)


async def test_the_log_says_for_how_long_activity_waits(world: World) -> None:
    waits_ms = 3_600_000
    entry = f"{time.time_ns() // 1_000_000 - waits_ms}-0"
    await world.redis.xadd(activity_key(0), {b"b": blob_of([make_row(0)])}, id=entry)
    # Nobody listens there.
    away = ClickHouseActivityStore("http://127.0.0.1:9")
    archiver = Archiver(world.stream, away, "a", msgspec.structs.replace(QUICK, drain_s=0.0))
    with capture_logs() as said, contextlib.suppress(Unavailable):
        async with running(archiver):
            await until(lambda: _is_said(said))
    [warning] = [line for line in said if line["event"].startswith("archiver cannot go on")]
    assert warning["entries_waiting"] == 1
    assert waits_ms <= warning["oldest_ms"] < 2 * waits_ms
    await away.close()


async def _is_said(lines: list[Any]) -> bool:
    return bool(lines)


async def test_rows_of_all_shards_go_in_as_one_block(world: World) -> None:
    await world.put(40)
    archiver = await drain(world)
    assert (archiver.counts.rows, archiver.counts.blocks) == (200, 1)
    await world.assert_each_row_once()


async def test_a_backlog_is_cut_into_blocks_of_the_size_asked_for(world: World) -> None:
    await world.put(200, rows=10)
    archiver = await drain(world, limits=_with(rows_max=500))
    assert archiver.counts.rows == 2000
    assert 4 <= archiver.counts.blocks <= 6
    await world.assert_each_row_once()


async def test_one_busy_shard_does_not_keep_the_others_waiting(world: World) -> None:
    await world.put(300, rows=10, shards=1)
    await world.put(4, rows=1)
    await drain(world, limits=_with(rows_max=200))
    await world.assert_each_row_once()


async def test_a_backlog_is_read_in_small_parts_though_the_last_entries_were_small(world: World) -> None:
    read: list[int] = []

    class Reading(Gated):
        async def read(self, *args: Any) -> Any:
            found = await world.stream.read(*args)
            read.append(len(found))
            return found

    async def free(here: str) -> None:
        pass

    archiver = Archiver(Reading(world.stream, free), world.store, "a", _with(read_entries=10))
    async with running(archiver):
        await world.put(8, rows=1)
        await until(lambda: _is(archiver.counts.rows == 8))
        await world.put(400, rows=20)
        await until(lambda: _nothing_waits(world))
    assert max(read) == 10 * SHARDS
    await world.assert_each_row_once()


async def test_few_rows_are_read_few_times_while_their_block_lingers(world: World) -> None:
    read: list[int] = []

    class Reading(Gated):
        async def read(self, *args: Any) -> Any:
            found = await world.stream.read(*args)
            read.append(len(found))
            return found

        async def propose(self, *args: Any) -> Any:
            read.append(-1)
            return await world.stream.propose(*args)

    async def free(here: str) -> None:
        pass

    limits = _with(linger_s=0.6, poll_s=0.01, read_rows=20_000, lease_s=600.0)
    archiver = Archiver(Reading(world.stream, free), world.store, "a", limits)
    async with running(archiver):
        await world.put(1, rows=1)
        await until(lambda: _is(archiver.counts.blocks == 1))
        await world.put(8, rows=1)
        await until(lambda: _is(archiver.counts.blocks == 2))
    second = read[read.index(-1) + 1 :]
    first = next(place for place, found in enumerate(second) if found > 0)
    # By the first it is not known yet how fast they come; by the second it is.
    assert second.index(-1) - first <= 3


async def test_rows_that_came_during_an_insert_do_not_wait_as_long_again(world: World) -> None:
    """What waits has waited since the last block was cut."""
    limits = _with(linger_s=60.0, lag_s=90.0, lease_s=600.0, poll_s=60.0)
    passed_s = [0.0]

    async def come(here: str) -> None:
        if here == "insert:before" and not passed_s[0]:
            await world.put(8)
            passed_s[0] = limits.linger_s

    clock = lambda: time.monotonic() + passed_s[0]  # noqa: E731
    archiver = Archiver(world.stream, Gated(world.store, come), "a", limits, clock)
    await world.put(8)
    async with running(archiver):
        await until(lambda: _is(archiver.counts.blocks == 2))
    await world.assert_each_row_once()


async def test_a_drain_archives_what_is_there_and_gives_the_lease_up(world: World) -> None:
    archiver = Archiver(world.stream, world.store, "a", _with(linger_s=60.0, lag_s=90.0))
    async with running(archiver):
        await until(lambda: _is(bool(archiver.shards)))
        await world.put(12)
    await world.assert_each_row_once()
    assert not archiver.shards
    assert (await world.stream.lease("b", 1000)).shards == set(range(SHARDS)), "free at once"


async def test_a_drain_ends_in_time_though_the_store_is_away(world: World) -> None:
    away = ClickHouseActivityStore("http://u:p@127.0.0.1:1/db", timeout_s=1.0)
    archiver = Archiver(world.stream, away, "a", _with(drain_s=0.5))
    async with running(archiver):
        await world.put(12)
        await until(lambda: _plan_stands(world))
    await away.close()
    await drain(world)
    await world.assert_each_row_once()


async def test_a_drain_does_not_wait_for_a_store_that_was_away_before(world: World) -> None:
    tries = [0]

    async def away(here: str) -> None:
        if here == "insert:before":
            tries[0] += 1
            raise Unavailable("ClickHouse is away.")

    await world.put(12)
    archiver = Archiver(world.stream, Gated(world.store, away), "a", _with(backoff_max_s=0.05, drain_s=30.0))
    async with running(archiver):
        await until(lambda: _is(tries[0] >= 2))
        before = tries[0]
    # Each would have been tried again twenty times a second.
    assert tries[0] <= before + 1
    await drain(world)
    await world.assert_each_row_once()


@pytest.mark.parametrize("point", [*POINTS, "finish:after"])
async def test_an_archiver_killed_at_any_step_loses_and_doubles_nothing(world: World, point: str) -> None:
    await world.put(24)
    async with process(world, "killed", point) as first:
        await first.says(f"at {point}")
        first.signal(signal.SIGKILL)
        await first.ended()
    await world.put(8)
    await drain(world)
    await world.assert_each_row_once()


@pytest.mark.parametrize("point", POINTS)
async def test_an_archiver_frozen_at_any_step_and_woken_after_the_take_over_does_no_harm(
    world: World, point: str
) -> None:
    await world.put(24)
    async with process(world, "frozen", point) as first:
        await first.says(f"at {point}")
        first.signal(signal.SIGSTOP)
        await world.put(8)
        await drain(world, "second")
        second = Archiver(world.stream, world.store, "third", QUICK)
        async with running(second):
            await until(lambda: _is(bool(second.shards)))
            first.go_on()
            first.signal(signal.SIGCONT)
            await world.put(8)
            await until(lambda: _nothing_waits(world))
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
    await world.assert_each_row_once()


async def test_an_archiver_asleep_beyond_its_lease_looks_at_it_before_it_sends_its_block(
    world: World,
) -> None:
    """The token makes a late block harmless for 1,000 blocks, the look makes it rare."""
    calls: list[str] = []
    asleep_s = [0.0]

    async def watch(here: str) -> None:
        calls.append(here)
        if here == "propose:after" and not asleep_s[0]:
            asleep_s[0] = QUICK.lease_s + 1

    stream, store = Gated(world.stream, watch), Gated(world.store, watch)
    archiver = Archiver(stream, store, "a", QUICK, lambda: time.monotonic() + asleep_s[0])
    await world.put(8)
    async with running(archiver):
        await until(lambda: _nothing_waits(world))
    since = calls[calls.index("propose:after") :]
    assert since.index("lease:after") < since.index("insert:before")
    await world.assert_each_row_once()


async def test_two_archivers_share_the_shards_and_double_nothing(world: World) -> None:
    both = [Archiver(world.stream, world.store, name, QUICK) for name in ("a", "b")]
    async with running(both[0]), running(both[1]):
        while not all(archiver.counts.rows for archiver in both):
            await world.put(8)
            await asyncio.sleep(0.02)
        await until(lambda: _is([len(a.shards) for a in both] == [SHARDS // 2, SHARDS // 2]))
        await until(lambda: _nothing_waits(world))
    assert sum(archiver.counts.rows for archiver in both) == world.put_rows
    await world.assert_each_row_once()


async def test_a_new_archiver_takes_its_part_and_one_that_goes_leaves_it(world: World) -> None:
    first, second = (Archiver(world.stream, world.store, name, QUICK) for name in ("a", "b"))
    async with running(first):
        await until(lambda: _is(len(first.shards) == SHARDS))
        await world.put(8)
        async with running(second):
            await until(lambda: _is((len(first.shards), len(second.shards)) == (SHARDS // 2, SHARDS // 2)))
            await world.put(8)
            await until(lambda: _nothing_waits(world))
        await until(lambda: _is(len(first.shards) == SHARDS))
        await world.put(8)
        await until(lambda: _nothing_waits(world))
    assert first.counts.rows > second.counts.rows > 0
    await world.assert_each_row_once()


async def test_another_takes_over_when_one_is_drained(world: World) -> None:
    first, second = (Archiver(world.stream, world.store, name, QUICK) for name in ("a", "b"))
    async with running(second) as second_draining:
        await until(lambda: _is(bool(second.shards)))
        async with running(first):
            await world.put(8)
            second_draining.set()
            await until(lambda: _is(bool(first.shards)))
            await world.put(8)
            await until(lambda: _nothing_waits(world))
    assert first.counts.rows > 0
    await world.assert_each_row_once()


async def test_archivers_killed_again_and_again_under_load_lose_and_double_nothing(world: World) -> None:
    rng = random.Random(20261122)
    stopping = asyncio.Event()

    async def load() -> None:
        while not stopping.is_set():
            await world.put(rng.randint(1, 16), rows=rng.randint(1, 30))
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        for i in range(6):
            async with process(world, f"p{i}", "none") as archiver:
                await archiver.says("active")
                await asyncio.sleep(rng.uniform(0.0, 0.3))
                archiver.signal(signal.SIGKILL)
                await archiver.ended()
        stopping.set()
    await drain(world)
    await world.assert_each_row_once()


async def test_answers_that_are_lost_are_made_good(world: World) -> None:
    """Each call takes effect, but its first answers never come."""
    lost = {f"{name}:after": 2 for name in ("propose", "insert", "finish", "lease", "plans", "read")}

    async def lose(here: str) -> None:
        if lost.get(here, 0):
            lost[here] -= 1
            raise Unavailable("the answer was lost")

    await world.put(24)
    archiver = Archiver(Gated(world.stream, lose), Gated(world.store, lose), "a", QUICK)
    async with running(archiver):
        await until(lambda: _nothing_waits(world))
        await world.put(24)
        await until(lambda: _nothing_waits(world))
        await until(lambda: _is(not any(lost.values())))
    await world.assert_each_row_once()


async def test_a_store_that_is_killed_and_comes_back_gets_every_row_once(
    redis_url: str, tmp_path: Path
) -> None:
    server = start_clickhouse(tmp_path)
    try:
        async with new_world(redis_url, server.url) as world:
            archiver = Archiver(world.stream, world.store, "a", QUICK)
            async with running(archiver):
                for _ in range(3):
                    await world.put(40, rows=50)
                    archived = archiver.counts.rows
                    await until(lambda archived=archived: _is(archiver.counts.rows > archived))
                    await world.put(40, rows=50)
                    os.kill(server.pid, signal.SIGKILL)
                    await world.put(8)
                    server.restart()
                await until(lambda: _nothing_waits(world))
            await world.assert_each_row_once()
    finally:
        server.stop(10)


async def test_the_store_away_is_told_once_with_the_backlog_and_once_when_it_is_back(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble, tries = [True], [0]

    async def away(here: str) -> None:
        if trouble[0] and here == "insert:before":
            tries[0] += 1
            raise Unavailable("ClickHouse is away.")

    await world.put(12)
    archiver = Archiver(world.stream, Gated(world.store, away), "a", _with(backoff_max_s=0.05))
    async with running(archiver):
        await until(lambda: _plan_stands(world))
        await until(lambda: _is(tries[0] >= 4))
        trouble[0] = False
        await until(lambda: _nothing_waits(world))
    said = "".join(capsys.readouterr())
    assert said.count("activity waits in Redis") == 1
    assert "entries_waiting" in said
    assert said.count("works again") == 1


async def test_an_entry_nobody_can_read_does_not_stop_the_others(world: World) -> None:
    await world.put(8)
    await world.redis.xadd(activity_key(1), {b"b": b"junk"})
    await world.put(8)
    archiver = await drain(world)
    assert archiver.counts.unreadable == 1
    assert await world.redis.xlen("archiver:unreadable") == 1
    await world.assert_each_row_once()


async def test_a_value_that_fits_no_column_does_not_stop_the_others(world: World) -> None:
    await world.put(8)
    await world.redis.xadd(activity_key(1), {b"b": blob_of([make_row(0, segments=70_000)])})
    archiver = await drain(world)
    assert archiver.counts.unreadable == 1
    await world.assert_each_row_once()


async def test_a_message_is_known_at_every_instant_between_stream_and_table(world: World) -> None:
    """Read the stream, then the table, while an archiver moves the rows."""
    await world.put(400, rows=3)
    row = make_row(3 * 7)
    wanted = {
        make_row(3 * 7 + n).event
        for n in range(3)
        if make_row(3 * 7 + n).organisation_id == row.organisation_id
    }
    key = MessageKey(row.organisation_id, row.message_id, row.accepted_at_us)

    async def known() -> set[str]:
        recent = await world.stream.recent_rows_of(7 % SHARDS, [key])
        stored = await world.store.rows_of([key])
        return {r.event for r in [*recent[key].rows, *stored[key]]}

    async with running(Archiver(world.stream, world.store, "a", _with(rows_max=30, linger_s=0.0))):
        while not await _nothing_waits(world):
            assert await known() == wanted
    assert await known() == wanted


def _with(**changed: Any) -> Limits:
    return msgspec.structs.replace(QUICK, **changed)


async def _is(value: bool) -> bool:
    return value


async def _plan_stands(world: World) -> bool:
    return bool(await world.stream.plans(range(SHARDS)))
