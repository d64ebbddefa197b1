"""Rule: the SQL of reports.

A report is read from counts by minute or by quarter, or event by event (`statement`). A longer one of several
whole days is put together (`by_periods`):

    whole months and days                from a series of the counts by day and month of a time zone
    what is left at both ends            from the series of UTC, which has quarters of an hour
    what came since the series' end      event by event

By hour, or by day in a zone that has no series, all of it comes from the quarters of an hour.

A series may go on, or be dropped, between the moment at which it is asked how far it goes and the reading. So
the rows of its windows say how far they go, and the report is read again when that is not what was asked for.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from engine.activity.countries import numbers_of
from engine.activity.report_rolling import Series
from engine.activity.reports import COUNTED, Group, ReportQuery
from engine.stores.clickhouse.local_time import day_sql, hour_sql, offsets_of
from engine.stores.clickhouse.report_period_sql import (
    DAY,
    HOUR_MEMBERS,
    HOUR_S,
    MEMBERS,
    MONTH,
    QUARTER,
    QUARTER_S,
    TABLE,
    TIMES_SQL,
)  # fmt: skip
from engine.stores.clickhouse.time_classes import quantiles_sql, summed_sql

# More groups than this are not shown.
GROUPS_MAX = 10_000
_ROWS_MAX = (GROUPS_MAX + 1) * (len(COUNTED) + 1) + 1
# A report of so many whole days is put together.
DAYS_MIN = 3
_DAY_S = 86_400
# The quantiles of times that are shown.
_PARTS = (0.5, 0.95, 0.99)
_EPOCH = date(1970, 1, 1)
# All names of this zone are one.
_UTC = ("UTC", "Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal")


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
# As `wanted_in` in functions/queue has it.
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
_TIMES: tuple[Group, ...] = ("minute", "hour", "day")


def statement(query: ReportQuery) -> tuple[str, dict[str, Any]]:
    """The SQL of a report from one table, and its parameters: a row for each group and event.

    A report by status shows no times, so their quantiles are not read.
    """
    source = _MINUTES if "minute" in query.group_by else _QUARTERS
    if "reference" in query.group_by or query.campaign:
        source = _EVENTS
    groups = _groups(query, source.time)
    event = _AGAIN if source is _EVENTS else "event"
    measures = [source.events, source.segments, source.units]
    if "status" not in query.group_by:
        measures += (source.answer, source.age)
    where = [
        f"{source.time} >= fromUnixTimestamp({{from:UInt32}})",
        f"{source.time} < fromUnixTimestamp({{until:UInt32}})",
    ]
    parameters: dict[str, Any] = {"from": query.from_s, "until": query.until_s}
    if query.organisation_id is not None:
        where.insert(0, "organisation_id = {organisation:Int64}")
    if query.campaign:
        where.append(_IN_CAMPAIGN)
        parameters["campaign"] = query.campaign
    where += _filters(query)
    parameters |= _filtered(query)
    columns = ", ".join(f"{column} AS g{i}" for i, column in enumerate([*groups, event]))
    sql = (
        f"SELECT {', '.join([columns, *measures])} FROM {source.name} WHERE {' AND '.join(where)} "  # noqa: S608 - our own names; values are parameters
        f"GROUP BY {_numbered(len(groups) + 1)} LIMIT {_ROWS_MAX}"
    )
    return sql, parameters


def zone_of(query: ReportQuery) -> str:
    """The zone in whose days a report is put together."""
    return "UTC" if query.time_zone in _UTC else query.time_zone


def is_long(query: ReportQuery) -> bool:
    """Whether a report has several days, and shows neither minutes nor what is not counted."""
    finer = {"minute", "reference"} & set(query.group_by) or query.campaign
    return not finer and query.until_s - query.from_s >= DAYS_MIN * _DAY_S


class Days(NamedTuple):
    """The whole days of a report: the first, and the one after the last; and when these begin, seconds since
    1970."""

    first: date
    last: date
    first_s: int
    last_s: int


def days_of(query: ReportQuery, zone: tzinfo, now_s: float) -> Days:
    """The whole days of a report in a time zone. The day in which it ends is whole as well when the end is
    not before `now_s`, seconds since 1970: nothing was accepted since."""
    first = datetime.fromtimestamp(query.from_s, zone).date()
    if midnight(first, zone) < query.from_s:
        first += timedelta(1)
    last = datetime.fromtimestamp(query.until_s, zone).date()
    if query.until_s >= now_s and midnight(last, zone) < query.until_s:
        last += timedelta(1)
    return Days(first, last, midnight(first, zone), midnight(last, zone))


def midnight(day: date, zone: tzinfo) -> int:
    """When a day begins in a time zone, seconds since 1970."""
    return int(datetime.combine(day, time(), zone).timestamp())


class Together(NamedTuple):
    """A report that is put together: its SQL gives a row for each group and event, and after its numbers how
    far each series is counted; one row without an event has that as well."""

    sql: str
    parameters: dict[str, Any]
    # How far each series was counted, in the order of the columns.
    until_ms: tuple[int, ...]


class _Part(NamedTuple):
    """What is read of one series: its periods in SQL, and the times of acceptance, seconds since 1970."""

    series: Series
    periods: list[str]
    times: list[tuple[int, int]]


def by_periods(query: ReportQuery, series: Series | None, utc: Series, days: Days) -> Together:
    """The statement of a report that is put together. `series`: None: all is read by quarters; `days`: in its
    zone."""
    more = MEMBERS if _by_members(query) else 0
    ends = [(query.from_s, query.until_s)]
    parts = []
    if series is not None:
        parts.append(_Part(series, _whole(query, days, more), [(days.first_s, days.last_s)]))
        ends = [(query.from_s, days.first_s), (days.last_s, query.until_s)]
        ends = [(begin, end) for begin, end in ends if begin < end]
    if ends:
        parts.append(_Part(utc, [period for end in ends for period in _quarters(query, *end, more)], ends))
    if len(parts) > 1 and series == utc:
        times = [(min(query.from_s, days.first_s), max(query.until_s, days.last_s))]
        parts = [_Part(utc, parts[0].periods + parts[1].periods, times)]
    parameters = _filtered(query)
    for place, part in enumerate(parts):
        parameters |= {f"series{place}": part.series.zone, f"begun{place}": part.series.from_ms}
    counted = [f"counted{place}" for place in range(len(parts))]
    selects = [_of_series(query, part, place, len(parts)) for place, part in enumerate(parts)]
    selects.append(_of_later(query, parts))
    groups = _numbered(len(_groups(query, "")) + 1)
    columns = ["of_answers", "of_ages"] if "status" not in query.group_by else []
    summed = ["sum(n) AS n", "sum(parts) AS parts", "sum(held) AS held"]
    summed += [f"max({column}) AS {column}" for column in counted] + list(map(summed_sql, columns))
    measures = ["n", "parts", "held", *(quantiles_sql(column, _PARTS) for column in columns), *counted]
    sql = (
        f"SELECT {groups}, {', '.join(measures)} FROM ("  # noqa: S608 - our own names; values are parameters
        f"SELECT {groups}, {', '.join(summed)} FROM ({' UNION ALL '.join(selects)}) "
        f"GROUP BY {groups} LIMIT {_ROWS_MAX})"
    )
    return Together(sql, parameters, tuple(part.series.until_ms for part in parts))


def _by_members(query: ReportQuery) -> bool:
    """Whether a report says no more than how many of what each organisation has."""
    return (
        query.organisation_id is None
        and "organisation" in query.group_by
        and not set(query.group_by) & {"queue", "country", "provider"}
        and not (query.queue or query.country or query.provider)
    )


def _whole(query: ReportQuery, days: Days, more: int) -> list[str]:
    """The periods of the whole days of a report; `more`: what is added to their numbers."""
    first, last = days.first, days.last
    month = (first.replace(day=1) + timedelta(31)).replace(day=1) if first.day > 1 else first
    until = last.replace(day=1)
    if "day" in query.group_by or month >= until:
        return [_between(DAY + more, (first - _EPOCH).days, (last - _EPOCH).days)]
    numbers = [(d - _EPOCH).days for d in (first, month, until, last)]
    kinds = zip((DAY, MONTH, DAY), pairwise(numbers), strict=True)
    return [_between(kind + more, *ends) for kind, ends in kinds if ends[0] < ends[1]]


def _quarters(query: ReportQuery, begin_s: int, end_s: int, more: int) -> list[str]:
    """The periods of a part of a report that is not of whole days: quarters of an hour, and hours in the
    middle where there are such."""
    begin, end = begin_s // QUARTER_S, end_s // QUARTER_S
    hours = (-(-begin_s // HOUR_S), end_s // HOUR_S)
    # In some zones an hour of UTC is in two days.
    if not more or {"hour", "day"} & set(query.group_by) or hours[0] >= hours[1]:
        return [_between(QUARTER + more, begin, end)]
    edges = [(begin, hours[0] * HOUR_S // QUARTER_S), (hours[1] * HOUR_S // QUARTER_S, end)]
    quarters = [_between(QUARTER + more, *edge) for edge in edges if edge[0] < edge[1]]
    return [_between(HOUR_MEMBERS, *hours), *quarters]


def _between(period: int, begin: int, end: int) -> str:
    return f"(period = {period} AND begins >= {begin} AND begins < {end})"


def _of_series(query: ReportQuery, part: _Part, place: int, places: int) -> str:
    """What a series has of a report; it is the one of that place among so many."""
    whose = "organisation_id = {organisation:Int64}"
    if query.organisation_id is None:
        each = "organisation" in query.group_by and not _by_members(query)
        whose = "organisation_id > 0" if each else "organisation_id = 0"
    where = " AND ".join([whose, f"({' OR '.join(part.periods)})", *_filters(query)])
    groups = _groups(query, "")
    for i, name in enumerate(name for name in query.group_by if name != "status"):
        if name in _TIMES:
            groups[i] = _time_sql(query, name, f"fromUnixTimestamp(toUInt32(begins * {QUARTER_S}))")
            if name == "day":
                groups[i] = f"if(period IN ({QUARTER}, {QUARTER + MEMBERS}), {groups[i]}, begins)"
        elif name == "organisation" and _by_members(query):
            groups[i] = "member"
    measures = ["sum(events) AS n", "sum(segments) AS parts", "sum(units) AS held"]
    counted = ["max(until_ms)" if i == place else "toUInt64(0)" for i in range(places)]
    return _select(
        query, [*groups, "event"], [*measures, "sumMap(answers) AS of_answers", "sumMap(ages) AS of_ages"],
        TABLE,
        f"zone = {{series{place}:String}} AND from_ms = {{begun{place}:UInt64}} "
        f"AND (period = 0 OR ({where}))",
        counted,
    )  # fmt: skip


def _of_later(query: ReportQuery, parts: list[_Part]) -> str:
    """What came since the end of each series."""
    of_countries = "country" in query.group_by or query.country
    table = "report_events" if of_countries else "report_events_anywhere"
    measures = ["count() AS n", f"sum(toUInt64({table}.segments)) AS parts"]
    measures += [f"sum(toUInt64({table}.units)) AS held"]
    measures += [f"{TIMES_SQL[0]} AS of_answers", f"{TIMES_SQL[1]} AS of_ages"]
    later = [
        f"(stream_ms >= {part.series.until_ms:d} AND {_accepted(begin, end)})"
        for part in parts
        for begin, end in part.times
    ]
    # The index of the place in the stream, and the partitions, are found by these alone.
    all_times = [time for part in parts for time in part.times]
    where = [
        f"stream_ms >= {min(part.series.until_ms for part in parts):d}",
        _accepted(min(begin for begin, _ in all_times), max(end for _, end in all_times)),
        f"({' OR '.join(later)})",
        *_filters(query),
    ]
    if query.organisation_id is not None:
        where.insert(0, "organisation_id = {organisation:Int64}")
    return _select(
        query, [*_groups(query, "accepted_at"), "event"], measures, table, " AND ".join(where),
        ["toUInt64(0)"] * len(parts),
    )  # fmt: skip


def _accepted(begin: int, end: int) -> str:
    return f"accepted_at >= fromUnixTimestamp({begin:d}) AND accepted_at < fromUnixTimestamp({end:d})"


def _select(
    query: ReportQuery, groups: list[str], measures: list[str], table: str, where: str, counted: list[str]
) -> str:
    """A part of a report that is put together. By status no times are shown, so they are not read."""
    if "status" in query.group_by:
        measures = measures[:3]
    columns = [f"{column} AS g{i}" for i, column in enumerate(groups)]
    columns += [*measures, *(f"{column} AS counted{i}" for i, column in enumerate(counted))]
    return f"SELECT {', '.join(columns)} FROM {table} WHERE {where} GROUP BY {_numbered(len(groups))}"  # noqa: S608 - our own names; values are parameters


def _groups(query: ReportQuery, time: str) -> list[str]:
    """What a report is grouped by, as SQL; `time`: the column of the acceptance."""
    named = [name for name in query.group_by if name != "status"]
    return [_time_sql(query, name, time) if name in _TIMES else _COLUMNS[name] for name in named]


def _time_sql(query: ReportQuery, name: Group, time: str) -> str:
    """What a report is grouped by in time. A day is that since 1970."""
    if name == "minute":
        return f"toUnixTimestamp(toStartOfMinute({time}))"
    offsets = _offsets_of(query.time_zone, query.from_s, query.until_s)
    return hour_sql(time, offsets) if name == "hour" else day_sql(time, offsets)


@lru_cache(32)
def _offsets_of(zone: str, from_s: int, until_s: int) -> list[tuple[int, int]]:
    """A statement names the same times in several places."""
    return offsets_of(ZoneInfo(zone), from_s, until_s)


def _filters(query: ReportQuery) -> list[str]:
    """Conditions that all tables have the columns of, but for organisation and time."""
    where = [
        f"{name} = {{{name}:String}}"
        for name, value in (("queue", query.queue), ("provider", query.provider))
        if value
    ]
    return [*where, *(["country IN {countries:Array(UInt16)}"] if query.country else [])]


def _filtered(query: ReportQuery) -> dict[str, Any]:
    """The parameters of conditions."""
    parameters: dict[str, Any] = {"queue": query.queue, "provider": query.provider}
    if query.country:
        parameters["countries"] = numbers_of(query.country)
    if query.organisation_id is not None:
        parameters["organisation"] = query.organisation_id
    return parameters


def _numbered(count: int) -> str:
    return ", ".join(f"g{i}" for i in range(count))
