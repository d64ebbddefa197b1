"""Reports from the tables that the views of ClickHouse count into; by reference, and of a campaign, from the
activity itself.

Reads alone: every call may be repeated. A report has few threads, a bound on memory, on rows that it reads
and on time, so that the reports of one organisation do not keep inserts and look-ups from the processors.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from engine.activity.countries import numbers_of
from engine.activity.reports import COUNTED, EventSum, Group, Report, ReportQuery, ReportRow, rows_of
from engine.errors import Refusal, Unavailable
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering

# More groups than this are not shown.
GROUPS_MAX = 10_000
# A report reads so many rows of the tables at most, and takes so long, seconds.
_ROWS_MAX = 200_000_000
TIMEOUT_S = 20.0
_THREADS = 2
_BYTES_MAX = 1_000_000_000
# Of the server's errors, those that say that a report is too large: rows read, memory, rows of the result.
_TOO_LARGE = (158, 241, 396)


class _Source(NamedTuple):
    """A table that reports are read from."""

    name: str
    # The column with the time of acceptance.
    time: str
    events: str
    segments: str
    units: str
    answer: str
    age: str


_MERGED = (
    "sum(events)", "sum(segments)", "sum(units)", "quantilesTDigestIfMerge(0.5, 0.95, 0.99)(answer_us)",
    "quantilesTDigestIfMerge(0.5, 0.95, 0.99)(age_us)",
)  # fmt: skip
_MINUTES = _Source("report_minutes", "minute", *_MERGED)
_QUARTERS = _Source("report_quarters", "quarter", *_MERGED)
# The events one by one, for what is not counted by the views.
_EVENTS = _Source(
    f"(SELECT *, activity.event AS kind FROM activity WHERE event IN {COUNTED!r})",  # noqa: S608 - constants
    "accepted_at", "count()", "sum(toUInt64(segments))", "sum(toUInt64(units))",
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

    async def summary(self, query: ReportQuery) -> Report:
        """The report that the query asks for. Raises Refusal 422 when it has too many rows, or reads too
        many."""
        zone = ZoneInfo(query.time_zone)
        return Report(
            from_time=_rfc3339(query.from_s, zone),
            until_time=_rfc3339(query.until_s, zone),
            time_zone=query.time_zone,
            complete=await self._is_filled(),
            rows=await self._rows(query, zone),
        )

    async def _rows(self, query: ReportQuery, zone: ZoneInfo) -> list[ReportRow]:
        width = len([name for name in query.group_by if name != "status"])
        sql, parameters = statement(query)
        found = await self._query(sql, parameters)
        sums = [
            EventSum(
                group=tuple(row[:width]),
                event=row[width],
                events=int(row[width + 1]),
                segments=int(row[width + 2]),
                units=int(row[width + 3]),
                **dict(zip(("answer_us", "age_us"), row[width + 4 :], strict=False)),
            )
            for row in found
        ]
        if len({found.group for found in sums}) > GROUPS_MAX:
            raise _too_large(f"it has more than {GROUPS_MAX:,} groups")
        return rows_of(sums, query.group_by, zone, of_provider=bool(query.provider))

    async def _is_filled(self) -> bool:
        """Whether all rows that were archived before the views stood are counted."""
        rows = await self._query(
            "SELECT (SELECT max(from_ms) FROM report_start) <= (SELECT max(until_ms) FROM report_filled)", {}
        )
        return bool(rows[0][0])

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


def statement(query: ReportQuery) -> tuple[str, dict[str, Any]]:
    """The SQL of a report, and its parameters: a row for each group and event.

    A report by status shows no times, so their quantiles are not read: they are most of what a report costs.
    """
    source = _MINUTES if "minute" in query.group_by else _QUARTERS
    if "reference" in query.group_by or query.campaign:
        source = _EVENTS
    named = [name for name in query.group_by if name != "status"]
    groups = [
        f"toUnixTimestamp({_TIMES[name].format(time=source.time)})" if name in _TIMES else _COLUMNS[name]
        for name in named
    ]
    event = _AGAIN if source is _EVENTS else "event"
    columns = [*groups, event]
    measures = [source.events, source.segments, source.units]
    if "status" not in query.group_by:
        measures += (source.answer, source.age)
    where = [
        f"{source.time} >= fromUnixTimestamp({{from:UInt32}})",
        f"{source.time} < fromUnixTimestamp({{until:UInt32}})",
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


def _rfc3339(at_s: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(at_s, zone).isoformat()


def _too_large(why: str) -> Refusal:
    return Refusal(
        "report_too_large",
        422,
        f"The report is too large: {why}. Ask for a shorter period or for fewer groups.",
    )
