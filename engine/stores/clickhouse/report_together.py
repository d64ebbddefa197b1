"""Rule: the SQL of reports that are put together:

    whole months and days                from a series of the counts by day and month of a time zone
    what is left at both ends            from the series of UTC, which has hours and quarters of an hour
    what came since the series' end      event by event

By hour, or by day in a zone that has no series, all of it comes from the hours and quarters. Which counts are
read of each is said in `report_cover`.

A series may go on, or be dropped, between the moment at which it is asked how far it goes and the reading. So
the rows of its windows say how far they go, and the report is read again when that is not what was asked for.
Whether it has narrow counts cannot change without that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from engine.activity.report_rolling import Series
from engine.activity.reports import ReportQuery
from engine.stores.clickhouse.report_cover import (
    Days,
    added_of,
    by_members,
    offsets_in,
    parts_of_days,
    whole,
)
from engine.stores.clickhouse.report_later_sql import COUNTED_SQL, COUNTRY_SQL, EVENT_SQL, TIMES_SQL
from engine.stores.clickhouse.report_narrow_sql import ALONE, BY, DAY, QUARTER_S
from engine.stores.clickhouse.report_period_sql import HOUR_S, TABLE
from engine.stores.clickhouse.report_statements import (
    ROWS_MAX,
    filtered,
    filters,
    groups_of,
    numbered,
    time_sql,
)
from engine.stores.clickhouse.time_classes import (
    below_sql,
    gathered_sql,
    merged_sql,
    places_sql,
    quantiles_sql,
    summed_sql,
)

# The quantiles of times that are shown.
_PARTS = (0.5, 0.95, 0.99)
_TIMES = ("of_answers", "of_ages")


class Together(NamedTuple):
    """A report that is put together: its SQL gives a row for each group and event, and after its numbers how
    far each series is counted; one row without an event has that as well."""

    sql: str
    # Only reads what it reads of series, within the bound.
    bound_sql: str
    parameters: dict[str, Any]
    # How far each series was counted, in the order of the columns.
    until_ms: tuple[int, ...]


class _Part(NamedTuple):
    """What is read of one series: its periods in SQL, the times of acceptance, seconds since 1970, and which
    counts (`added_of`)."""

    series: Series
    periods: list[str]
    times: list[tuple[int, int]]
    added: int


def by_periods(
    query: ReportQuery, series: Series | None, utc: Series, days: Days, counts_max: int | None
) -> Together:
    """The statement of a report that is put together. `series`: None: all is read by hours and quarters;
    `days`: in its zone; `counts_max`: the server refuses to read more, None: it reads any number. It counts
    all that the statement reads, what came later as well, so `bound_sql` is what says whether the counts are
    too many."""
    parts = _parts(query, series, utc, days)
    parameters = filtered(query)
    for place, part in enumerate(parts):
        parameters |= {f"series{place}": part.series.zone, f"begun{place}": part.series.from_ms}
    counted = [f"counted{place}" for place in range(len(parts))]
    single = _is_single(query, parts, whole=series is not None)
    selects = [_of_series(query, part, place, len(parts)) for place, part in enumerate(parts)]
    if counts_max is not None:
        if single and "hour" not in query.group_by and not filters(query):
            # A count is a row of the statement.
            counts_max = min(counts_max, ROWS_MAX)
        bound = f"SETTINGS max_rows_to_read = {counts_max:d}"
        selects = [f"SELECT * FROM ({select} {bound})" for select in selects]  # noqa: S608 - our own names
    bound_sql = f"SELECT count() FROM ({' UNION ALL '.join(selects)})"  # noqa: S608 - our own names
    selects.append(_of_later(query, parts))
    groups = numbered(len(groups_of(query, "")) + 1)
    columns = [] if "status" in query.group_by else list(_TIMES)
    summed = ["sum(n) AS n", "sum(parts) AS parts", "sum(held) AS held"]
    summed += [f"max({column}) AS {column}" for column in counted]
    summed += [gathered_sql(column) if single else summed_sql(column) for column in columns]
    sql = f"SELECT {groups}, {', '.join(summed)} FROM ({' UNION ALL '.join(selects)}) GROUP BY {groups} "  # noqa: S608 - our own names; values are parameters
    sql += f"LIMIT {ROWS_MAX}"
    if columns:
        below = [below_sql(c, merged_sql(c) if single else f"all_{c}") for c in columns]
        places = [places_sql(c, _PARTS) for c in columns]
        sql = f"SELECT *, {', '.join(below)} FROM ({sql})"  # noqa: S608 - our own names
        sql = f"SELECT *, {', '.join(places)} FROM ({sql})"  # noqa: S608 - our own names
    measures = ["n", "parts", "held", *(quantiles_sql(c, _PARTS) for c in columns), *counted]
    sql = f"SELECT {groups}, {', '.join(measures)} FROM ({sql})"  # noqa: S608 - our own names
    return Together(sql, bound_sql, parameters, tuple(part.series.until_ms for part in parts))


def _parts(query: ReportQuery, series: Series | None, utc: Series, days: Days) -> list[_Part]:
    """What is read of each series: the whole days, and what is left at both ends."""
    ends, parts = [(query.from_s, query.until_s)], []
    if series is not None:
        added = added_of(query, series)
        parts.append(_Part(series, whole(query, days, added), [(days.first_s, days.last_s)], added))
        ends = [(query.from_s, days.first_s), (days.last_s, query.until_s)]
        ends = [(begin, end) for begin, end in ends if begin < end]
    if ends:
        added = added_of(query, utc)
        periods = [period for end in ends for period in parts_of_days(query, *end, added)]
        parts.append(_Part(utc, periods, ends, added))
    if len(parts) > 1 and series == utc:
        times = [(min(query.from_s, days.first_s), max(query.until_s, days.last_s))]
        parts = [_Part(utc, parts[0].periods + parts[1].periods, times, parts[0].added)]
    return parts


def _is_single(query: ReportQuery, parts: list[_Part], *, whole: bool) -> bool:
    """Whether most groups of a report are one count each, so that to add up each by itself would take the
    most time. `whole`: whole days are read from counts by day."""
    if "hour" in query.group_by:
        offsets = offsets_in(query.time_zone, query.from_s, query.until_s)
        hours = (ALONE,) if any(ahead_s % HOUR_S for _, ahead_s in offsets) else (ALONE, *BY.values())
        return all(part.added in hours for part in parts)
    return "day" in query.group_by and whole and parts[0].added != 0


def _of_series(query: ReportQuery, part: _Part, place: int, places: int) -> str:
    """What a series has of a report, count by count: to add them up here would be to do it twice. It is the
    one of that place among so many."""
    whose = "organisation_id = {organisation:Int64}"
    if query.organisation_id is None:
        each = "organisation" in query.group_by and not by_members(query)
        whose = "organisation_id > 0" if each else "organisation_id = 0"
    where = " AND ".join([whose, f"({' OR '.join(part.periods)})", *filters(query)])
    counted = ["until_ms" if i == place else "toUInt64(0)" for i in range(places)]
    measures = ["events AS n", "segments AS parts", "units AS held", "answers AS of_answers"]
    measures.append("ages AS of_ages")
    return _select(
        query, [*_groups_of_series(query, part), "event"], measures, TABLE,
        f"zone = {{series{place}:String}} AND from_ms = {{begun{place}:UInt64}} "
        f"AND (period = 0 OR ({where}))",
        counted, grouped=False,
    )  # fmt: skip


def _groups_of_series(query: ReportQuery, part: _Part) -> list[str]:
    """What a report is grouped by, as SQL of a series."""
    groups = groups_of(query, "")
    for i, name in enumerate(name for name in query.group_by if name != "status"):
        if name in ("hour", "day"):
            groups[i] = time_sql(query, name, f"fromUnixTimestamp(toUInt32(begins * {QUARTER_S}))")
            if name == "day":
                groups[i] = f"if(period = {DAY + part.added}, begins, {groups[i]})"
        elif name == "organisation" and by_members(query):
            groups[i] = "member"
    return groups


def _of_later(query: ReportQuery, parts: list[_Part]) -> str:
    """What came since the end of each series."""
    measures = ["count() AS n", "sum(toUInt64(activity.segments)) AS parts"]
    measures += ["sum(toUInt64(activity.units)) AS held"]
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
        # One alone says the same again.
        *([f"({' OR '.join(later)})"] if len(later) > 1 else []),
        COUNTED_SQL,
        *[of.replace("country IN", f"{COUNTRY_SQL} IN") for of in filters(query)],
    ]
    if query.organisation_id is not None:
        where.insert(0, "organisation_id = {organisation:Int64}")
    groups = [COUNTRY_SQL if group == "country" else group for group in groups_of(query, "accepted_at")]
    return _select(
        query, [*groups, EVENT_SQL], measures, "activity", " AND ".join(where),
        ["toUInt64(0)"] * len(parts), grouped=True,
    )  # fmt: skip


def _accepted(begin: int, end: int) -> str:
    return f"accepted_at >= fromUnixTimestamp({begin:d}) AND accepted_at < fromUnixTimestamp({end:d})"


def _select(
    query: ReportQuery,
    groups: list[str],
    measures: list[str],
    table: str,
    where: str,
    counted: list[str],
    *,
    grouped: bool,
) -> str:
    """A part of a report that is put together. By status no times are shown, so they are not read."""
    if "status" in query.group_by:
        measures = measures[:3]
    columns = [f"{column} AS g{i}" for i, column in enumerate(groups)]
    columns += [*measures, *(f"{column} AS counted{i}" for i, column in enumerate(counted))]
    by = f" GROUP BY {numbered(len(groups))}" if grouped else ""
    return f"SELECT {', '.join(columns)} FROM {table} WHERE {where}{by}"  # noqa: S608 - our own names; values are parameters
