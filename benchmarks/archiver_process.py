"""An archiver under measurement, with a ClickHouse of its own; `benchmarks.archiver` starts it.

    archiver_process.py REDIS_URL SHARDS PLACE

It prints `ready PID URL`, with those of ClickHouse, and does what a line on stdin says: `go` archives until
`halt`. Run with the root of another version of the engine in PYTHONPATH, it is that version's archiver.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from engine.activity.archiver import Archiver
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.migrate import migrate_clickhouse
from engine.stores.redis.activity_stream import RedisActivityStream
from supervisor.embedded.servers import start_clickhouse


async def serve(redis_url: str, shards: int, clickhouse_url: str, clickhouse_pid: int) -> None:
    """Do what the lines on stdin say, until its end."""
    await migrate_clickhouse(clickhouse_url)
    stream, store = RedisActivityStream(redis_url, shards), ClickHouseActivityStore(clickhouse_url)
    await store.ping(10)  # connects
    draining, work, number = asyncio.Event(), None, 0
    print("ready", clickhouse_pid, clickhouse_url, flush=True)
    while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if command == "go":
            number += 1
            draining = asyncio.Event()
            work = asyncio.create_task(Archiver(stream, store, f"bench{number}").run(draining))
        elif work is not None:
            draining.set()
            await work
        print("done", flush=True)
    await stream.close()
    await store.close()


def main() -> None:
    """Serve until the end of stdin."""
    redis_url, shards, place = sys.argv[1:]
    server = start_clickhouse(Path(place))
    try:
        uvloop.run(serve(redis_url, int(shards), server.url, server.pid))
    finally:
        server.stop(10)


if __name__ == "__main__":
    main()
