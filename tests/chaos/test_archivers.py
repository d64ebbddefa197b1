"""Archivers are killed and frozen fifty times under load, and ClickHouse now and then: each row is in once,
and counted once for the reports of every time zone"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

from engine.activity.report_rolling import ReportRounds
from engine.stores.clickhouse.report_narrow_sql import ALONE, BY, DAY, HOURS, NARROW_DAYS, QUARTER
from engine.stores.clickhouse.report_periods import ClickHouseReportPeriods
from supervisor.embedded.servers import start_clickhouse
from tests.activity.test_archiver import drain, process
from tests.activity.world import QUICK, World, new_world
from tests.forked import Process

SEED = int(os.environ.get("SEED", "1"))
KILLS = int(os.environ.get("KILLS", "50"))
# Asked for one after another.
ZONES = ("Asia/Kolkata", "America/New_York", "Asia/Tehran", "Europe/Berlin", "Asia/Kathmandu")


async def test_each_row_is_there_once_after_fifty_kills(redis_url: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    server = start_clickhouse(tmp_path)
    try:
        async with new_world(redis_url, server.url) as world:
            stopping = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(_load(world, random.Random(SEED), stopping))
                try:
                    for kill in range(KILLS):
                        await _ask_for_a_zone(world, kill)
                        await _one_of_two_ends(world, f"{kill}", rng)
                        if kill % 10 == 9:
                            os.kill(server.pid, signal.SIGKILL)
                            server.restart(120)
                            await world.reconnect()
                finally:
                    # A call of Redis may swallow that it is canceled.
                    stopping.set()
            await drain(world, deadline_s=300.0)
            await world.assert_each_row_once()
            await _assert_counted_once(world)
            assert world.put_rows > 100 * KILLS
            print(f"\n{world.put_rows} rows, {KILLS} pairs of archivers killed")  # noqa: T201
    finally:
        server.stop(10)


async def _ask_for_a_zone(world: World, kill: int) -> None:
    """As a report would; of every fifth kill another zone."""
    if kill % 5 == 0:
        zone = ZONES[kill // 5 % len(ZONES)]
        await world.query(f"INSERT INTO report_zones VALUES ('{zone}', today(), today())")


async def _assert_counted_once(world: World) -> None:
    """In every zone that was asked for, each kind of period has each row once."""
    periods = ClickHouseReportPeriods(world.clickhouse_url)
    windows = len(await periods.series())
    for _ in range(2):
        rounds = ReportRounds(
            periods, world.stream, lambda: True, lambda: (time.time_ns() // 1000) + 10**9, visible_s=0
        )
        await rounds.make()
    asked = {"UTC", *ZONES[: (KILLS + 4) // 5]}
    assert windows
    assert {s.zone for s in await periods.series() if s.filled} == asked
    await periods.close()
    found = await world.query(
        "SELECT zone, period, organisation_id = 0, sum(events), sum(units) FROM report_series "
        "WHERE period > 0 GROUP BY ALL"
    )
    [all_] = await world.query("SELECT sum(events), sum(units) FROM report_minutes")
    # Days and months, and narrow ones, of organisations and of all together.
    kinds = [
        (period, together) for day in (DAY, *NARROW_DAYS) for period in (day, day + 1) for together in (0, 1)
    ]
    kinds += [(4, 1), (5, 1)]
    hours = [ALONE + hour for hour in HOURS.values()] + [kind + HOURS[0] for kind in BY.values()]
    of_utc = [("UTC", period, together) for period in (QUARTER, *hours) for together in (0, 1)]
    of_utc += [("UTC", period, 1) for period in (6, 7)]
    expected = {(*kind, *all_) for kind in [*((z, *k) for z in asked for k in kinds), *of_utc]}
    assert not sorted(expected ^ set(found)), f"of {all_}"


async def _load(world: World, rng: random.Random, stopping: asyncio.Event) -> None:
    """Entries of one row and of hundreds, on few shards or on all."""
    while not stopping.is_set():
        await world.put(rng.randint(1, 16), rows=rng.choice((1, 2, 5, 50, 200)), shards=rng.randint(1, 4))
        await asyncio.sleep(rng.choice((0.01, 0.05, 0.1)))


async def _one_of_two_ends(world: World, name: str, rng: random.Random) -> None:
    """Two archivers that share the shards, while each has its part or not yet; the first is killed, or
    frozen, and then the second, with a part of the shards or with all."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(process(world, f"{name}-a", "counting"))
        await first.says("active")
        second = await stack.enter_async_context(process(world, f"{name}-b", "counting"))
        await second.says("active")
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        frozen = rng.random() < 0.3
        first.signal(signal.SIGSTOP if frozen else signal.SIGKILL)
        await asyncio.sleep(rng.uniform(0.0, 2 * QUICK.lease_s))
        if frozen:
            first.signal(signal.SIGCONT)
            await asyncio.sleep(rng.uniform(0.0, QUICK.lease_s))
            first.signal(signal.SIGKILL)
        second.signal(signal.SIGKILL)
        await _ended(first, second)


async def _ended(*processes: Process) -> None:
    for process_ in processes:
        await process_.ended()
