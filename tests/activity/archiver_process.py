"""An archiver in a process of its own, that stops at a named point until it is told to go on.

`python -m tests.activity.archiver_process REDIS_URL CLICKHOUSE_URL OWNER POINT`
POINT is METHOD:before, METHOD:after, or `none`. It prints `at POINT` there and goes on
when a line comes on stdin; it prints `active` when it has a shard first. With `counting` it stops nowhere,
and counts for the reports as the role does, many times a second what is hardly older than that.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from engine.activity import report_rolling
from engine.activity.archiver import Archiver
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.clickhouse.division import urls_of
from engine.stores.clickhouse.report_periods import ClickHouseReportPeriods
from engine.stores.redis.activity_stream import RedisActivityStream
from tests.activity.world import QUICK, SHARDS, until

Gate = Callable[[str], Awaitable[None]]


class Gated:
    """A port whose calls pass a gate on their way in and on their way out."""

    def __init__(self, inner: Any, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*args: Any, **named: Any) -> Any:
            await self._gate(f"{name}:before")
            answer = await method(*args, **named)
            await self._gate(f"{name}:after")
            return answer

        return call


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def tell(archiver: Archiver) -> None:
    async def active() -> bool:
        return bool(archiver.shards)

    await until(active, 60.0)
    say("active")


async def count(
    archiver: Archiver, clickhouse_url: str, stream: RedisActivityStream, draining: asyncio.Event
) -> None:
    # All clocks are those of one machine.
    report_rolling.MARGIN_MS, report_rolling.VISIBLE_S = 200, 0.3
    periods = ClickHouseReportPeriods(clickhouse_url)
    await report_rolling.roll_reports(
        periods, stream, draining, active=lambda: 0 in archiver.shards,
        now_us=lambda: time.time_ns() // 1000, every_s=0.05,
    )  # fmt: skip
    await periods.close()


async def main(redis_url: str, clickhouse_url: str, owner: str, point: str) -> None:
    loop = asyncio.get_running_loop()
    passed = False

    async def gate(here: str) -> None:
        nonlocal passed
        if here == point and not passed:
            passed = True
            say(f"at {here}")
            await loop.run_in_executor(None, sys.stdin.readline)

    stream, store = RedisActivityStream(redis_url, SHARDS), DividedActivityStore(clickhouse_url)
    archiver = Archiver(Gated(stream, gate), Gated(store, gate), owner, QUICK)
    draining = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, draining.set)

    async with asyncio.TaskGroup() as group:
        telling = group.create_task(tell(archiver))
        if point == "counting":
            for url in urls_of(clickhouse_url):
                group.create_task(count(archiver, url, stream, draining))
        await archiver.run(draining)
        telling.cancel()
    await stream.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
