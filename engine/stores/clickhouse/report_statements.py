"""Rule: the SQL of reports.

A report is read from counts by minute or by quarter, or event by event. A longer one of several whole days is
put together (`report_together`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from engine.activity.countries import numbers_of
from engine.activity.reports import COUNTED, Group, ReportQuery
from engine.stores.clickhouse.local_time import day_sql, hour_sql
from engine.stores.clickhouse.report_cover import offsets_in
from engine.stores.clickhouse.report_later_sql import AGE_SQL
from engine.stores.clickhouse.time_classes import class_sql, classes_sql

# More groups than this are not shown.
GROUPS_MAX = 10_000
# And more rows than this are not read: a group has one for each event. (Of counts that are moved from group
# to group there are more: `report_together`.)
ROWS_MAX = (GROUPS_MAX + 1) * (len(COUNTED) + 1) + 1


class _Source(NamedTuple):
    """A table that reports are read from."""

    name: str
    # The column with the time of acceptance.
    time: str
    events: str
    segments: str
    units: str
    # Times of answers and ages: their quantiles, and how many are in each class.
    quantiles: tuple[str, str]
    classes: tuple[str, str]


_MERGED = (
    "sum(events)",
    "sum(segments)",
    "sum(units)",
    (
        "quantilesTDigestIfMerge(0.5, 0.95, 0.99)(answer_us)",
        "quantilesTDigestIfMerge(0.5, 0.95, 0.99)(age_us)",
    ),
    (classes_sql("answer_us", "n"), classes_sql("age_us", "n")),
)
_MINUTES = _Source("report_minutes", "minute", *_MERGED)
_QUARTERS = _Source("report_quarters", "quarter", *_MERGED)
# The events one by one, for what is not counted by the views.
_EVENTS = _Source(
    f"(SELECT *, activity.event AS kind FROM activity WHERE event IN {COUNTED!r})",  # noqa: S608 - constants
    "accepted_at", "count()", "sum(toUInt64(segments))", "sum(toUInt64(units))",
    (
        "quantilesTDigestIf(0.5, 0.95, 0.99)(latency_us, latency_us > 0)",
        # From when a message was accepted, or due where a `sent` says that this was later.
        "quantilesTDigestIf(0.5, 0.95, 0.99)(toUInt64(greatest(0, "
        "dateDiff('microsecond', greatest(accepted_at, due_at), at))), kind IN ('sent', 'delivered'))",
    ),
    (
        f"sumMapIf(map({class_sql('latency_us')}, toUInt64(1)), latency_us > 0)",
        f"sumMapIf(map({class_sql(AGE_SQL)}, toUInt64(1)), kind IN ('sent', 'delivered'))",
    ),
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


def statement(query: ReportQuery, *, by_class: bool = False) -> tuple[str, dict[str, Any]]:
    """The SQL of a report from one table, and its parameters: a row for each group and event.

    `by_class`: with how many times are in each class, for `_report_sums`, which can add them up; else with
    quantiles. A report by status shows no times, so they are not read.
    """
    source = _MINUTES if "minute" in query.group_by else _QUARTERS
    if "reference" in query.group_by or query.campaign:
        source = _EVENTS
    groups = groups_of(query, source.time)
    event = _AGAIN if source is _EVENTS else "event"
    measures = [f"{source.events} AS n", f"{source.segments} AS parts", f"{source.units} AS held"]
    if "status" not in query.group_by:
        times = source.classes if by_class else source.quantiles
        measures += (f"{times[0]} AS of_answers", f"{times[1]} AS of_ages")
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
    where += filters(query)
    parameters |= filtered(query)
    columns = ", ".join(f"{column} AS g{i}" for i, column in enumerate([*groups, event]))
    sql = (
        f"SELECT {', '.join([columns, *measures])} FROM {source.name} WHERE {' AND '.join(where)} "  # noqa: S608 - our own names; values are parameters
        f"GROUP BY {numbered(len(groups) + 1)} LIMIT {ROWS_MAX}"
    )
    return sql, parameters


def groups_of(query: ReportQuery, time: str) -> list[str]:
    """What a report is grouped by, as SQL; `time`: the column of the acceptance."""
    named = [name for name in query.group_by if name != "status"]
    return [time_sql(query, name, time) if name in _TIMES else _COLUMNS[name] for name in named]


def time_sql(query: ReportQuery, name: Group, time: str) -> str:
    """What a report is grouped by in time. A day is that since 1970."""
    if name == "minute":
        return f"toUnixTimestamp(toStartOfMinute({time}))"
    offsets = offsets_in(query.time_zone, query.from_s, query.until_s)
    return hour_sql(time, offsets) if name == "hour" else day_sql(time, offsets)


def filters(query: ReportQuery) -> list[str]:
    """Conditions, in SQL, that all tables have the columns of, but for organisation and time."""
    where = [
        f"{name} = {{{name}:String}}"
        for name, value in (("queue", query.queue), ("provider", query.provider))
        if value
    ]
    return [*where, *(["country IN {countries:Array(UInt16)}"] if query.country else [])]


def filtered(query: ReportQuery) -> dict[str, Any]:
    """The parameters of conditions."""
    parameters: dict[str, Any] = {"queue": query.queue, "provider": query.provider}
    if query.country:
        parameters["countries"] = numbers_of(query.country)
    if query.organisation_id is not None:
        parameters["organisation"] = query.organisation_id
    return parameters


def numbered(count: int) -> str:
    """The names of so many columns that a report is grouped by."""
    return ", ".join(f"g{i}" for i in range(count))
