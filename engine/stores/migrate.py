"""Bring the tables of PostgreSQL and ClickHouse to this version.

Scripts are the files `NNNN_what.sql` in `postgres/migrations/` and `clickhouse/migrations/`. They
are applied in the order of their numbers, each once. A table `smsengine_migrations` in each
database keeps the number, the name and the SHA-256 of every applied script. A script is
never changed once it has been applied anywhere; a change is a new script.

PostgreSQL: one session at a time migrates (advisory lock). Each script runs in a transaction of
its own together with its record. Killed here: the script is applied with its record or not
at all, and the lock is released with the connection.

ClickHouse has neither locks nor transactions for this, so every statement of a script
must be one that may be executed again (`IF NOT EXISTS`). Killed between a statement and
the record, or two sessions at once: statements run again and do nothing. The record may be
there twice, which counts as once.

Divisions of ClickHouse (`engine.stores.clickhouse.division`) are migrated together, statement by
statement: of a cluster with a shard for each, a statement about a table is carried out in all of them
whichever is asked, and what a later one inserts must not depend on which was asked first.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import msgspec

from engine.errors import ConfigError
from engine.stores.clickhouse.client import ClickHouseUrl, answering, connect
from engine.stores.clickhouse.cluster import on_cluster
from engine.stores.clickhouse.division import places_of
from engine.stores.clickhouse.division_mark import (
    Mark,
    confirm_cluster,
    confirm_divisions,
    confirm_mark,
    confirm_replicated,
    quoted,
)
from engine.stores.clickhouse.part_settings import settle_parts
from engine.stores.postgres.connection import connect as connect_postgres
from engine.stores.postgres.errors import Remedy, judged, translated

_FOLDER = Path(__file__).parent
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
# The number of the advisory lock in this database: "SMS1" in ASCII.
_LOCK = 0x534D5331

_CREATE_POSTGRES = """
CREATE TABLE IF NOT EXISTS smsengine_migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_CREATE_CLICKHOUSE = """CREATE TABLE IF NOT EXISTS smsengine_migrations (
    number     UInt32,
    name       String,
    sha256     String,
    applied_at DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree ORDER BY number
"""
_HAS_POSTGRES = "SELECT to_regclass('smsengine_migrations') IS NOT NULL"
_HAS_CLICKHOUSE = """
SELECT 1 FROM system.tables WHERE database = currentDatabase() AND name = 'smsengine_migrations'"""

_ENGINE_CLICKHOUSE = """
SELECT engine FROM system.tables WHERE database = currentDatabase() AND name = 'smsengine_migrations'"""


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """One numbered file of SQL."""

    number: int
    name: str
    sql: str
    sha256: str


def scripts_in(folder: Path) -> list[Script]:
    """The scripts of a folder in order. Raises ConfigError for a wrong name or a number used twice."""
    scripts: list[Script] = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ConfigError(f"The migration {path.name} must be named like 0001_what.sql.")
        if scripts and scripts[-1].number == int(match[1]):
            raise ConfigError(f"The migrations {scripts[-1].name} and {path.name} have the same number.")
        text = path.read_bytes()
        digest = hashlib.sha256(text).hexdigest()
        scripts.append(Script(number=int(match[1]), name=path.name, sql=text.decode(), sha256=digest))
    return scripts


def due(scripts: Sequence[Script], applied: Mapping[int, str], where: str) -> list[Script]:
    """The scripts still to apply. `applied`: {number: SHA-256}; `where`: the store's name for errors.

    Applied numbers above all of ours belong to a newer version and are left alone. Raises ConfigError
    when an applied script has changed or is missing, or a new one comes before an applied one.
    """
    ours = {script.number: script for script in scripts}
    newest = max(ours, default=0)
    for number, digest in applied.items():
        if number <= newest and number not in ours:
            raise ConfigError(f"{where} has migration {number:04} applied, but its file is missing.")
        if number in ours and ours[number].sha256 != digest:
            raise ConfigError(
                f"The migration {ours[number].name} has changed since it was applied to {where}; "
                "restore the file and put the change into a new one."
            )
    late = [s for s in scripts if s.number not in applied and s.number < max(applied, default=0)]
    if late:
        raise ConfigError(
            f"The migration {late[0].name} must have a number above {max(applied):04}, "
            f"which {where} has applied."
        )
    return [script for script in scripts if script.number not in applied]


async def migrate_postgres(url: str, folder: Path | None = None, timeout_s: float = 600.0) -> list[str]:
    """Apply the scripts that are due to PostgreSQL; the names of those applied now.

    `timeout_s` bounds the whole call, with the wait for another process that migrates. Raises
    ConfigError, Unavailable.
    """
    scripts = scripts_in(folder or _FOLDER / "postgres" / "migrations")
    async with _postgres(url, timeout_s) as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        # A user who may make no tables is enough where nothing is due.
        if not await connection.fetchval(_HAS_POSTGRES):
            await connection.execute(_CREATE_POSTGRES)
        rows = await connection.fetch("SELECT number, sha256 FROM smsengine_migrations")
        applied = {row["number"]: row["sha256"] for row in rows}
        names = []
        for script in due(scripts, applied, "PostgreSQL"):
            await _apply_postgres(connection, script)
            names.append(script.name)
        return names


async def _apply_postgres(connection: Any, script: Script) -> None:
    try:
        async with connection.transaction():
            await connection.execute(script.sql)
            await connection.execute(
                "INSERT INTO smsengine_migrations (number, name, sha256) VALUES ($1, $2, $3)",
                script.number,
                script.name,
                script.sha256,
            )
    except asyncpg.PostgresError as e:
        if judged(e)[0] is Remedy.WAIT:
            raise
        raise ConfigError(f"The migration {script.name} fails on PostgreSQL and was undone: {e}.") from e


@asynccontextmanager
async def _postgres(url: str, timeout_s: float) -> AsyncIterator[Any]:
    """A connection for this block, which has a deadline and raises the engine's errors."""
    connection = None
    try:
        with translated(in_full=True):
            async with asyncio.timeout(timeout_s):
                connection = await connect_postgres(url, timeout_s=min(10.0, timeout_s))
                yield connection
    finally:
        if connection is not None:
            connection.terminate()


async def migrate_clickhouse(url: str, folder: Path | None = None, timeout_s: float = 600.0) -> list[str]:
    """Make the databases, and apply the scripts that are due to ClickHouse; the names of those applied now.

    `url` may be several. The tables also get the settings that make an insert cheaper, as far as the server
    has them. `timeout_s` bounds each step. Raises ConfigError, Unavailable.
    """
    scripts = scripts_in(folder or _FOLDER / "clickhouse" / "migrations")
    # What is refused leaves no database behind.
    await confirm_divisions(url, timeout_s)
    async with AsyncExitStack() as stack:
        divisions: list[_Division] = []
        for number, one in enumerate(places := places_of(url), 1):
            await _make_database(one, Mark(number, len(places)), timeout_s)
            client = await connect(one, database=one.database, timeout_s=timeout_s)
            stack.push_async_callback(client.close)
            divisions.append(_Division(client, one, await _applied(client, one, timeout_s)))
        made = [bool(of.applied) for of in divisions]
        for number, of in enumerate(divisions, 1):
            mark = Mark(number, len(divisions))
            await confirm_mark(of.client, of.place, mark, made, timeout_s)
        lacking = [(of, due(scripts, of.applied, "ClickHouse")) for of in divisions]
        names = []
        for script in scripts:
            if those := [of for of, missing in lacking if script in missing]:
                await _apply_clickhouse(those, script, timeout_s)
                names.append(script.name)
        for of in divisions:
            await settle_parts(of.client, of.place, timeout_s)
        return names


class _Division(NamedTuple):
    """One ClickHouse, and the scripts that it has: {number: SHA-256}."""

    client: Any
    place: ClickHouseUrl
    applied: dict[int, str]


async def _applied(client: Any, place: ClickHouseUrl, timeout_s: float) -> dict[int, str]:
    async with answering(place, timeout_s):
        # A user who may make no tables is enough where nothing is due.
        if not (await client.query(_HAS_CLICKHOUSE)).result_rows:
            await client.command(on_cluster(_CREATE_CLICKHOUSE, place.cluster))
        [(engine,)] = (await client.query(_ENGINE_CLICKHOUSE)).result_rows
        confirm_replicated(engine, place)
        # When two versions of one script were applied at once, the digest is "", which fits no script.
        found = await client.query(
            "SELECT number, if(uniqExact(sha256) = 1, any(sha256), '') "
            "FROM smsengine_migrations GROUP BY number"
        )
    return dict(found.result_rows)


async def _apply_clickhouse(divisions: Sequence[_Division], script: Script, timeout_s: float) -> None:
    """Apply a script to these divisions, statement by statement."""
    for statement in statements_of(script.sql):
        for client, place, _ in divisions:
            async with answering(place, timeout_s):
                await client.command(on_cluster(statement, place.cluster))
    for client, place, _ in divisions:
        async with answering(place, timeout_s):
            await client.insert(
                "smsengine_migrations",
                [[script.number, script.name, script.sha256]],
                column_names=["number", "name", "sha256"],
                settings={"async_insert": 0, "wait_end_of_query": 1},
            )


async def _make_database(place: ClickHouseUrl, mark: Mark, timeout_s: float) -> None:
    if place.database == "default" and not place.cluster:
        return
    client = await connect(place, database="default", timeout_s=timeout_s)
    try:
        await confirm_cluster(client, place, mark, timeout_s)
        async with answering(place, timeout_s):
            found = await client.query(
                "SELECT 1 FROM system.databases WHERE name = {name:String}",
                parameters={"name": place.database},
            )
            if not found.result_rows:
                made = f"CREATE DATABASE IF NOT EXISTS {quoted(place.database)}"
                await client.command(on_cluster(made, place.cluster))
    finally:
        await client.close()


def statements_of(sql: str) -> list[str]:
    """The statements of a ClickHouse script, because a server takes one statement at a time.

    Each ends with a semicolon at the end of a line. Lines that begin with `--` are dropped.
    """
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    return [s.strip() for s in re.split(r";\s*\n", "\n".join(lines) + "\n") if s.strip()]
