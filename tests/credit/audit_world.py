"""What an audit looks at, all of it real: books, streams and activity, with those who write them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import clickhouse_connect

from engine.activity.archiver import Archiver
from engine.credit.laws import Audit
from engine.stores.audit import AuditReader
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.migrate import migrate_clickhouse, migrate_postgres
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.link import RedisLink, load_functions
from supervisor.embedded.servers import Server, start_all, start_clickhouse, start_redis
from tests.activity.world import QUICK, in_database
from tests.credit.test_credit import SHARDS, World, accepted, drafts, eventually, render, world

LAWS = ("conservation", "quotas", "journal", "held", "queues", "activity", "checkpoints", "unbooked")


class Stores:
    """Three servers that a test may stop."""

    def __init__(self, folder: Path) -> None:
        self._servers: dict[str, Server] = {
            "postgres": start_all(folder, {"postgres"})["postgres"],
            "redis": start_redis(folder),
            "clickhouse": start_clickhouse(folder),
        }
        # Whether the databases were made.
        self.made = False

    def url(self, name: str) -> str:
        return self._servers[name].url

    def kill(self, name: str) -> None:
        os.kill(self._servers[name].pid, signal.SIGKILL)

    def start_again(self, name: str) -> None:
        self._servers[name].restart()

    def freeze(self, name: str, how: int = signal.SIGSTOP) -> None:
        freeze(self._servers[name].pid, how)

    def thaw(self, name: str) -> None:
        self.freeze(name, signal.SIGCONT)

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop(10)


def freeze(server_pid: int, how: int = signal.SIGSTOP) -> None:
    """Freeze a server with all its processes; SIGCONT thaws it."""
    for pid in _with_children(server_pid):
        with suppress(ProcessLookupError):
            os.kill(pid, how)


def _with_children(pid: int) -> list[int]:
    found = [pid]
    for at in found:
        with suppress(OSError):
            found += [int(c) for c in Path(f"/proc/{at}/task/{at}/children").read_text().split()]
    return found


class Audited:
    """One engine's stores with a ledger, a holder and an archiver at work."""

    def __init__(self, stores: Stores, w: World) -> None:
        self.stores = stores
        self.world = w
        self.activity_url = in_database(stores.url("clickhouse"), "audited")
        # Where those who write are at work, who may end before the audit.
        self._writers = World(w.redis_url, w.postgres_url)
        self.ledger_draining: asyncio.Event
        self._archiver_draining = asyncio.Event()
        self._archiver: asyncio.Task[None]
        self.link: RedisLink
        self.reader: AuditReader
        self._ingest: Any = None

    async def end_archiver(self) -> None:
        """Drain the archiver, until it has ended; again does nothing."""
        self._archiver_draining.set()
        await self._archiver

    async def end_writers(self) -> None:
        """Drain the ledger, the archiver and the holder, until they have ended: nobody but the caller then
        asks the stores. Again does nothing."""
        await self._writers.stack.aclose()

    def another_reader(self) -> AuditReader:
        """As another process has it."""
        activity = ClickHouseActivityStore(self.activity_url)
        self.world.stack.push_async_callback(activity.close)
        return AuditReader(self.world.postgres_url, self.link, activity, SHARDS)

    async def begin(self) -> None:
        self.link = await self.world.open_link()
        self.reader = self.another_reader()
        self.world.stack.push_async_callback(self.end_writers)
        self.ledger_draining = await self._writers.ledger()
        stream = RedisActivityStream(self.stores.url("redis"), SHARDS)
        store = ClickHouseActivityStore(self.activity_url)
        archiver = Archiver(stream, store, "a1", QUICK)
        self._archiver = asyncio.create_task(archiver.run(self._archiver_draining))

        async def end() -> None:
            await self.end_archiver()
            await stream.close()
            await store.close()

        self._writers.stack.push_async_callback(end)
        self._ingest, _ = await self._writers.holder("h1")

    async def organisations(self, count: int, messages: int, units: int = 1000) -> list[int]:
        """New ones that have each sent `messages`, all booked and archived."""
        made = [await self.world.organisation(units) for _ in range(count)]
        for organisation_id in made:
            await self.send(organisation_id, messages)
        await self.settled()
        return made

    async def send(self, organisation_id: int, messages: int) -> None:
        assert accepted(await self._ingest.submit(organisation_id, drafts(messages), render=render))

    async def settled(self) -> None:
        """Until nothing waits for the archiver."""

        async def idle() -> bool:
            lengths = await self.link.batch([("XLEN", f"activity:{{{s}}}") for s in range(SHARDS)])
            return not any(lengths)

        await eventually(idle)

    async def live(self, days: int, from_ms: int, step_ms: int = 86_400_000) -> None:
        """Each organisation is granted, holds and is charged a unit a day, for so many days from then on."""
        await self.books(
            "INSERT INTO journal (organisation_id, movement, debit, credit, units, shard, position)"
            " SELECT organisation_id, m.movement, m.debit, m.credit, 1, shard, '0-0'"
            " FROM generate_series(1, $1::int), accounts, (VALUES ('grant', 'available', 'granted'),"
            " ('hold', 'granted', 'held'), ('capture', 'held', 'captured')) AS m (movement, debit, credit)",
            days,
        )
        await self.books("UPDATE accounts SET available = available - $1, captured = captured + $1", days)
        rows = await self.books("SELECT organisation_id, shard FROM accounts")
        shards = ", ".join(f"({row[0]}, {row[1]})" for row in rows)
        self.activity(
            "INSERT INTO activity"
            " (at, accepted_at, organisation_id, event, units, shard, stream_ms, stream_seq)"
            " SELECT fromUnixTimestamp64Milli(toInt64(ms), 'UTC') AS at, at, a.1, e.1, 1, a.2,"
            f" toUInt64({from_ms} + day * {step_ms}) AS ms, a.1 * 2 + e.2"
            f" FROM (SELECT number AS day, arrayJoin([{shards}]) AS a,"
            f" arrayJoin([('accepted', 0), ('sent', 1)]) AS e FROM numbers({days}))"
            " SETTINGS max_partitions_per_insert_block = 1000"
        )

    async def books(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.world.postgres_url)
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    def activity(self, sql: str) -> list[Sequence[Any]]:
        client = clickhouse_connect.get_client(dsn=self.activity_url)
        try:
            return list(client.query(sql).result_rows)
        finally:
            client.close()


async def _empty_books(stores: Stores) -> str:
    """The address of the books, a copy of a database that is migrated once for all tests."""
    admin = await asyncpg.connect(stores.url("postgres"))
    begin = stores.url("postgres").rpartition("/")[0]
    if not stores.made:
        await admin.execute("CREATE DATABASE empty_books")
        await migrate_postgres(f"{begin}/empty_books")
    await admin.execute("DROP DATABASE IF EXISTS books WITH (FORCE)")
    await admin.execute("CREATE DATABASE books TEMPLATE empty_books")
    await admin.close()
    return f"{begin}/books"


async def _empty_activity(stores: Stores) -> None:
    """All tables of the activity without a row but those that say what is applied."""
    url = in_database(stores.url("clickhouse"), "audited")
    if not stores.made:
        await migrate_clickhouse(url)
        return
    client = clickhouse_connect.get_client(dsn=url)
    tables = client.query(
        "SELECT name FROM system.tables WHERE database = 'audited' AND engine LIKE '%MergeTree'"
        " AND total_rows > 0 AND name != 'smsengine_migrations'"
    ).result_rows
    for (table,) in tables:
        client.command(f"TRUNCATE TABLE `{table}`")
    client.close()


@asynccontextmanager
async def audited(stores: Stores) -> AsyncIterator[Audited]:
    """Emptied stores, and everybody at work on them."""
    books_url = await _empty_books(stores)
    link = RedisLink(stores.url("redis"), timeout_s=5, name="test")
    await link.start()
    await link.call("FLUSHALL")
    await load_functions(link)
    await link.close()
    await _empty_activity(stores)
    stores.made = True
    async with world(stores.url("redis"), books_url) as w:
        found = Audited(stores, w)
        await found.begin()
        yield found


def verdicts(audit: Audit) -> dict[str, str]:
    return {check.name: check.verdict for check in audit.checks}


def not_checked(audit: Audit) -> set[str]:
    return {name for name, verdict in verdicts(audit).items() if verdict == "not_checked"}


def broken(audit: Audit) -> set[str]:
    return {name for name, verdict in verdicts(audit).items() if verdict == "not_clean"}


async def given(auditing: Awaitable[Audit]) -> Audit:
    """The audit. It fails when none comes: what it waits for never answers."""
    async with asyncio.timeout(90):
        return await auditing
