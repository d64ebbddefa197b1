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
from typing import Any, NamedTuple

from clickhouse_connect.driver.exceptions import ClickHouseError

from engine.errors import ConfigError
from engine.stores.clickhouse.client import ClickHouseUrl, answering, connect, parse_url
from engine.stores.clickhouse.cluster import on_cluster
from engine.stores.clickhouse.division import urls_of
from engine.written_numbers import plural

_CREATE = """CREATE TABLE IF NOT EXISTS smsengine_division (
    number    UInt16,
    divisions UInt16
)
ENGINE = MergeTree ORDER BY number
"""
_HAS = """
SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'smsengine_division'"""
_NOTED = "SELECT DISTINCT number, divisions FROM smsengine_division ORDER BY ALL LIMIT 2"
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
        noted = await _noted(client)
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
    """Confirm that each database of `url`, which all have their tables, is the division that it is named as.

    Nothing is changed. Raises ConfigError, Unavailable.
    """
    places = [parse_url(one) for one in urls_of(url)]
    for number, place in enumerate(places, 1):
        mark = Mark(number, len(places))
        client = await connect(place, database=place.database, timeout_s=timeout_s)
        try:
            await confirm_cluster(client, place, mark, timeout_s)
            async with answering(place, timeout_s):
                noted = await _noted(client)
        finally:
            await client.close()
        if wrong := wrong_mark(noted, mark, [True] * len(places)):
            raise ConfigError(f"{named(place, mark)} {wrong}")


async def _noted(client: Any) -> list[Mark]:
    """What its database says of itself; two notes are one too many."""
    [(has,)] = (await client.query(_HAS)).result_rows
    return [Mark(*row) for row in (await client.query(_NOTED)).result_rows] if has else []


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
