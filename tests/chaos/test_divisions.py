"""Two ClickHouse servers have half of the organisations each. Archivers and one of the servers are killed at
any time, so that of some blocks one server took its part and the other did not: each row is in once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

from engine.shards import shard_of
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.migrate import migrate_clickhouse
from supervisor.embedded.servers import start_clickhouse
from tests.activity.test_archiver import drain, process
from tests.activity.world import World, make_row, new_world
from tests.clickhouse_databases import in_database
from tests.stores.clickhouse.divided.conftest import asked

SEED = int(os.environ.get("SEED", "1"))
KILLS = int(os.environ.get("KILLS", "50"))


async def test_each_row_is_in_its_division_once_whatever_was_killed(redis_url: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    servers = [start_clickhouse(tmp_path / name) for name in ("one", "two")]
    urls = [in_database(server.url, "half") for server in servers]
    try:
        await migrate_clickhouse(" ".join(urls))
        async with new_world(redis_url, servers[0].url) as world:
            world.clickhouse_url = " ".join(urls)
            world.store = DividedActivityStore(world.clickhouse_url)  # type: ignore[assignment]
            stopping = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(_load(world, random.Random(SEED), stopping))
                try:
                    for kill in range(KILLS):
                        async with process(world, f"{kill}", "counting") as archiver:
                            await archiver.says("active")
                            await asyncio.sleep(rng.uniform(0.0, 0.7))
                            if kill % 2:
                                server = rng.choice(servers)
                                os.kill(server.pid, signal.SIGKILL)
                                await asyncio.sleep(rng.uniform(0.0, 0.7))
                                server.restart(120)
                            archiver.signal(signal.SIGKILL)
                            await archiver.ended()
                finally:
                    stopping.set()
            await world.reconnect()
            await drain(world, deadline_s=300.0)
            await _assert_each_row_once(world)
            print(f"\n{world.put_rows} rows, {KILLS} archivers and {KILLS // 2} servers killed")  # noqa: T201
    finally:
        for server in servers:
            server.stop(10)


async def _load(world: World, rng: random.Random, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        await world.put(rng.randint(1, 16), rows=rng.choice((1, 2, 5, 50, 200)), shards=rng.randint(1, 4))
        await asyncio.sleep(rng.choice((0.01, 0.05, 0.1)))


async def _assert_each_row_once(world: World) -> None:
    expected: list[Counter[object]] = [Counter(), Counter()]
    for number in range(world.put_rows):
        row = make_row(number)
        expected[shard_of(row.organisation_id, 2)][row.organisation_id, row.event] += 1
    rows = "SELECT organisation_id, event, count(), uniqExact(message_id, at) FROM activity GROUP BY ALL"
    for found, wanted in zip(await asked(world.clickhouse_url, rows), expected, strict=True):
        assert {tuple(row[:2]): row[2] for row in found} == wanted
        assert all(row[2] == row[3] for row in found)
    counted = "SELECT organisation_id, event, sum(events) FROM report_minutes GROUP BY ALL"
    for found, wanted in zip(await asked(world.clickhouse_url, counted), expected, strict=True):
        assert {tuple(row[:2]): row[2] for row in found} == wanted
    assert await world.waiting() == 0
