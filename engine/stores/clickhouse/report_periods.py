"""Counts events by the quarters of an hour of UTC, and by the days and months of time zones
(0015_report_series.sql).

A window is one insert, of one block into one partition, and with the counts goes the row that says until when
all is counted: so both are there or neither. The insert begins where the last one ended, or inserts nothing;
and its token is that place, so that one of two that come at the same time is kept.

What was archived before the series of UTC began is counted from the quarters of an hour that a view counts,
which are kept for good, with the countries of numbers that were removed since; times are taken from their
digests (`time_classes`). What came after the series began is taken off. As events of recent messages come
meanwhile, the rows of the last weeks are counted too, day by day: a day that does not agree with that is made
of the rows themselves, and so are the last three. Older messages have no more events.

Narrow counts are made of the others, days by days. A series of UTC of an earlier version, which has none, is
followed by one that is filled from it.

Every other zone begins as a copy of what is counted of UTC, which says itself how far that is. Its parts are
the same files, so it takes no time and no room, and nothing changes in it while its quarters are added up.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import date, timedelta
from typing import Any

from engine.activity.report_rolling import Series
from engine.intake.addressing import SEND_AT_MAX_S, VALIDITY_MAX_S
from engine.stores.clickhouse.counting import SETTINGS, ClickHouseCounting
from engine.stores.clickhouse.report_narrow_sql import (
    DAY,
    DAYS_SQL,
    HOURS_ALONE_SQL,
    HOURS_BY_SQL,
    MONTH,
    QUARTER,
)
from engine.stores.clickhouse.report_period_sql import (
    COPY_SQL,
    DAY_MADE_SQL,
    DAYS_OF_QUARTERS_SQL,
    DAYS_OF_UTC_SQL,
    FROM_QUARTERS_SQL,
    FROM_ROWS_SQL,
    FROM_UTC_SQL,
    MADE_SQL,
    MONTHS_SQL,
    NOTE_SQL,
    SERIES_SQL,
    TABLE,
    WANTED_SQL,
    insert_sql,
    window_sql,
)  # fmt: skip

# After its acceptance a message may be scheduled and live, and receipts come for eight days; and a day more.
_LIFE_S = SEND_AT_MAX_S + VALIDITY_MAX_S + 9 * 86_400
# So many days of before a series are made of rows.
_ROWS_DAYS = 3
# So many days after the last report in its days a zone is not counted any more.
_ASKED_DAYS = 60
# So many counts by quarters are read at a time, if a day has not more: a few seconds of one processor.
_READ_ROWS = 250_000
_DAY_S = 86_400
_EPOCH = date(1970, 1, 1)
_STAGING = "report_period_filling_"
# What makes the narrow counts of a zone.
_NARROW = (DAYS_SQL,)
_NARROW_OF_UTC = (HOURS_ALONE_SQL, HOURS_BY_SQL, *_NARROW)
# One block, and so one token and one part.
WINDOW_SETTINGS = {
    **SETTINGS,
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


def _partition(series: Series, filled: int) -> str:
    """The partition of a series with what was there before it, or with its windows, in SQL."""
    assert re.fullmatch(r"[\w/+-]+", series.zone)
    return f"('{series.zone}', {series.from_ms:d}, {filled:d})"


class ClickHouseReportPeriods(ClickHouseCounting):
    """The port `ReportPeriods`. Every call raises Unavailable, and ConfigError when an operator must act."""

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
            Series(
                zone=zone,
                from_ms=int(from_ms),
                filled=bool(filled),
                until_ms=int(until_ms),
                narrow=bool(narrow),
            )
            for zone, from_ms, filled, until_ms, narrow in await self._query(SERIES_SQL)
        ]

    async def tidy(self) -> None:
        """Drop the tables of fillings that were stopped. One that goes on elsewhere fails."""
        await self._drop_leftovers(_STAGING)

    async def begin(self, zone: str, from_ms: int) -> None:
        """Begin a series: its first window begins at `from_ms`, milliseconds since 1970. Safe to repeat."""
        await self._run(insert_sql(TABLE) + NOTE_SQL, {"zone": zone, "from": from_ms, "filled": 0})

    async def roll(self, series: Series, until_ms: int) -> None:
        """Count what was archived from where the series ends to `until_ms`, milliseconds since 1970."""
        begin = series.until_ms
        parameters = {
            "zone": series.zone, "from": series.from_ms, "begin": begin, "end": until_ms,
        }  # fmt: skip
        settings = {
            **WINDOW_SETTINGS,
            "insert_deduplication_token": f"{series.zone}:{series.from_ms}:{begin}",
        }
        periods = (DAY, MONTH, QUARTER) if series.zone == "UTC" else (DAY, MONTH)
        await self._run(window_sql(*periods, narrow=series.narrow), parameters, settings)

    async def drop(self, series: Series) -> None:
        """Remove a series. A report that reads it meanwhile finds out because the windows go first."""
        for filled in (0, 1):
            await self._run(f"ALTER TABLE {TABLE} DROP PARTITION {_partition(series, filled)}")

    async def fill(self, series: Series) -> AsyncGenerator[float, None]:
        """Count all rows of before the series of UTC, which must all be archived; yields after each step
        which part is done.

        Killed, or closed in the middle: nothing of them is counted, and `tidy` drops the tables.
        """
        staging = f"{_STAGING}{uuid.uuid4().hex}"
        parameters: dict[str, Any] = {"zone": series.zone, "from": series.from_ms}
        await self._run(f"CREATE TABLE {staging} AS {TABLE}")
        days = [(int(day), int(rows)) for day, rows in await self._query(DAYS_OF_QUARTERS_SQL, parameters)]
        recent, counted = (series.from_ms // 1000 - _LIFE_S) // _DAY_S, _Counted(days)
        for first, last in _chunks([day for day in days if day[0] < recent]):
            await self._run(insert_sql(staging) + FROM_QUARTERS_SQL, {**parameters, **_dates(first, last)})
            part = counted.part(first, last)
            for made in _NARROW_OF_UTC:
                yield part
                await self._narrow(staging, made, first, last)
        for first, last in _chunks([day for day in days if day[0] >= recent]):
            await self._fill_recent(series, staging, first, last)
            part = counted.part(first, last)
            for made in _NARROW_OF_UTC:
                yield part
                await self._narrow(staging, made, first, last)
        await self._finish(series, staging)

    async def derive(self, zone: str, utc: Series) -> AsyncGenerator[float, None]:
        """Begin and fill the series of a zone from that of UTC, which must be filled; yields after each step
        which part is done. Of UTC too, when that has no narrow counts.

        Killed, or closed in the middle: the series is there and not filled, and `tidy` drops the tables.
        Dropped meanwhile, that of UTC: nothing is done, or ClickHouse refuses to copy nothing and it raises.
        """
        staging = f"{_STAGING}{uuid.uuid4().hex}"
        source = f"{staging}_source"
        await self._run(f"CREATE TABLE {source} AS {TABLE}")
        for filled in (1, 0):
            await self._run(f"ALTER TABLE {source} REPLACE PARTITION {_partition(utc, filled)} FROM {TABLE}")
        found = await self._query(SERIES_SQL.replace(TABLE, source))
        # Another one of UTC that begins at the same time would have the place of the first.
        ends = [
            int(until_ms)
            for of_zone, from_ms, filled, until_ms, _ in found
            if filled and until_ms and (of_zone != zone or until_ms > from_ms)
        ]
        if len(ends) == 1:
            series = Series(zone=zone, from_ms=ends[0], filled=False, until_ms=ends[0], narrow=True)
            await self.begin(zone, series.from_ms)
            await self._run(f"CREATE TABLE {staging} AS {TABLE}")
            parameters = {"zone": zone, "from": series.from_ms}
            of_utc = DAYS_OF_UTC_SQL.replace("SOURCE", source)
            days = [(int(day), int(rows)) for day, rows in await self._query(of_utc, parameters)]
            counted = _Counted(days)
            for first, last in _chunks(days):
                made = insert_sql(staging) + (COPY_SQL if zone == "UTC" else FROM_UTC_SQL)
                await self._run(made.replace("SOURCE", source), {**parameters, **_dates(first, last)})
                part = counted.part(first, last)
                for narrow in _NARROW_OF_UTC if zone == "UTC" else _NARROW:
                    yield part
                    await self._narrow(staging, narrow, first, last)
            await self._finish(series, staging)
        await self._run(f"DROP TABLE {source}")

    async def _narrow(self, staging: str, made: str, first: int, last: int) -> None:
        """Make narrow counts of days whose others are made: a statement of `_NARROW_OF_UTC`."""
        await self._run(insert_sql(staging) + made.replace("MADE", staging), _dates(first, last))

    async def _finish(self, series: Series, staging: str) -> None:
        """Have a table with all days of before a series take its place there."""
        await self._run(insert_sql(staging) + MONTHS_SQL.replace("MADE", staging))
        note = {"zone": series.zone, "from": series.from_ms, "filled": 1}
        await self._run(insert_sql(staging) + NOTE_SQL, note)
        await self._run(f"ALTER TABLE {TABLE} REPLACE PARTITION {_partition(series, 1)} FROM {staging}")
        await self._run(f"DROP TABLE {staging}")

    async def _fill_recent(self, series: Series, staging: str, first: int, last: int) -> None:
        """Count days of which events may have come since the series began: from quarters those that agree
        with the rows or have no rows any more, the others from the rows."""
        made, from_rows = f"{staging}_recent", series.from_ms // 1000 // _DAY_S - _ROWS_DAYS
        dates = {"zone": series.zone, "from": series.from_ms, **_dates(first, last)}
        await self._run(f"CREATE TABLE {made} AS {TABLE}")
        await self._run(insert_sql(made) + FROM_QUARTERS_SQL, dates)
        wanted, found = [
            {int(day): list(map(int, sums)) for day, *sums in rows}
            for rows in (
                await self._query(WANTED_SQL, dates),
                await self._query(MADE_SQL.replace("MADE", made)),
            )
        ]
        alike = [
            day
            for day in range(first, last)
            if day not in wanted or (day < from_rows and found.get(day) == wanted[day])
        ]
        of_days = f"SELECT * FROM {made} WHERE {DAY_MADE_SQL} IN ({{days:Array(UInt32)}})"  # noqa: S608 - our own names
        await self._run(f"INSERT INTO {staging} {of_days}", {"days": alike})
        for day in range(first, last):
            if day not in alike:
                await self._run(insert_sql(staging) + FROM_ROWS_SQL, {**dates, **_dates(day, day + 1)})
        await self._run(f"DROP TABLE {made}")


class _Counted:
    """Which part of some days has been counted, by how many counts each has."""

    def __init__(self, days: Sequence[tuple[int, int]]) -> None:
        self._left = dict(days)
        self._all = max(1, sum(self._left.values()))

    def part(self, first: int, last: int) -> float:
        """Note that days were counted; which part of all is, from 0 to 1."""
        for day in range(first, last):
            self._left.pop(day, None)
        return 1 - sum(self._left.values()) / self._all
