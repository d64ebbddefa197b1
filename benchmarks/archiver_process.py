"""An archiver under measurement, with a ClickHouse of its own; `benchmarks.archiver` starts it.

    archiver_process.py REDIS_URL SHARDS PLACE

It prints `ready PID URL`, with those of ClickHouse, and does what a line on stdin says: `go` archives until
`halt`. Each is answered with how late the blocks since the last `go` were, [[that of the oldest row, the mean
of all rows, how many rows], ...]: from the entry in the stream until the insert was answered, milliseconds.
Run with the root of another version of the engine in PYTHONPATH, it is that version's archiver.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from array import array
from pathlib import Path

import structlog
import uvloop

from engine.activity.archiver import Archiver
from engine.activity.records import ActivityBlock
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.migrate import migrate_clickhouse
from engine.stores.redis.activity_stream import RedisActivityStream
from supervisor.embedded.servers import start_clickhouse


class Timed(ClickHouseActivityStore):
    """Notes how late blocks are; `lags` as the module says."""

    lags: list[tuple[float, float, int]]

    async def insert(self, block: ActivityBlock, token: str) -> None:
        """As of the store; then the lags of the block, milliseconds, are noted."""
        await super().insert(block, token)
        now_ms, put_ms = time.time() * 1000, array("Q")
        put_ms.frombytes(block.columns[-2])
        if put_ms:
            self.lags.append((now_ms - min(put_ms), now_ms - sum(put_ms) / len(put_ms), len(put_ms)))


async def serve(redis_url: str, shards: int, clickhouse_url: str, clickhouse_pid: int) -> None:
    """Do what the lines on stdin say, until its end."""
    await migrate_clickhouse(clickhouse_url)
    stream, store = RedisActivityStream(redis_url, shards), Timed(clickhouse_url)
    await store.ping(10)  # connects
    draining, work, number = asyncio.Event(), None, 0
    print("ready", clickhouse_pid, clickhouse_url, flush=True)
    while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if command == "go":
            number += 1
            store.lags = []
            draining = asyncio.Event()
            work = asyncio.create_task(Archiver(stream, store, f"bench{number}").run(draining))
        elif work is not None:
            draining.set()
            await work
        print(json.dumps(store.lags), flush=True)
    await stream.close()
    await store.close()


def main() -> None:
    """Serve until the end of stdin."""
    # What is said on stdout is read.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    redis_url, shards, place = sys.argv[1:]
    server = start_clickhouse(Path(place))
    try:
        uvloop.run(serve(redis_url, int(shards), server.url, server.pid))
    finally:
        server.stop(10)


if __name__ == "__main__":
    main()
