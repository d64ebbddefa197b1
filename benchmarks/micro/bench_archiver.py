"""How fast activity goes from the streams to ClickHouse, and what a row costs the archiver.

Blocks of 1,000 to 200,000 rows are compared, over the same rows in the same entries.
The servers are the embedded ones. `extra_info` holds rows/s, microseconds of CPU a row in the
archiver's process (all its threads), and the longest time for which its loop did not turn.

    pytest -o python_files='bench_*.py' benchmarks/micro/bench_archiver.py
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import uvloop
from redis.asyncio import Redis

from engine.activity.archiver import Archiver, Limits
from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.records import ActivityRow
from engine.redis_keys import activity_key
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.migrate import migrate_clickhouse
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stream_id import StreamId
from supervisor.embedded.servers import start_all

SHARDS = 16
ROWS = 100_000
ROWS_PER_ENTRY = 50
T0 = 1_795_335_960_000_000
_encode = msgspec.msgpack.Encoder().encode
_rounds = itertools.count()


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(URL of Redis, URL of ClickHouse), both started for this module."""
    servers = start_all(tmp_path_factory.mktemp("bench"), {"redis", "clickhouse"})
    yield servers["redis"].url, servers["clickhouse"].url
    for server in servers.values():
        server.stop(10)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One uvloop for all measurements of this module."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


def rows_of_round(number: int, count: int) -> list[ActivityRow]:
    """`count` rows that no other round has: half accepted, half sent, of 500 organisations."""
    first = number * count
    return [
        ActivityRow(
            at_us=T0 + n * 50,
            organisation_id=1000 + n * 7919 % 500,
            message_id=f"019aaaaa-{n & 0xFFFF:04x}-7000-8000-{n:012x}",
            accepted_at_us=T0 + n * 50,
            event="sent" if n & 1 else "accepted",
            queue="normal",
            to=f"+98912{n * 31 % 10_000_000:07}",
            sender="ACME",
            encoding="GSM-7",
            segments=1,
            units=1,
            attempt=n & 1,
            provider="sim" if n & 1 else "",
            provider_message_id=f"{n:x}" if n & 1 else "",
            code="0" if n & 1 else "",
            latency_us=20_000 + n % 977 if n & 1 else 0,
            expires_at_us=0 if n & 1 else T0 + 86_400_000_000,
        )
        for n in range(first, first + count)
    ]


def blobs_of(rows: list[ActivityRow]) -> list[bytes]:
    """The rows as entries of the stream hold them: ROWS_PER_ENTRY in each, as a msgpack array."""
    return [
        b"\xdd" + len(batch).to_bytes(4, "big") + b"".join(map(_encode, batch))
        for batch in (rows[i : i + ROWS_PER_ENTRY] for i in range(0, len(rows), ROWS_PER_ENTRY))
    ]


async def fill(redis_url: str) -> None:
    """Add ROWS new rows to the activity streams."""
    async with Redis.from_url(redis_url, protocol=2) as redis:
        pipe = redis.pipeline(transaction=False)
        for i, blob in enumerate(blobs_of(rows_of_round(next(_rounds), ROWS))):
            pipe.xadd(activity_key(i % SHARDS), {b"b": blob})
        await pipe.execute()


class Bench:
    """Runs an archiver until its streams are empty, and notes what that took."""

    def __init__(self) -> None:
        self.cpu_s: list[float] = []
        self.wall_s: list[float] = []
        self.gap_s = 0.0

    async def drain(self, redis_url: str, clickhouse_url: str, rows_max: int) -> None:
        """Archive ROWS rows in blocks of at most `rows_max`."""
        stream, store = RedisActivityStream(redis_url, SHARDS), ClickHouseActivityStore(clickhouse_url)
        await store.ping(10)  # connects
        archiver = Archiver(stream, store, f"bench{next(_rounds)}", Limits(rows_max=rows_max, linger_s=0.0))
        draining = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            cpu, wall = time.process_time(), time.perf_counter()
            group.create_task(archiver.run(draining))
            await self._until_all(archiver)
            self.cpu_s.append(time.process_time() - cpu)
            self.wall_s.append(time.perf_counter() - wall)
            draining.set()
        assert archiver.counts.rows == ROWS
        await stream.close()
        await store.close()

    async def _until_all(self, archiver: Archiver) -> None:
        last = time.perf_counter()
        while archiver.counts.rows < ROWS:
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            self.gap_s = max(self.gap_s, now - last - 0.002)
            last = now


@pytest.mark.parametrize("rows_max", [1_000, 10_000, 50_000, 200_000])
def test_stream_to_clickhouse(
    benchmark: Any, runner: asyncio.Runner, urls: tuple[str, str], rows_max: int
) -> None:
    redis_url, clickhouse_url = urls
    runner.run(migrate_clickhouse(clickhouse_url))
    bench = Bench()
    benchmark.pedantic(
        lambda: runner.run(bench.drain(redis_url, clickhouse_url, rows_max)),
        setup=lambda: runner.run(fill(redis_url)),
        rounds=3,
        warmup_rounds=1,
    )
    benchmark.extra_info["rows_per_s"] = round(ROWS / min(bench.wall_s))
    benchmark.extra_info["archiver_cpu_us_per_row"] = round(min(bench.cpu_s) / ROWS * 1e6, 2)
    benchmark.extra_info["loop_gap_ms_max"] = round(bench.gap_s * 1000, 1)


def test_columns_of_a_block(benchmark: Any) -> None:
    entries = [
        ActivityEntry(shard=i % SHARDS, id=StreamId(i, 0), blob=blob)
        for i, blob in enumerate(blobs_of(rows_of_round(0, 10_000)))
    ]
    block, unreadable = benchmark(block_of, entries)
    assert (block.rows, unreadable) == (10_000, [])
    if benchmark.stats is not None:
        benchmark.extra_info["us_per_row"] = round(benchmark.stats.stats.min / 10_000 * 1e6, 2)
