"""Matchers are killed and frozen under load, and archivers beside them: each receipt counts once"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import AsyncExitStack

from tests.activity.test_archiver import process as archiver_process
from tests.activity.world import until
from tests.receipts.test_matcher import process as matcher_process
from tests.receipts.world import QUICK_MATCH, ReceiptWorld, new_receipt_world

SEED = int(os.environ.get("SEED", "1"))
KILLS = int(os.environ.get("KILLS", "50"))


async def test_each_receipt_counts_once_after_fifty_kills(redis_url: str, clickhouse_url: str) -> None:
    rng = random.Random(SEED)
    async with new_receipt_world(redis_url, clickhouse_url) as world:
        stopping, put = asyncio.Event(), [0]
        async with asyncio.TaskGroup() as group:
            group.create_task(_load(world, random.Random(SEED), stopping, put))
            for kill in range(KILLS):
                await _two_end(world, f"{kill}", rng)
            stopping.set()
        async with world.archiving(), world.matching("last"):
            await until(world.nothing_waits, 300.0)
        await world.match_all()
        await world.assert_delivered_once(range(put[0]))
        print(f"\n{put[0]} receipts, twice each; {KILLS} matchers and {KILLS} archivers killed")  # noqa: T201


async def _load(world: ReceiptWorld, rng: random.Random, stopping: asyncio.Event, put: list[int]) -> None:
    """Messages with a receipt each, which comes twice, and before its message now and then."""
    while not stopping.is_set():
        fresh = range(put[0], put[0] + rng.randint(1, 20))
        put[0] = fresh.stop
        if rng.random() < 0.5:
            await world.told_by_number(fresh)
        await world.sent(*fresh, archived=False)
        await world.told_by_number(fresh)
        await asyncio.sleep(rng.choice((0.01, 0.05)))


async def _two_end(world: ReceiptWorld, name: str, rng: random.Random) -> None:
    """Two matchers that share the shards, and an archiver beside them; the first is killed, or frozen, while
    each has its part or not yet, then the second, with a part of the shards or with all, and the archiver."""
    async with AsyncExitStack() as stack:
        archiver = await stack.enter_async_context(archiver_process(world.activity, f"{name}-c", "none"))
        first = await stack.enter_async_context(matcher_process(world, f"{name}-a", "none"))
        await first.says("active")
        second = await stack.enter_async_context(matcher_process(world, f"{name}-b", "none"))
        await second.says("active")
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        frozen = rng.random() < 0.3
        first.signal(signal.SIGSTOP if frozen else signal.SIGKILL)
        await asyncio.sleep(rng.uniform(0.0, 2 * QUICK_MATCH.lease_s))
        if frozen:
            first.signal(signal.SIGCONT)
            await asyncio.sleep(rng.uniform(0.0, QUICK_MATCH.lease_s))
            first.signal(signal.SIGKILL)
        for left in (second, archiver):
            left.signal(signal.SIGKILL)
        for ended in (first, second, archiver):
            await ended.ended()
