"""A matcher in a process of its own, that stops at a named point until it is told to go on.

`python -m tests.receipts.matcher_process REDIS_URL CLICKHOUSE_URL OWNER POINT`
POINT is METHOD:before, METHOD:after, `record:between` (some shards have their rows, the
others do not), or `none`. It prints `at POINT` there and goes on when a line comes on
stdin; it prints `active` when it has a shard first.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from typing import Any

from engine.boot.archiver import assemble_matcher
from engine.receipts.ports import Recording
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.redis.link import RedisLink
from engine.stores.redis.receipt_stream import RedisReceiptStream
from engine.stream_id import StreamId
from tests.activity.archiver_process import Gate, Gated, say
from tests.activity.world import SHARDS, until
from tests.receipts.world import QUICK_MATCH, now_us


class Piecewise:
    """Records shard by shard, so that one can stop in between."""

    def __init__(self, inner: RedisReceiptStream, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def record(
        self, tokens: Mapping[int, str], number: int, recordings: Mapping[int, Recording]
    ) -> dict[int, StreamId]:
        ids: dict[int, StreamId] = {}
        for shard, recording in recordings.items():
            ids |= await self._inner.record(tokens, number, {shard: recording})
            if len(ids) < len(recordings):
                await self._gate("record:between")
        return ids


async def main(redis_url: str, clickhouse_url: str, owner: str, point: str) -> None:
    loop = asyncio.get_running_loop()
    passed = False

    async def gate(here: str) -> None:
        nonlocal passed
        if here == point and not passed:
            passed = True
            say(f"at {here}")
            await loop.run_in_executor(None, sys.stdin.readline)

    links = [RedisLink(redis_url, timeout_s=5, name=f"{owner} {use}") for use in ("commands", "read")]
    stream: Any = Gated(Piecewise(RedisReceiptStream(*links, SHARDS), gate), gate)
    store = ClickHouseAttempts(clickhouse_url)
    gated_store: Any = Gated(store, gate)
    matcher, _ = assemble_matcher(
        stream, gated_store, owner, QUICK_MATCH, shards=SHARDS, receipt_ids={}, now_us=now_us
    )
    draining = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, draining.set)

    async def tell() -> None:
        async def active() -> bool:
            return bool(matcher.shards)

        await until(active, 60.0)
        say("active")

    async with asyncio.TaskGroup() as group:
        telling = group.create_task(tell())
        await matcher.run(draining)
        telling.cancel()
    await store.close()
    for link in links:
        await link.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
