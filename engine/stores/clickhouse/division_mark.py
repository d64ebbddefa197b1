"""What a database says of which division it is, so that none is ever taken for another.

An organisation's division follows from its number and from how many divisions there are. Were one added, or
their order changed, its rows would be looked for where they are not, and new ones stored apart from them. So
each database notes its number and how many there are, before the first of its tables is made; one that has
all rows has no such note, as it never had.

All notes are written before the first script. Killed before that: the next start writes them. Two starts at
once: both write the same, or the second of two that disagree finds both notes and refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from clickhouse_connect.driver.exceptions import ClickHouseError

from engine.errors import ConfigError
from engine.stores.clickhouse.client import ClickHouseUrl, answering, connect
from engine.stores.clickhouse.cluster import on_cluster
from engine.stores.clickhouse.division import places_of
from engine.written_numbers import plural

_CREATE = """CREATE TABLE IF NOT EXISTS smsengine_division (
    number    UInt16,
    divisions UInt16
)
ENGINE = MergeTree ORDER BY number
"""
_NOTED = "SELECT DISTINCT number, divisions FROM {}.smsengine_division ORDER BY ALL LIMIT 2"
_APPLIED = "SELECT count() FROM {}.smsengine_migrations"
_ENGINE = """
SELECT engine FROM system.tables WHERE database = {database:String} AND name = {table:String}"""
# The server's code for what the user may not do.
_NO_RIGHT = 497
SHARDS_SQL = "SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = {cluster:String}"


class Mark(NamedTuple):
    """Which division a database is: its number, from 1, of so many."""

    number: int
    divisions: int


def named(place: ClickHouseUrl, mark: Mark) -> str:
    """A division as its errors name it: several may be databases of one server."""
    if mark.divisions == 1:
        return f"ClickHouse at {place.shown}"
    return (
        f"ClickHouse at {place.shown}, database {place.database} (number {mark.number} of clickhouse.urls),"
    )


async def confirm_mark(
    client: Any, place: ClickHouseUrl, mark: Mark, made: Sequence[bool], timeout_s: float
) -> None:
    """Confirm that the database of `client`, in `place`, is that division; note it when it is new.

    `made`: of each division, whether it has tables. Raises ConfigError when it is another, or has the rows of
    all organisations; and Unavailable.
    """
    async with answering(place, timeout_s):
        noted = await _noted(client, place.database)
        if wrong := wrong_mark(noted, mark, made):
            raise ConfigError(f"{named(place, mark)} {wrong}")
        if noted or mark.divisions == 1:
            return
        await client.command(on_cluster(_CREATE, place.cluster))
        await client.insert(
            "smsengine_division",
            [list(mark)],
            column_names=["number", "divisions"],
            settings={"async_insert": 0, "wait_end_of_query": 1},
        )


async def confirm_divisions(url: str, timeout_s: float) -> None:
    """Confirm that each database of `url` can be the division that it is named as, whether it is there
    already or not, and that its tables are those of a cluster if `url` names one.

    Nothing is changed. Raises ConfigError, Unavailable.
    """
    places = places_of(url)
    marks = [Mark(number, len(places)) for number in range(1, len(places) + 1)]
    async with AsyncExitStack() as stack:
        clients = []
        for place in places:
            client = await connect(place, database="default", timeout_s=timeout_s)
            stack.push_async_callback(client.close)
            clients.append(client)
        each = list(zip(clients, places, marks, strict=True))
        # In this order: all notes are written before the first table is made. So another start that goes on
        # meanwhile is not taken for one that lacks them.
        made = [await _is_made(*one, timeout_s) for one in each]
        for client, place, mark in each:
            async with answering(place, timeout_s):
                noted = await _noted(client, place.database)
            if wrong := wrong_mark(noted, mark, made):
                raise ConfigError(f"{named(place, mark)} {wrong}")


async def _is_made(client: Any, place: ClickHouseUrl, mark: Mark, timeout_s: float) -> bool:
    """Whether the database, which need not be there, has tables. Raises ConfigError when it, or the cluster,
    cannot be that of `place`; and Unavailable."""
    await confirm_cluster(client, place, mark, timeout_s)
    async with answering(place, timeout_s):
        engine = await _engine(client, place.database, "smsengine_migrations")
        confirm_replicated(engine, place)
        if engine is None:
            return False
        [(rows,)] = (await client.query(_APPLIED.format(quoted(place.database)))).result_rows
        return bool(rows)


async def _engine(client: Any, database: str, table: str) -> str | None:
    """The engine of a table; None: there is no such table."""
    found = await client.query(_ENGINE, parameters={"database": database, "table": table})
    return next((engine for (engine,) in found.result_rows), None)


def confirm_replicated(engine: str | None, place: ClickHouseUrl) -> None:
    """Raises ConfigError when the tables were made for one server, and are to be those of a cluster, or the
    other way. `engine`: of the table of migrations; None: there is none yet."""
    if engine is None:
        return
    if engine.startswith("Replicated") and not place.cluster:
        raise ConfigError("ClickHouse has the tables of a cluster; clickhouse.cluster must name it.")
    if place.cluster and not engine.startswith("Replicated"):
        raise ConfigError(
            "ClickHouse has tables that are not replicated; leave out clickhouse.cluster, or name another "
            "database in clickhouse.url."
        )


def quoted(name: str) -> str:
    """The name of a database as SQL has it."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


async def _noted(client: Any, database: str) -> list[Mark]:
    """What a database says of itself; two notes are one too many."""
    if await _engine(client, database, "smsengine_division") is None:
        return []
    rows = (await client.query(_NOTED.format(quoted(database)))).result_rows
    return [Mark(*row) for row in rows]


def wrong_mark(noted: Sequence[Mark], mark: Mark, made: Sequence[bool]) -> str:
    """Why a database with these notes cannot be that division; "": it can. `made`: of each division, whether
    it has tables."""
    if len(noted) > 1:
        return (
            "was begun as two divisions at once; drop its database, and start one node alone with the right "
            "clickhouse.urls."
        )
    if noted and noted[0] != mark:
        was = f"has division {noted[0].number} of {noted[0].divisions} in that database"
        if mark.divisions == 1:
            return f"{was}; clickhouse.urls must name all {noted[0].divisions}, in their order."
        return (
            f"{was}, and clickhouse.urls has it as number {mark.number} of {mark.divisions}; they must be as "
            "many as at first, in the same order."
        )
    if not noted and not made[mark.number - 1] and any(made):
        return (
            "has no tables in that database, but other divisions have; clickhouse.urls must name the one "
            "with the rows. If its rows are lost, note in the empty database which division it is, as "
            "docs/operations.md says (a division that lost its rows)."
        )
    if not noted and mark.divisions > 1 and any(made):
        return (
            "has the rows of all organisations in that database, which cannot be divided; name new databases "
            "in clickhouse.urls, or that one alone in clickhouse.url."
        )
    return ""


async def confirm_cluster(client: Any, place: ClickHouseUrl, mark: Mark, timeout_s: float) -> None:
    """Confirm that the cluster of `place`, if it names one, is of one shard, or has one for each division.

    Where the user may not read which clusters there are, nothing is known of it, and nothing said.

    Raises ConfigError, Unavailable.
    """
    if not place.cluster:
        return
    async with answering(place, timeout_s):
        try:
            found = await client.query(SHARDS_SQL, parameters={"cluster": place.cluster})
        except ClickHouseError as e:
            if getattr(e, "code", None) != _NO_RIGHT:
                raise
            return
    if wrong := wrong_cluster(place.cluster, int(found.result_rows[0][0]), mark.divisions):
        raise ConfigError(f"{named(place, mark)}: {wrong}")


def wrong_cluster(cluster: str, shards: int, divisions: int) -> str:
    """Why a cluster of so many shards cannot be that of so many divisions; "": it can, or the server does not
    know it, which it says by itself."""
    if shards in (0, 1, divisions):
        return ""
    return (
        f"the cluster {cluster} has {shards} {plural('shard', shards)}, and the settings name {divisions} "
        f"{plural('server', divisions)}; clickhouse.urls must name one of each shard, or a balancer before "
        "its replicas."
    )
