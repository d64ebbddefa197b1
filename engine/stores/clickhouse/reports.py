"""Reports from what is counted of the activity (`report_statements`).

Reads alone, but for the note that a report was asked for in the days of a time zone: from it the archiver
knows which zones to count (`engine.activity.report_rolling`). Every call may be repeated. A report has few
threads, a bound on memory, on rows that it reads and on time, so that the reports of one organisation do not
keep inserts and look-ups from the processors.

A report that is put together has two statements, which are asked side by side: the second reads what came
since the counts end that the first reads. Once a minute or so they have gone further than was known when it
was asked, and it is asked again.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import structlog

from engine.activity.report_rolling import Series
from engine.activity.report_rows import rows_of
from engine.activity.reports import SUMMED, TIMED, Report, ReportQuery, ReportRow, Sums
from engine.errors import ConfigError, Unavailable
from engine.stores.clickhouse._report_sums import ReportSums, TooManyGroups
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering
from engine.stores.clickhouse.report_bounds import (
    COUNTS_MAX,
    needs_days_of_zone,
    too_large,
    too_many_counts,
    too_many_groups,
)
from engine.stores.clickhouse.report_cover import days_of, is_long, midnight, zone_of
from engine.stores.clickhouse.report_period_sql import SERIES_SQL
from engine.stores.clickhouse.report_series import KnownSeries
from engine.stores.clickhouse.report_statements import GROUPS_MAX, ROWS_MAX, statement
from engine.stores.clickhouse.report_together import Together, by_periods

log = structlog.get_logger()

# A report reads so many rows of the tables at most, and takes so long, seconds.
_ROWS_MAX = 200_000_000
TIMEOUT_S = 20.0
_THREADS = 2
_BYTES_MAX = 1_000_000_000
_BLOCK_BYTES = 16_000_000
# How often a report is read whose series is dropped meanwhile.
_TRIES = 5
_FORMAT = "Native"
# A series that is so far behind is not read, milliseconds: too much has come since.
_BEHIND_MS = 86_400_000
# Nothing was accepted yet after a time that is so much after now, seconds: clocks differ.
_CLOCKS_S = 5
# Of the server's errors, those that say that a report is too large: rows read, memory, rows of the result. It
# is not the report that is too large when the memory of the server as a whole is used up.
_TOO_LARGE = (158, 241, 396)
_OF_SERVER = "(total)"
# In the message of the first, when it is not the rows that are too many.
_OF_GROUPS = "GROUP BY"
_EPOCH = date(1970, 1, 1)
# Reports of so many groups take more than a moment to make.
_GROUPS_MANY = 500
# And answers of so many octets to add up.
_BYTES_MANY = 200_000
# Whether all rows that were archived before the views stood are counted.
_COMPLETE = "SELECT (SELECT max(from_ms) FROM report_start) <= (SELECT max(until_ms) FROM report_filled)"
# The series, whether they are filled, and the time of the server.
_SERIES = SERIES_SQL.replace("\nFROM", ", toUnixTimestamp(now())\nFROM")
_NOTE = "INSERT INTO report_zones VALUES ({zone:String}, today(), today())"
# The note is on the disk before it is answered, and one of many at the same time is enough.
_NOTE_SETTINGS = {"async_insert": 0, "wait_end_of_query": 1}


class _TooManyRows(Exception):
    """ClickHouse would read more rows for a report than it may, or use more memory."""


class _Together(NamedTuple):
    """A report that was put together: what was found, and the answers that it was found in."""

    sums: ReportSums
    answers: list[bytes]


class ClickHouseReports(ClickHouseAdapter):
    """Reads reports. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, counts_max: int = COUNTS_MAX) -> None:
        """`timeout_s`: the deadline of each report, seconds; `counts_max`: most counts that one reads.
        Raises ConfigError for a malformed URL."""
        super().__init__(url, timeout_s)
        self._counts_max = counts_max
        # Who has had a zone noted on that day: an organisation by its number, operators by the zone.
        self._noted: set[int | str] = set()
        self._noted_on = date.min
        # Whether all rows that were archived before the views stood are counted: it stays so.
        self._complete = False
        self._known = KnownSeries(self._series)

    async def summary(self, query: ReportQuery) -> Report:
        """The report that the query asks for. Raises Refusal 422 when it has too many rows, or reads too
        many."""
        complete, together = await self._together(query)
        if together is None:
            try:
                found = _sums_of(query, await self._query(*statement(query)))
            except _TooManyRows as e:
                raise too_large("it reads too many rows") from e
        else:
            found = await sums_of(together.sums, together.answers)
        report = await report_of(query, complete, found)
        await self._note_days(query)
        return report

    async def answers(self, query: ReportQuery) -> tuple[bool, list[bytes]]:
        """Whether the counts are complete, and what was found of the report as answers for `ReportSums`,
        which may add others to them. Raises as `summary` does."""
        complete, together = await self._together(query)
        if together is None:
            try:
                found = [await self._answer(*statement(query, by_class=True))]
            except _TooManyRows as e:
                raise too_large("it reads too many rows") from e
        else:
            found = together.answers
        await self._note_days(query)
        return complete, found

    async def _note_days(self, query: ReportQuery) -> None:
        if is_long(query) and "day" in query.group_by:
            await self._note(query)

    async def _together(self, query: ReportQuery) -> tuple[bool, _Together | None]:
        """Whether the counts are complete, and what was found of a report that is put together; None: it is
        to be read from one table."""
        if not self._complete:
            [(complete,)] = await self._query(_COMPLETE, {})
            self._complete = bool(complete)
        for attempt in range(_TRIES if is_long(query) else 0):
            now_s, series, is_new = await self._known.known(anew=attempt > 0)
            if (chosen := chosen_of(query, series, now_s)) is None:
                if is_new:
                    break
                continue
            whole, utc = chosen
            try:
                found = await self._put_together(query, whole, utc, now_s)
            except _TooManyRows as e:
                if not is_new:
                    continue
                if needs_days_of_zone(query, whole, now_s):
                    await self._note(query)
                raise too_many_counts(query, whole, now_s) from e
            if found is not None:
                return self._complete, found
        return self._complete, None

    async def _put_together(
        self, query: ReportQuery, whole: Series | None, utc: Series, now_s: float
    ) -> _Together | None:
        """What is found of a report that is put together (`by_periods`); None when a series is not there any
        more, or has no narrow counts any more. Raises _TooManyRows when its counts are too many."""
        days = days_of(query, ZoneInfo(zone_of(query) if whole is None else whole.zone), now_s + _CLOCKS_S)
        together = by_periods(query, whole, utc, days, self._counts_max)
        sums = ReportSums(together.groups_max)
        # What came later is asked for at the same time, as if the series went as far as they are known to.
        expected = [of.until_ms for of in together.series]
        asking = asyncio.create_task(self._later(together, expected))
        try:
            counts = await self._counts(together)
            await self._add(sums, counts)
            counted = list(sums.counted)
            # A series that is being dropped goes less far than before: its windows go first.
            if sums.lost or len(counted) < len(together.series):
                return None
            if any(ms < of.until_ms for ms, of in zip(counted, together.series, strict=True)):
                return None
            if counted == expected:
                later = await asking
            else:
                self._known.went_on(together.series, counted)
                later = await self._later(together, counted)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await self._add(sums, later)
        return _Together(sums, [counts, later])

    async def _counts(self, together: Together) -> bytes:
        """The counts that a report is put together from. Raises _TooManyRows."""
        try:
            return await self._answer(together.sql, together.parameters)
        except _TooManyRows:
            if not together.added_up_sql:
                raise
            return await self._answer(together.added_up_sql, together.parameters)

    async def _later(self, together: Together, counted: list[int]) -> bytes:
        """What came since the series were counted, until the times that are given, milliseconds since 1970.
        Raises Refusal 422 when that are too many rows."""
        until = {f"until{place}": ms for place, ms in enumerate(counted)}
        parameters = {**together.parameters, **until, "until": min(counted)}
        try:
            return await self._answer(together.later_sql, parameters)
        except _TooManyRows as e:
            raise too_large("it reads too many rows") from e

    async def _add(self, sums: ReportSums, answer: bytes) -> None:
        """Add an answer. Raises Unavailable when it broke off, and Refusal 422 for too many groups."""
        try:
            await add(sums, answer)
        except ValueError as e:
            raise Unavailable(f"ClickHouse at {self._url.shown} has answered with half a report.") from e

    async def _series(self) -> tuple[int, list[Series]]:
        """The time of the server, seconds since 1970, and the series that can be read."""
        found = await self._query(_SERIES, {})
        series = [
            Series(zone=zone, from_ms=int(from_ms), filled=True, until_ms=int(until_ms), narrow=bool(narrow))
            for zone, from_ms, filled, until_ms, narrow, _ in found
            if filled and until_ms
        ]
        return max((int(row[-1]) for row in found), default=0), series

    async def _note(self, query: ReportQuery) -> None:
        """Note that a report was asked for in the days of a zone, if they are not those of UTC; once a day is
        enough.

        Of an organisation the first zone of a day is noted alone. So many zones are counted that one
        organisation that asks for all there are must not take the places of the others.
        """
        if zone_of(query) == "UTC":
            return
        zone, today = query.time_zone, datetime.now(UTC).date()
        if self._noted_on != today:
            self._noted_on = today
            self._noted.clear()
        who = zone if query.organisation_id is None else query.organisation_id
        if who in self._noted:
            return
        self._noted.add(who)
        try:
            async with answering(self._url, self._timeout_s):
                client = await self._connected()
                await client.command(_NOTE, parameters={"zone": zone}, settings=_NOTE_SETTINGS)
        except (Unavailable, ConfigError) as e:
            log.warning("days of a time zone will not be counted beforehand", time_zone=zone, reason=str(e))

    async def _query(self, sql: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows of a statement. Raises _TooManyRows, and Refusal 422 for too many groups."""
        async with self._asking() as client:
            found = await client.query(sql, parameters=parameters, settings=self._settings())
        rows: Sequence[Sequence[Any]] = found.result_rows
        return rows

    async def _answer(self, sql: str, parameters: dict[str, Any]) -> bytes:
        """The answer to a statement, for `_report_sums`. Raises as `_query` does."""
        # An error comes as such, and not in the middle of the rows.
        settings = {**self._settings(), "wait_end_of_query": 1}
        async with self._asking() as client:
            answer: bytes = await client.raw_query(sql, parameters=parameters, settings=settings, fmt=_FORMAT)
        return answer

    def _settings(self) -> dict[str, Any]:
        return {
            "max_threads": _THREADS,
            "max_execution_time": self._timeout_s,
            "max_memory_usage": _BYTES_MAX,
            "max_rows_to_read": _ROWS_MAX,
            "max_rows_to_group_by": ROWS_MAX,
            # Of counts with many times each it would else be a few hundred at a time.
            "preferred_block_size_bytes": _BLOCK_BYTES,
            # Others go first where the server has more to do than it can.
            "priority": 10,
        }

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Any]:
        """The client for one statement. Raises as `_query` does."""
        try:
            async with answering(self._url, self._timeout_s):
                yield await self._connected()
        except Unavailable as e:
            if _is_too_large(e.__cause__):
                if _OF_GROUPS in str(e.__cause__):
                    raise too_many_groups(GROUPS_MAX) from e
                raise _TooManyRows from e
            raise


def chosen_of(
    query: ReportQuery, series: Sequence[Series], now_s: float
) -> tuple[Series | None, Series] | None:
    """The series that the whole days of a report are read from: the latest of its zone, or else of UTC if it
    shows no days; None: it is read by quarters. And the latest of UTC, which has these. None: there are none.
    `now_s`: the time, seconds since 1970."""
    latest = {
        each.zone: each
        for each in sorted(series, key=lambda s: s.from_ms)
        if now_s * 1000 - each.until_ms < _BEHIND_MS
    }
    utc = latest.get("UTC")
    if utc is None or not is_long(query):
        return None
    if "hour" in query.group_by:
        return None, utc
    return latest.get(zone_of(query), None if "day" in query.group_by else utc), utc


async def add(sums: ReportSums, answer: bytes) -> None:
    """Add an answer. Raises ValueError when it broke off, and Refusal 422 for too many groups."""
    try:
        if len(answer) > _BYTES_MANY:
            # Beside the loop, which has others to answer meanwhile.
            await asyncio.to_thread(sums.add, answer)
        else:
            sums.add(answer)
    except TooManyGroups as e:
        raise too_many_groups(GROUPS_MAX) from e


async def sums_of(sums: ReportSums, answers: Sequence[bytes]) -> Sums:
    """What these answers, all of which were added, come to."""
    many = sum(map(len, answers)) > _BYTES_MANY
    return await asyncio.to_thread(sums.sums) if many else sums.sums()


async def report_of(query: ReportQuery, complete: bool, found: Sums) -> Report:
    """The report, from what was found. Raises Refusal 422 when it has too many groups."""
    many = len(found.groups) >= _GROUPS_MANY
    rows = await asyncio.to_thread(_made, query, found) if many else _made(query, found)
    zone = ZoneInfo(query.time_zone)
    return Report(
        from_time=_rfc3339(query.from_s, zone),
        until_time=_rfc3339(query.until_s, zone),
        time_zone=query.time_zone,
        complete=complete,
        rows=rows,
    )


def _made(query: ReportQuery, found: Sums) -> list[ReportRow]:
    """The rows of a report. Raises Refusal 422."""
    if len(found.groups) > GROUPS_MAX:
        raise too_many_groups(GROUPS_MAX)
    zone = ZoneInfo(query.time_zone)

    def begins(time: int) -> str:
        # A day is that since 1970.
        return _rfc3339(midnight(_EPOCH + timedelta(time), zone) if "day" in query.group_by else time, zone)

    return rows_of(found, query.group_by, begins, of_provider=bool(query.provider))


def _sums_of(query: ReportQuery, rows: Sequence[Sequence[Any]]) -> Sums:
    """What the rows of a report's statement say: of each group and event, with quantiles if not by status."""
    width = sum(name != "status" for name in query.group_by)
    places: dict[tuple[Any, ...], int] = {}
    for row in rows:
        places.setdefault(tuple(row[:width]), len(places))
    numbers = array("q", bytes(8 * 3 * len(SUMMED) * len(places)))
    times = array("d", [math.nan]) * (3 * len(TIMED) * len(places))
    for row in rows:
        place, event = places[tuple(row[:width])], row[width]
        at = 3 * (place * len(SUMMED) + SUMMED.index(event))
        numbers[at : at + 3] = array("q", row[width + 1 : width + 4])
        if "status" not in query.group_by:
            quantiles = {"answer_us": row[width + 4], "age_us": row[width + 5]}
            for i, (of, which) in enumerate(TIMED):
                if of == event:
                    at = 3 * (place * len(TIMED) + i)
                    times[at : at + 3] = array("d", quantiles[which])
    return Sums(list(places), numbers.tobytes(), times.tobytes())


def _rfc3339(at_s: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(at_s, zone).isoformat()


def _is_too_large(error: BaseException | None) -> bool:
    """Whether ClickHouse refused a report for its own size."""
    return getattr(error, "code", None) in _TOO_LARGE and _OF_SERVER not in str(error)
