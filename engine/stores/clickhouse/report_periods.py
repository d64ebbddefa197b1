"""Counts events by the days and months of time zones (0013_report_periods.sql).

A window is one insert, of one block into one partition, and with the counts goes the row that says until when
all is counted: so both are there or neither. The insert begins where the last one ended, or inserts nothing;
and its token is that place, so that one of two that come at the same time is kept.

What was archived before a series began is counted from the quarters of an hour, which are kept for good, with
the countries of numbers that were removed since; times are taken from their digests (`time_classes`). What
came after the series began is taken off. As events of recent messages come meanwhile, the rows of the last
weeks are counted too, day by day: a day that does not agree with that is made of the rows themselves, and so
are the last three. Older messages have no more events.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from engine.activity.report_rolling import Series
from engine.intake.addressing import SEND_AT_MAX_S, VALIDITY_MAX_S
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering
from engine.stores.clickhouse.report_period_sql import (
    DAY_MADE_SQL,
    DAYS_THERE_SQL,
    FROM_QUARTERS_SQL,
    FROM_ROWS_SQL,
    MADE_SQL,
    MONTHS_SQL,
    NOTE_SQL,
    SERIES_SQL,
    WANTED_SQL,
    WINDOW_SQL,
    insert_sql,
)  # fmt: skip

# A statement may take so long, seconds.
_TIMEOUT_S = 3600.0
# After its acceptance a message may be scheduled and live, and receipts come for eight days; and a day more.
_LIFE_S = SEND_AT_MAX_S + VALIDITY_MAX_S + 9 * 86_400
# So many days of before a series are made of rows.
_ROWS_DAYS = 3
# So many days after the last report in its days a zone is not counted any more.
_ASKED_DAYS = 60
# So many counts by quarters are read at a time, if a day has not more.
_READ_ROWS = 1_000_000
_DAY_S = 86_400
_EPOCH = date(1970, 1, 1)
_STAGING = "report_period_filling_"
_SETTINGS = {
    "async_insert": 0,
    "wait_end_of_query": 1,
    "max_threads": 2,
    # Beyond so many bytes ClickHouse groups on its disk.
    "max_bytes_before_external_group_by": 400_000_000,
}
# One block, and so one token and one part.
WINDOW_SETTINGS = {
    **_SETTINGS,
    "insert_deduplicate": 1,
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 100_000_000,
    "min_insert_block_size_bytes": 1 << 32,
}


def _chunks(days: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cut days, and how many counts each has, into parts of about `_READ_ROWS`: the first day of each, and
    that after its last."""
    begin, rows = 0, 0
    for place, (day, count) in enumerate(days):
        rows += count
        if rows >= _READ_ROWS or place + 1 == len(days):
            yield days[begin][0], day + 1
            begin, rows = place + 1, 0


def _dates(first: int, last: int) -> dict[str, date]:
    """Parameters of days since 1970."""
    return {"first": _EPOCH + timedelta(first), "last": _EPOCH + timedelta(last)}


def _quoted(zone: str) -> str:
    assert re.fullmatch(r"[\w/+-]+", zone)
    return f"'{zone}'"


class ClickHouseReportPeriods(ClickHouseAdapter):
    """The port `ReportPeriods`. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError for a malformed URL."""
        super().__init__(url, _TIMEOUT_S)

    async def ready(self) -> bool:
        """Whether the counts by quarters are complete."""
        [(ready,)] = await self._query(
            "SELECT (SELECT max(from_ms) FROM report_start) <= (SELECT max(until_ms) FROM report_filled)"
        )
        return bool(ready)

    async def zones(self) -> list[str]:
        """The zones that reports were asked for in the last 60 days, the longest known first."""
        found = await self._query(
            "SELECT zone FROM report_zones GROUP BY zone "  # noqa: S608 - a number
            f"HAVING max(asked) >= today() - {_ASKED_DAYS} ORDER BY min(since), zone"
        )
        return [str(zone) for (zone,) in found]

    async def series(self) -> list[Series]:
        """All series."""
        return [
            Series(zone=zone, from_ms=int(from_ms), filled=bool(filled), until_ms=int(until_ms))
            for zone, from_ms, filled, until_ms in await self._query(SERIES_SQL)
        ]

    async def begin(self, zone: str, from_ms: int) -> None:
        """Begin a series: its first window begins at `from_ms`, milliseconds since 1970. Safe to repeat."""
        parameters = {"zone": zone, "from": from_ms, "filled": 0}
        await self._run(insert_sql("report_periods") + NOTE_SQL, parameters)

    async def roll(self, series: Series, until_ms: int) -> None:
        """Count what was archived from where the series ends to `until_ms`, milliseconds since 1970."""
        begin = series.until_ms
        parameters = {
            "zone": series.zone, "from": series.from_ms, "begin": begin, "end": until_ms,
        }  # fmt: skip
        token = f"{series.zone}:{series.from_ms}:{begin}"
        await self._run(WINDOW_SQL, parameters, {**WINDOW_SETTINGS, "insert_deduplication_token": token})

    async def drop(self, series: Series) -> None:
        """Remove a series. A report that reads it meanwhile finds out because the windows go first."""
        for filled in (0, 1):
            partition = f"({_quoted(series.zone)}, {series.from_ms:d}, {filled})"
            await self._run(f"ALTER TABLE report_periods DROP PARTITION {partition}")

    async def fill(self, series: Series) -> AsyncGenerator[None, None]:
        """Count all rows of before the series; yields after each step.

        Killed, or closed in the middle: nothing of them is counted, and the next filling drops the tables.
        """
        await self._drop_leftovers()
        staging = f"{_STAGING}{uuid.uuid4().hex}"
        parameters: dict[str, Any] = {"zone": series.zone, "from": series.from_ms, "filled": 1}
        await self._run(f"CREATE TABLE {staging} AS report_periods")
        recent = (series.from_ms // 1000 - _LIFE_S) // _DAY_S
        from_rows = series.from_ms // 1000 // _DAY_S - _ROWS_DAYS
        wanted = {
            int(day): list(map(int, sums))
            for day, *sums in await self._query(
                WANTED_SQL, {**parameters, "oldest": max(0, (recent - 1) * _DAY_S)}
            )
        }
        days = [(int(day), int(rows)) for day, rows in await self._query(DAYS_THERE_SQL, parameters)]
        older = [day for day in days if day[0] < min(recent, from_rows)]
        # Such as were dropped.
        dropped = [(day, day + 1) for day, _ in days if recent <= day < from_rows and day not in wanted]
        for first, last in (*_chunks(older), *dropped):
            for counted in FROM_QUARTERS_SQL:
                await self._run(insert_sql(staging) + counted, {**parameters, **_dates(first, last)})
            yield
        for first, last in _chunks([d for d in days if recent <= d[0] < from_rows and d[0] in wanted]):
            await self._fill_recent(staging, first, last, wanted, parameters)
            yield
        for day in sorted(day for day in wanted if day >= from_rows):
            await self._run(insert_sql(staging) + FROM_ROWS_SQL, {**parameters, **_dates(day, day + 1)})
            yield
        await self._run(insert_sql(staging) + MONTHS_SQL.replace("MADE", staging), parameters)
        await self._run(insert_sql(staging) + NOTE_SQL, parameters)
        partition = f"({_quoted(series.zone)}, {series.from_ms:d}, 1)"
        await self._run(f"ALTER TABLE report_periods REPLACE PARTITION {partition} FROM {staging}")
        await self._run(f"DROP TABLE {staging}")

    async def _fill_recent(
        self, staging: str, first: int, last: int, wanted: Mapping[int, list[int]], parameters: dict[str, Any]
    ) -> None:
        """Count days of which events may have come since the series began: from quarters those that agree
        with `wanted`, the others from the rows."""
        made, dates = f"{staging}_recent", {**parameters, **_dates(first, last)}
        await self._run(f"CREATE TABLE {made} AS report_periods")
        for counted in FROM_QUARTERS_SQL:
            await self._run(insert_sql(made) + counted, dates)
        found = {
            int(day): list(map(int, sums))
            for day, *sums in await self._query(MADE_SQL.replace("MADE", made), parameters)
        }
        alike = [day for day in range(first, last) if found.get(day) == wanted.get(day)]
        of_days = f"SELECT * FROM {made} WHERE {DAY_MADE_SQL} IN ({{days:Array(UInt32)}})"  # noqa: S608 - our own names
        await self._run(f"INSERT INTO {staging} {of_days}", {**parameters, "days": alike})
        for day in range(first, last):
            if day not in alike:
                await self._run(insert_sql(staging) + FROM_ROWS_SQL, {**parameters, **_dates(day, day + 1)})
        await self._run(f"DROP TABLE {made}")

    async def _drop_leftovers(self) -> None:
        found = await self._query(
            "SELECT name FROM system.tables "  # noqa: S608 - our own name
            f"WHERE database = currentDatabase() AND startsWith(name, '{_STAGING}')"
        )
        for (name,) in found:
            await self._run(f"DROP TABLE IF EXISTS {name}")

    async def _query(self, sql: str, parameters: dict[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        client = await self._connected()
        async with answering(self._url, _TIMEOUT_S):
            found = await client.query(sql, parameters=parameters, settings={"max_threads": 2})
        rows: Sequence[Sequence[Any]] = found.result_rows
        return rows

    async def _run(
        self, sql: str, parameters: dict[str, Any] | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        client = await self._connected()
        async with answering(self._url, _TIMEOUT_S):
            await client.command(sql, parameters=parameters, settings=settings or _SETTINGS)
