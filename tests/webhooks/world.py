"""The stores of a notifier, organisations with endpoints, and notifiers that the tests start and end."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from engine.activity.archiver import Archiver
from engine.activity.row import row_of
from engine.boot.notifier import assemble_notifier
from engine.providers.http_client.pools import HttpPools
from engine.records import ActivityRow, Message
from engine.redis_keys import activity_key
from engine.shards import shard_of
from engine.stores.clickhouse.activity_log import ClickHouseActivityLog
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.webhook_deliveries import PostgresDeliveries
from engine.stores.postgres.webhook_endpoints import EndpointBook
from engine.stores.redis.link import RedisLink
from engine.stores.redis.webhook_stream import RedisWebhookStreams
from engine.webhooks.keeper import Keeper
from engine.webhooks.notifier import Notifier, NotifierStores
from engine.webhooks.sender import Sender
from tests.activity.world import QUICK, REDIS_DATABASE, SHARDS, World, blob_of, in_database, until

__all__ = ["SHARDS", "WebhookWorld", "new_webhook_world", "until"]

_numbers = itertools.count(1)


def now_us() -> int:
    return time.time_ns() // 1000


class Running(NamedTuple):
    notifier: Notifier
    sender: Sender
    keeper: Keeper
    work: asyncio.Task[None]


class WebhookWorld:
    """What the tests do, and what they see."""

    def __init__(self, activity: World, pool: Pool, link: RedisLink, reading: RedisLink) -> None:
        self.activity = activity
        self.pool = pool
        self.directory = Directory(pool, SHARDS)
        self.book = EndpointBook(pool, allow_private=True)
        self.streams = RedisWebhookStreams(link, reading)
        self.stores = NotifierStores(
            self.streams, ClickHouseActivityLog(activity.store), PostgresDeliveries(pool)
        )

    async def organisation(self, name: str = "") -> int:
        made = await self.directory.create_organisation(name or f"organisation {next(_numbers)}")
        return made.id

    def row(
        self, organisation_id: int, event: Any = "delivered", callback_url: str = "", **more: Any
    ) -> ActivityRow:
        message = Message(
            id=f"019aaaaa-0000-7000-8000-{next(_numbers):012x}", organisation_id=organisation_id,
            to="+989120000001", text="", sender="ACME", encoding="GSM-7", segments=1, units=2,
            accepted_at_us=now_us() - 1000, expires_at_us=0, reference="order 7", callback_url=callback_url,
        )  # fmt: skip
        return row_of(message, message.id, "normal", event, now_us(), attempt=1, code="0", **more)

    async def happen(self, *rows: ActivityRow) -> None:
        """These rows are recorded, all of one shard in one entry."""
        pipe = self.activity.redis.pipeline(transaction=False)
        for shard in range(SHARDS):
            if some := [row for row in rows if shard_of(row.organisation_id, SHARDS) == shard]:
                pipe.xadd(activity_key(shard), {b"b": blob_of(some)})
        await pipe.execute()

    async def archive(self) -> None:
        """Let all that was recorded be archived, and leave the streams."""
        draining = asyncio.Event()
        archiver = Archiver(self.activity.stream, self.activity.store, f"archiver {next(_numbers)}", QUICK)
        work = asyncio.create_task(archiver.run(draining))
        await until(self._nothing_waits)
        draining.set()
        await work

    async def _nothing_waits(self) -> bool:
        return await self.activity.waiting() == 0

    @asynccontextmanager
    async def notifying(
        self,
        name: str = "",
        *,
        permitted: Callable[[str], bool] | None = None,
        timeout_s: float = 5.0,
        connections: int = 8,
        kill: bool = False,
        wait: bool = True,
    ) -> AsyncIterator[Running]:
        """A notifier at work; `kill`: it ends as a process that is killed, without a word to the stores."""
        pools = HttpPools(connections=connections, timeout_s=timeout_s, permitted=permitted)
        notifier, table, sender, keeper = assemble_notifier(
            self.stores, self.book, pools, name or f"notifier {next(_numbers)}", shards=SHARDS,
            connections=connections, now_us=now_us, rng=random.Random(1), lease_s=0.6, retry_s=0.05,
        )  # fmt: skip
        await table.refresh()
        draining = asyncio.Event()
        work = asyncio.create_task(notifier.run(draining))

        async def reads() -> bool:
            return bool(notifier.shards)

        try:
            if wait:
                await until(reads)
            yield Running(notifier, sender, keeper, work)
        finally:
            if kill:
                work.cancel()
            draining.set()
            await asyncio.wait([work])
            await pools.stop()
            if not kill:
                work.result()

    async def kept(self, organisation_id: int) -> list[Any]:
        """The deliveries that are kept, the newest first."""
        return await self.book.deliveries(organisation_id, None, 2**62, 1000)

    async def due_now(self) -> None:
        """Time passes until everything kept is due."""
        async with self.pool.connection() as connection:
            await connection.execute("UPDATE webhook_deliveries SET due_at = now() WHERE failed_at IS NULL")

    async def settled(self) -> bool:
        """Whether each stream is settled to its end."""
        for shard in range(SHARDS):
            info = await self.activity.redis.exists(activity_key(shard))
            if info:
                last = (await self.activity.redis.xinfo_stream(activity_key(shard)))["last-generated-id"]
                if await self.activity.redis.hget(f"webhooks:{{{shard}}}:settled", "activity") != last:
                    return False
        return True


@asynccontextmanager
async def new_webhook_world(redis_url: str, archive_url: str, books_url: str) -> AsyncIterator[WebhookWorld]:
    """`archive_url`: a ClickHouse database that is migrated."""
    activity = World(in_database(redis_url, REDIS_DATABASE), archive_url)
    await activity.redis.flushdb()
    pool = await Pool.connect(books_url, timeout_s=20.0)
    link = RedisLink(activity.redis_url, timeout_s=5, name="webhooks")
    reading = RedisLink(activity.redis_url, timeout_s=5, name="webhooks read")
    await link.start()
    await reading.start()
    try:
        yield WebhookWorld(activity, pool, link, reading)
    finally:
        await link.close()
        await reading.close()
        await pool.close()
        await activity.close()
