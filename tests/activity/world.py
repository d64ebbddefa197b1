"""Streams and tables of one test: a Redis database and a ClickHouse database of its own."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
import msgspec
from redis.asyncio import Redis

from engine.activity.archiver import Limits
from engine.activity.records import MessageKey
from engine.records import ActivityRow
from engine.redis_keys import activity_key
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.migrate import migrate_clickhouse
from engine.stores.redis.activity_stream import RedisActivityStream
from tests.clickhouse_databases import in_database, lent_database

SHARDS = 4
REDIS_DATABASE = 11
# Quick, so that take-overs and pauses do not make the tests long.
QUICK = Limits(
    linger_s=0.05, poll_s=0.02, idle_s=0.1, lease_s=0.6, backoff_s=0.05, backoff_max_s=0.3, drain_s=15.0
)
T0 = 1_795_335_960_000_000
EVENTS = ("accepted", "retrying", "sent")

_numbers = itertools.count(1)
_encode = msgspec.msgpack.Encoder().encode


def make_row(number: int, **values: Any) -> ActivityRow:
    return ActivityRow(
        **{
            "at_us": T0 + number,
            "organisation_id": 1000 + number % 5,
            "message_id": f"019aaaaa-0000-7000-8000-{number // 3:012x}",
            "accepted_at_us": T0,
            "event": EVENTS[number % 3],
            "queue": "normal",
            "to": "+989120000001",
            "sender": "ACME",
            "encoding": "GSM-7",
            "segments": 1 + number % 3,
            "units": 2,
            "attempt": number % 3,
            "provider": "sim" if number % 3 else "",
            "code": "0",
            "latency_us": 20_000 + number % 100 if number % 3 else 0,
            **values,
        }
    )


def blob_of(rows: list[ActivityRow]) -> bytes:
    return b"\xdd" + len(rows).to_bytes(4, "big") + b"".join(map(_encode, rows))


class World:
    """What the tests do to the streams, and what they see in the tables."""

    def __init__(self, redis_url: str, clickhouse_url: str) -> None:
        self.redis_url = redis_url
        self.clickhouse_url = clickhouse_url
        self.redis: Any = Redis.from_url(redis_url, protocol=2)
        self.stream = RedisActivityStream(redis_url, SHARDS)
        self.store = ClickHouseActivityStore(clickhouse_url)
        self.put_rows = 0
        self._client: Any = None

    async def put(self, entries: int, rows: int = 5, shards: int = SHARDS) -> None:
        """`entries` entries of `rows` rows, over the shards in turn; all rows differ."""
        pipe = self.redis.pipeline(transaction=False)
        for i in range(entries):
            batch = [make_row(self.put_rows + n) for n in range(rows)]
            pipe.xadd(activity_key(i % shards), {b"b": blob_of(batch)})
            self.put_rows += rows
        await pipe.execute()

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        if self._client is None:
            self._client = await clickhouse_connect.get_async_client(
                dsn=self.clickhouse_url, autogenerate_session_id=False
            )
        return list((await self._client.query(sql)).result_rows)

    async def reconnect(self) -> None:
        """Ask over a new connection from now on: the server was killed."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def stored(self, organisation_id: int, message_id: str, accepted_at_us: int) -> list[ActivityRow]:
        """The rows of one message in the table, by time."""
        key = MessageKey(organisation_id, message_id, accepted_at_us)
        return sorted((await self.store.rows_of([key]))[key], key=lambda row: row.at_us)

    async def rows_stored(self) -> int:
        return int((await self.query("SELECT count() FROM activity"))[0][0])

    async def waiting(self) -> int:
        """Entries that are still in the streams."""
        return sum([await self.redis.xlen(activity_key(shard)) for shard in range(SHARDS)])

    async def assert_each_row_once(self) -> None:
        """All rows ever put are in the table and in the roll-up exactly once, and nowhere else."""
        expected = Counter[tuple[int, str]]()
        units = 0
        for number in range(self.put_rows):
            row = make_row(number)
            expected[row.organisation_id, row.event] += 1
            units += row.units
        [(rows, distinct)] = await self.query(
            "SELECT count(), uniqExact(message_id, event, at) FROM activity"
        )
        assert (rows, distinct) == (self.put_rows, self.put_rows)
        rolled = await self.query(
            "SELECT organisation_id, event, sum(events), sum(units) FROM report_minutes GROUP BY ALL"
        )
        assert {(org, event): count for org, event, count, _ in rolled} == expected
        assert sum(r[3] for r in rolled) == units
        assert await self.waiting() == 0
        assert not await self.stream.plans(range(SHARDS))

    async def close(self) -> None:
        await self.stream.close()
        await self.store.close()
        if self._client is not None:
            await self._client.close()
        await self.redis.flushdb()
        await self.redis.aclose()


@asynccontextmanager
async def new_world(redis_url: str, clickhouse_url: str, scripts: Path | None = None) -> AsyncIterator[World]:
    """`scripts`: the folder of those that are applied to ClickHouse; None: all of this version."""
    async with lent_database(clickhouse_url) if scripts is None else _made_by(clickhouse_url, scripts) as own:
        world = World(in_database(redis_url, REDIS_DATABASE), own)
        await world.redis.flushdb()
        try:
            yield world
        finally:
            await world.close()


@asynccontextmanager
async def _made_by(clickhouse_url: str, scripts: Path) -> AsyncIterator[str]:
    """The URL of a database of its own that these scripts have made."""
    name = f"activity_{next(_numbers)}_{uuid.uuid4().hex[:6]}"
    own = in_database(clickhouse_url, name)
    await migrate_clickhouse(own, scripts)
    yield own
    async with await clickhouse_connect.get_async_client(dsn=clickhouse_url) as client:
        await client.command(f"DROP DATABASE {name}")


async def until(condition: Callable[[], Awaitable[bool]], deadline_s: float = 60.0) -> None:
    """Return once the condition holds; fail when it does not within the deadline."""
    end = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.02)
