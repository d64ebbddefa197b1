"""The role `ledger`: usage into the books, quota to the holders."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack

from engine.boot.process import STORE_TIMEOUT_S, Process
from engine.credit.ledger import Ledger
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.redis.usage import RedisUsage


async def keep_books(process: Process) -> None:
    """Lead, or stand by, until drained. Raises Broken when the books and Redis do not belong together."""
    config, life = process.config, process.life
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(process.link("commands"))
        read_link = await stack.enter_async_context(process.link("read"))
        ledger = Ledger(
            PostgresLedger(config.postgres.url, timeout_s=STORE_TIMEOUT_S),
            RedisUsage(link, read_link, config.shards),
            shards=config.shards,
            fresh_generation=lambda: os.urandom(16).hex(),
            overdue_s=config.credit.overdue_s,
            clock_s=time.monotonic,
        )
        await ledger.run(life.draining, life.ready)
