"""The role `ledger`: usage into the books, quota to the holders."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random

from engine.boot.process import STORE_TIMEOUT_S, Process, end
from engine.config import Credit
from engine.credit.ledger import Ledger
from engine.credit.ports import LedgerStore, UsageStream
from engine.credit.retention import Retention
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.redis.usage import RedisUsage

# How long usage is gathered before it is booked.
_GATHER_S = 0.4
# The pause between reads of usage that gathers, which is as long as a grant may be delayed under load. A read
# costs the ledger and Redis as much as the usage of some hundred messages.
_APART_S = 0.02


def assemble_ledger(
    store: LedgerStore,
    usage: UsageStream,
    settings: Credit,
    *,
    shards: int,
    clock_s: Callable[[], float],
    rng: Random,
    gather_s: float = _GATHER_S,
    apart_s: float = _APART_S,
) -> Ledger:
    """Put together a ledger of all shards. Nothing runs yet.

    `rng` names generations, so in a real process it is the system's source of randomness.
    """
    return Ledger(
        store,
        usage,
        shards=shards,
        fresh_generation=lambda: f"{rng.getrandbits(128):032x}",
        overdue_s=settings.overdue_s,
        clock_s=clock_s,
        retention=Retention(settings.usage_kept_s, settings.usage_kept_max),
        gather_s=gather_s,
        apart_s=apart_s,
    )


async def keep_books(process: Process) -> None:
    """Lead, or stand by, until drained. Raises Broken when the books and Redis do not belong together."""
    config, life = process.config, process.life
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(process.link("commands"))
        read_link = await stack.enter_async_context(process.link("read"))
        ledger = assemble_ledger(
            PostgresLedger(config.postgres.url, timeout_s=STORE_TIMEOUT_S),
            RedisUsage(link, read_link, config.shards),
            config.credit,
            shards=config.shards,
            clock_s=time.monotonic,
            rng=random.SystemRandom(),
        )
        pulse = asyncio.create_task(process.keep_pulse(link))
        try:
            await ledger.run(life.draining, life.ready)
        finally:
            await end(pulse)
