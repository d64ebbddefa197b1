"""The role `archiver`: activity to ClickHouse, and receipts to the messages they are about.

Both in one process, because both are active once and wait mostly; each has a lease of its
own, so with two archivers on two nodes either may have either.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial

import structlog

from engine.activity.archiver import Archiver
from engine.boot.counter_log import CounterLog
from engine.boot.heartbeat import Heartbeat
from engine.config import Config
from engine.receipts.matcher import Matcher
from engine.receipts.ports import MatchLimits
from engine.receipts.rounds import Matching
from engine.shards import shard_of
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.link import RedisLink
from engine.stores.redis.receipt_stream import RedisReceiptStream

# malloc.h
_M_ARENA_MAX = -8


async def archive_and_match(
    config: Config,
    name: str,
    life: Heartbeat,
    link: Callable[[str], AbstractAsyncContextManager[RedisLink]],
    now_us: Callable[[], int],
) -> None:
    """Until drained. `name` is unique per process incarnation; `link` opens a Redis connection
    of this process for a purpose."""
    # Blocks are built in threads; with an arena of its own (glibc's malloc) each thread would
    # keep the largest block it ever built.
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    async with AsyncExitStack() as stack:
        activity = RedisActivityStream(config.redis.url, config.shards)
        stack.push_async_callback(activity.close)
        store = ClickHouseActivityStore(config.clickhouse.url)
        stack.push_async_callback(store.close)
        outstanding = ClickHouseAttempts(config.clickhouse.url)
        stack.push_async_callback(outstanding.close)
        commands = await stack.enter_async_context(link("receipts"))
        reading = await stack.enter_async_context(link("receipts read"))
        receipts, limits = RedisReceiptStream(commands, reading, config.shards), MatchLimits()
        rounds = Matching(
            receipts,
            outstanding,
            shard_of=partial(shard_of, shards=config.shards),
            receipt_ids={p.name: p.receipt_ids for p in config.providers},
            now_us=now_us,
            limits=limits,
        )
        archiver = Archiver(activity, store, name)
        counters = await stack.enter_async_context(CounterLog(structlog.get_logger("archiver")))
        counters.watch("archived", archiver.counts)
        counters.watch("receipts matched", rounds.counts)
        life.ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(archiver.run(life.draining))
            group.create_task(Matcher(receipts, rounds, name, limits).run(life.draining))
