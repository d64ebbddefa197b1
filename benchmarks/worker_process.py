"""One end of the queue of `benchmarks.worker`, in a process of its own and from any version of the engine.

    python benchmarks/worker_process.py work REDIS_URL SMPP_PORT     a whole worker of `normal`, until killed
    python benchmarks/worker_process.py load REDIS_URL               admits messages as it is told on stdin

It imports what `PYTHONPATH` names, so that a version loads and sends by its own format. Each command of
`load` is a line, answered by a line when it is done:

    backlog MESSAGES ORGANISATIONS   admits so many in submissions of 100, as fast as Redis takes them
    singles RATE SECONDS             admits one message a submission, of 50 organisations, at that rate
    held                             the units that are held: one for each message that is not settled
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from itertools import count
from typing import Any

import structlog
import uvloop

from engine.boot.worker import assemble_worker
from engine.clocks.store_clock import StoreClock
from engine.config import QueueSettings
from engine.credit.flush import Flush
from engine.providers.problems import Problems
from engine.providers.settings import SmppSettings
from engine.providers.smpp.provider import SmppProvider
from engine.receipts.records import Receipt
from engine.records import Addressed, Message, Submission
from engine.redis_keys import activity_key, generation_key, held_key, usage_key
from engine.routing.records import RoutingPlan
from engine.shards import shard_of
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.pulse import Pulse
from engine.stores.redis.queue import QueueStreams
from engine.stores.redis.throughput import RedisSlots

SHARDS = 16
ORGANISATIONS = 50
_TEXT = "Your code is 123456. Do not share it with anyone."
# How often single messages are admitted, seconds: about what 64 clients of one ingest come to.
_TICK_S = 0.0075


class _NoReceipts:
    def put(self, receipts: Sequence[Receipt], stored: Any) -> None:
        raise AssertionError


async def work(url: str, port: int) -> None:
    """Deliver whatever is in the queue."""
    log = structlog.get_logger()
    links = [RedisLink(url, timeout_s=30, name=name) for name in ("commands", "read", "pace")]
    clock = StoreClock(log)
    pulse = Pulse(clock, "worker", log)
    await pulse.batch(links[0], [])
    reader = QueueStreams(
        links[0], links[1], queue="normal", shards=SHARDS, worker_name="worker", timeout_s=30, log=log,
        pulse=pulse,
    )  # fmt: skip
    window = int(os.environ.get("WINDOW", "100"))
    settings = SmppSettings(name="smsc", host="127.0.0.1", port=port, system_id="bench", window=window)
    provider = SmppProvider(settings, _NoReceipts(), Problems(clock.now_us), now_us=clock.now_us)
    worker, sweeper, dispatcher = assemble_worker(
        reader,
        [provider],
        [settings],
        RedisSlots(links[2]),
        QueueSettings(),
        take_over_s=60.0,
        now_us=clock.now_us,
        clock_s=time.monotonic,
        rng=random.Random(),
        log=log,
        fit=lambda: not clock.off,
        readable=pulse.readable,
    )
    dispatcher.use(RoutingPlan(version=1))
    await provider.start()
    await reader.join()
    print("ready", flush=True)
    draining = asyncio.Event()
    await asyncio.gather(sweeper.run(draining), worker.run(draining, 5.0))


class Loader:
    """A holder that admits without asking anybody for credit."""

    def __init__(self, url: str) -> None:
        self._link = RedisLink(url, timeout_s=30, name="load")
        log = structlog.get_logger()
        # Without it the loader would be taken for a version that knows neither lists nor bundles.
        pulse = Pulse(StoreClock(log), "load", log)
        self._admission = RedisAdmission(self._link, self._link, SHARDS, pulse)
        self._numbers, self._sequences = count(), [count(1) for _ in range(SHARDS)]
        self._epochs: list[int] = []

    async def start(self) -> None:
        """Register; the books of all shards are open."""
        await load_functions(self._link)
        await self._link.batch([("SETNX", generation_key(s), "g") for s in range(SHARDS)])
        # The first round trip measures Redis's clock, the second notes what this process reads.
        for _ in range(2):
            self._epochs = await self._admission.register("load")

    async def backlog(self, messages: float, organisations: float) -> None:
        """See the module."""
        of = int(organisations)
        while messages > 0:
            # Redis does nothing else meanwhile, so few at a time.
            some = [1 + next(self._numbers) % of for _ in range(min(20, -(-int(messages) // 100)))]
            await self._admit([(organisation, 100) for organisation in some])
            messages -= 100 * len(some)
        await self._trim()

    async def singles(self, rate: float, seconds: float) -> None:
        """See the module."""
        begun_s, sent = time.monotonic(), 0
        while (passed_s := time.monotonic() - begun_s) < seconds:
            due = int(rate * passed_s) - sent
            sent += due
            await self._admit([(1 + random.randrange(ORGANISATIONS), 1) for _ in range(due)])
            await asyncio.sleep(_TICK_S - (time.monotonic() - begun_s) % _TICK_S)

    async def held(self) -> int:
        """See the module."""
        return sum(int(n or 0) for n in await self._link.batch([("GET", held_key(s)) for s in range(SHARDS)]))

    async def _admit(self, submissions: Sequence[tuple[int, int]]) -> None:
        """Admit (organisation, messages) …, in one flush for each shard."""
        by_shard: dict[int, list[tuple[int, Submission]]] = {}
        for organisation, messages in submissions:
            shard = by_shard.setdefault(shard_of(organisation, SHARDS), [])
            addressed = [
                Addressed(queue="normal", message=self._message(organisation)) for _ in range(messages)
            ]
            shard.append(
                (len(shard), Submission(organisation_id=organisation, messages=addressed, units=messages))
            )
        flushes = [
            Flush(shard, self._epochs[shard], next(self._sequences[shard]), some, [])
            for shard, some in by_shard.items()
        ]
        if flushes:
            await self._admission.admit("load", flushes, 30)

    def _message(self, organisation: int) -> Message:
        number, now_us = next(self._numbers), time.time_ns() // 1000
        return Message(
            id=f"01930000-0000-7000-8000-{number:012x}", organisation_id=organisation,
            to=f"+98912{number % 10_000_000:07d}", text=_TEXT, sender="", encoding="GSM-7", segments=1,
            units=1, accepted_at_us=now_us, expires_at_us=(now_us // 1000 + 86_400_000) * 1000,
        )  # fmt: skip

    async def _trim(self) -> None:
        """Forget what nobody reads here."""
        keys = [key(s) for s in range(SHARDS) for key in (activity_key, usage_key)]
        await self._link.batch([("XTRIM", key, "MAXLEN", "~", 0) for key in keys])


async def load(url: str) -> None:
    """Do what stdin says until it ends."""
    loader = Loader(url)
    await loader.start()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        what, *arguments = line.split()
        answer = await getattr(loader, what)(*(float(argument) for argument in arguments))
        print(answer, flush=True)


if __name__ == "__main__":
    mode, *given = sys.argv[1:]
    uvloop.run(load(given[0]) if mode == "load" else work(given[0], int(given[1])))
