"""A ledger in a process of its own, that a test may kill, freeze or cut off.

`python -m tests.failover.ledger_process POSTGRES_URL REDIS_URL SHARDS`
Its log goes to stdout, and says `leading` when it leads. It ends by a signal.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import structlog

from engine.boot.ledger import assemble_ledger
from engine.boot.process import STORE_TIMEOUT_S
from engine.config import Credit
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.redis.link import RedisLink
from engine.stores.redis.usage import RedisUsage


async def main(postgres_url: str, redis_url: str, shards: int) -> None:
    links = [RedisLink(redis_url, timeout_s=STORE_TIMEOUT_S, name=f"far{n}") for n in range(2)]
    for link in links:
        await link.start()
    ledger = assemble_ledger(
        PostgresLedger(postgres_url, timeout_s=STORE_TIMEOUT_S),
        RedisUsage(*links, shards),
        Credit(),
        shards=shards,
        clock_s=time.monotonic,
        rng=random.SystemRandom(),
    )
    await ledger.run(asyncio.Event(), lambda: None)


if __name__ == "__main__":
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer(key_order=["event"])],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
