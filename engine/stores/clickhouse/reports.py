"""Reports from the tables that the views of ClickHouse count into; by reference, and of a campaign, from the
activity itself.

What takes most of the time is to add up times. So a report of a month or more that begins and ends with days
of UTC is read from counts by day, in which times are counted in classes (`time_classes`).

Reads alone: every call may be repeated. A report has few threads, a bound on memory, on rows that it reads
and on time, so that the reports of one organisation do not keep inserts and look-ups from the processors.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from engine.activity.countries import numbers_of
from engine.activity.reports import COUNTED, EventSum, Group, Report, ReportQuery, ReportRow, rows_of
from engine.errors import Refusal, Unavailable
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering
from engine.stores.clickhouse.time_classes import quantiles_of

# More groups than this are not shown.
GROUPS_MAX = 10_000
# A report reads so many rows of the tables at most, and takes so long, seconds.
_ROWS_MAX = 200_000_000
TIMEOUT_S = 20.0
_THREADS = 2
_BYTES_MAX = 1_000_000_000
# A report of so many days is read from counts by day; and the names of their time zone.
_DAYS_MIN = 28
_DAY_S = 86_400
_UTC = ("UTC", "Etc/UTC")
# Of the server's errors, those that say that a report is too large: rows read, memory, rows of the result.
_TOO_LARGE = (158, 241, 396)


class _Source(NamedTuple):
    """A table that reports are read from."""

    name: str
    # The column with the time of acceptance.
    time: str
    # How a second since 1970 is written to be compared with it.
    second: str
    events: str
    segments: str
    units: str
    answer: str
    age: str


_SECOND = "fromUnixTimestamp({%s:UInt32})"
_MERGED = (
    "sum(events)", "sum(segments)", "sum(units)", "quantilesTDigestIfMerge(0.5, 0.95, 0.99)(answer_us)",
    "quantilesTDigestIfMerge(0.5, 0.95, 0.99)(age_us)",
)  # fmt: skip
_MINUTES = _Source("report_minutes", "minute", _SECOND, *_MERGED)
_QUARTERS = _Source("report_quarters", "quarter", _SECOND, *_MERGED)
_DAYS = _Source(
    "report_days", "day", "toDate(toDateTime({%s:UInt32}, 'UTC'), 'UTC')",
    "sum(events)", "sum(segments)", "sum(units)", "sumMap(answers)", "sumMap(ages)",
)  # fmt: skip
# The events one by one, for what is not counted by the views.
_EVENTS = _Source(
    f"(SELECT *, activity.event AS kind FROM activity WHERE event IN {COUNTED!r})",  # noqa: S608 - constants
    "accepted_at", _SECOND, "count()", "sum(toUInt64(segments))", "sum(toUInt64(units))",
    "quantilesTDigestIf(0.5, 0.95, 0.99)(latency_us, latency_us > 0)",
    "quantilesTDigestIf(0.5, 0.95, 0.99)(toUInt64(greatest(0, dateDiff('microsecond', accepted_at, at))), "
    "kind IN ('sent', 'delivered'))",
)  # fmt: skip
_AGAIN = "if(kind = 'retrying' AND provider_message_id != '', 'resent', toString(kind))"
# As `wanted_in` in queue.lua has it.
_IN_CAMPAIGN = (
    "startsWith(reference, {campaign:String}) "
    "AND match(substring(reference, length({campaign:String}) + 1, 1), '^([-_/:. ]|$)')"
)
_COLUMNS: dict[Group, str] = {
    "queue": "queue",
    "provider": "provider",
    "country": "country",
    # Up to the first mark between words.
    "reference": "extract(reference, '^[^-_/:. ]*')",
    "organisation": "organisation_id",
}
_TIMES: dict[Group, str] = {
    "minute": "toStartOfMinute({time})",
    "hour": "toStartOfHour({time}, {{zone:String}})",
    "day": "toStartOfDay({time}, {{zone:String}})",
}


class ClickHouseReports(ClickHouseAdapter):
    """Reads reports. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s`: the deadline of each report, seconds. Raises ConfigError for a malformed URL."""
        super().__init__(url, timeout_s)
        # Since when counts by day are whole, once all rows are counted that were there before the views: it
        # stays so.
        self._whole_since: int | None = None

    async def summary(self, query: ReportQuery) -> Report:
        """The report that the query asks for. Raises Refusal 422 when it has too many rows, or reads too
        many."""
        zone = ZoneInfo(query.time_zone)
        complete, days_since = await self._filled()
        return Report(
            from_time=_rfc3339(query.from_s, zone),
            until_time=_rfc3339(query.until_s, zone),
            time_zone=query.time_zone,
            complete=complete,
            rows=await self._rows(query, zone, days_since),
        )

    async def _rows(self, query: ReportQuery, zone: ZoneInfo, days_since: int | None) -> list[ReportRow]:
        width = len([name for name in query.group_by if name != "status"])
        sql, parameters = statement(query, days_since)
        found = await self._query(sql, parameters)
        sums = [
            EventSum(
                group=tuple(row[:width]),
                event=row[width],
                events=int(row[width + 1]),
                segments=int(row[width + 2]),
                units=int(row[width + 3]),
                **dict(zip(("answer_us", "age_us"), map(_quantiles, row[width + 4 :]), strict=False)),
            )
            for row in found
        ]
        if len({found.group for found in sums}) > GROUPS_MAX:
            raise _too_large(f"it has more than {GROUPS_MAX:,} groups")
        return rows_of(sums, query.group_by, zone, of_provider=bool(query.provider))

    async def _filled(self) -> tuple[bool, int | None]:
        """Whether all rows that were archived before the views stood are counted; and since when they are by
        day, seconds since 1970, None when they are not yet."""
        if self._whole_since is not None:
            return True, self._whole_since
        [(filled, by_day, month)] = await self._query(
            "SELECT (SELECT max(from_ms) FROM report_start) <= (SELECT max(until_ms) FROM report_filled), "
            "(SELECT max(from_ms) FROM report_day_start) <= (SELECT max(until_ms) FROM report_day_filled), "
            "(SELECT max(from_month) FROM report_day_filled)",
            {},
        )
        since_s = int(datetime(month // 100, month % 100, 1, tzinfo=UTC).timestamp()) if month else 0
        if filled and by_day:
            self._whole_since = since_s
        return bool(filled), since_s if by_day else None

    async def _query(self, sql: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        settings = {
            "max_threads": _THREADS,
            "max_execution_time": self._timeout_s,
            "max_memory_usage": _BYTES_MAX,
            "max_rows_to_read": _ROWS_MAX,
            # Others go first where the server has more to do than it can.
            "priority": 10,
        }
        try:
            async with answering(self._url, self._timeout_s):
                client = await self._connected()
                found = await client.query(sql, parameters=parameters, settings=settings)
        except Unavailable as e:
            if getattr(e.__cause__, "code", None) in _TOO_LARGE:
                raise _too_large("it reads too many rows") from e
            raise
        rows: Sequence[Sequence[Any]] = found.result_rows
        return rows


def statement(query: ReportQuery, days_since: int | None = None) -> tuple[str, dict[str, Any]]:
    """The SQL of a report, and its parameters: a row for each group and event.

    A report by status shows no times, so their quantiles are not read. `days_since`: since when the counts by
    day are whole, seconds since 1970; None: they are not.
    """
    source = _MINUTES if "minute" in query.group_by else _QUARTERS
    if days_since is not None and query.from_s >= days_since and of_whole_days(query):
        source = _DAYS
    if "reference" in query.group_by or query.campaign:
        source = _EVENTS
    named = [name for name in query.group_by if name != "status"]
    groups = [
        f"toUnixTimestamp({_TIMES[name].format(time=source.time)})" if name in _TIMES else _COLUMNS[name]
        for name in named
    ]
    if source is _DAYS:
        groups = [
            "toUnixTimestamp(toDateTime(day, 'UTC'))" if name == "day" else _COLUMNS[name] for name in named
        ]
    event = _AGAIN if source is _EVENTS else "event"
    columns = [*groups, event]
    measures = [source.events, source.segments, source.units]
    if "status" not in query.group_by:
        measures += (source.answer, source.age)
    where = [
        f"{source.time} >= {source.second % 'from'}",
        f"{source.time} < {source.second % 'until'}",
    ]
    parameters: dict[str, Any] = {"from": query.from_s, "until": query.until_s, "zone": query.time_zone}
    if query.organisation_id is not None:
        where.insert(0, "organisation_id = {organisation:Int64}")
        parameters["organisation"] = query.organisation_id
    for name, value in (("queue", query.queue), ("provider", query.provider)):
        if value:
            where.append(f"{name} = {{{name}:String}}")
            parameters[name] = value
    if query.campaign:
        where.append(_IN_CAMPAIGN)
        parameters["campaign"] = query.campaign
    if query.country:
        where.append("country IN {countries:Array(UInt16)}")
        parameters["countries"] = numbers_of(query.country)
    names = [f"{column} AS g{i}" for i, column in enumerate(columns)]
    sql = (
        f"SELECT {', '.join([*names, *measures])} FROM {source.name} WHERE {' AND '.join(where)} "  # noqa: S608 - our own names; values are parameters
        f"GROUP BY {', '.join(f'g{i}' for i in range(len(columns)))} "
        f"LIMIT {(GROUPS_MAX + 1) * (len(COUNTED) + 1)}"
    )
    return sql, parameters


def of_whole_days(query: ReportQuery) -> bool:
    """Whether a report is of a month or more in whole days of UTC, and shows no shorter times."""
    whole = query.from_s % _DAY_S == 0 == query.until_s % _DAY_S
    by_day = "day" not in query.group_by or query.time_zone in _UTC
    finer = {"minute", "hour", "reference"} & set(query.group_by) or query.campaign
    return whole and by_day and not finer and query.until_s - query.from_s >= _DAYS_MIN * _DAY_S


def _quantiles(found: Any) -> Sequence[float]:
    """Those of a report, from what a source has of them."""
    return quantiles_of(found, (0.5, 0.95, 0.99)) if isinstance(found, dict) else found


def _rfc3339(at_s: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(at_s, zone).isoformat()


def _too_large(why: str) -> Refusal:
    return Refusal(
        "report_too_large",
        422,
        f"The report is too large: {why}. Ask for a shorter period or for fewer groups.",
    )
