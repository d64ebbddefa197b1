"""A worker that only paces, in a process of its own: it writes down when it would have sent.

`python -m tests.stores.redis.throughput_process REDIS_URL PROVIDER QUEUE RATE SEGMENTS WANTS SECONDS FILE`
SEGMENTS are sizes of messages in turn, e.g. 1 or 1,3. WANTS is how many segments a second
come to it; 0: there is always another. It prints `ready`, begins when a line comes on stdin,
and appends (time, segments) to FILE as it goes.

What is written down is the time that was given to `Allowance.take`, by the clock that all
processes of a machine share: what happens to the process between reading the clock and
writing, on a busy machine, is no part of it.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

import uvloop

from engine.records import Queue
from engine.routing.ports import SlotRequest
from engine.routing.throughput import Allowance, request
from engine.stores.redis.link import RedisLink
from engine.stores.redis.throughput import RedisSlots
from tests.routing.throughput_model import next_at

RECORD = struct.Struct("<dI")
# Messages at hand at most.
_WAITING_MAX = 2000


class Wish(NamedTuple):
    """What the command line says."""

    url: str
    provider: str
    queue: Queue
    rate: float
    sizes: Iterator[int]
    wants: float
    seconds: float
    file: Path


class Pacer:
    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._link = RedisLink(wish.url, timeout_s=5, name="pacer")
        self._pace = RedisSlots(self._link)
        self._allowance = Allowance(wish.rate)
        self._waiting: deque[int] = deque()
        self._come = 0
        self._answered = asyncio.Event()

    async def start(self) -> None:
        await self._link.start()

    async def run(self) -> None:
        begun_s = time.monotonic()
        asking: set[asyncio.Task[None]] = set()
        with self._wish.file.open("ab", buffering=0) as file:
            while (now_s := time.monotonic()) < begun_s + self._wish.seconds:
                self._refill(now_s - begun_s)
                self._send(file.write)
                if ask := self._ask(time.monotonic()):
                    task = asyncio.create_task(self._reserve(ask))
                    asking.add(task)
                    task.add_done_callback(asking.discard)
                at_s = next_at(self._allowance, time.monotonic())
                # Messages come while it sleeps.
                wait_s = min(0.002, at_s - time.monotonic()) if at_s is not None else 0.002
                await self._wait(wait_s)
            if asking:
                await asyncio.wait(asking)
        await self._link.close()

    async def _wait(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                await self._answered.wait()
        except TimeoutError:
            pass
        self._answered.clear()

    def _refill(self, elapsed_s: float) -> None:
        wants = self._wish.wants
        count = int(wants * elapsed_s) - self._come if wants else _WAITING_MAX - len(self._waiting)
        if count > 0:
            self._come += count
            self._waiting.extend(itertools.islice(self._wish.sizes, count))

    def _send(self, write: Callable[[bytes], object]) -> None:
        sent = []
        while self._waiting and self._allowance.take(self._waiting[0], now_s := time.monotonic()):
            sent.append(RECORD.pack(now_s, self._waiting.popleft()))
        if sent:
            write(b"".join(sent))

    def _ask(self, now_s: float) -> SlotRequest | None:
        wish, allowance = self._wish, self._allowance
        sizes = tuple(itertools.islice(self._waiting, allowance.clock.look_ahead(wish.rate)))
        if wanted := allowance.wanted(sum(self._waiting), now_s, sizes):
            return request(allowance, wish.provider, wish.queue, wanted, 0.2)
        return None

    async def _reserve(self, ask: SlotRequest) -> None:
        asked_s = time.monotonic()
        [slots] = await self._pace.reserve([ask])
        self._allowance.granted(slots, asked_s, time.monotonic())
        self._answered.set()


async def main(wish: Wish) -> None:
    pacer = Pacer(wish)
    await pacer.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await pacer.run()


if __name__ == "__main__":
    url, provider, queue, rate, sizes, wants, seconds, file = sys.argv[1:]
    uvloop.run(
        main(
            Wish(
                url,
                provider,
                cast(Queue, queue),
                float(rate),
                itertools.cycle([int(size) for size in sizes.split(",")]),
                float(wants),
                float(seconds),
                Path(file),
            )
        )
    )
