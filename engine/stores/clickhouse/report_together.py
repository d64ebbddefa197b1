"""Rule: the SQL of reports that are put together:

    whole months and days                from a series of the counts by day and month of a time zone
    what is left at both ends            from the series of UTC, which has hours and quarters of an hour
    what came since the series' end      event by event

By hour, or by day in a zone that has no series, all of it comes from the hours and quarters. Which counts are
read of each is said in `report_cover`.

What came later is what came since the end of the counts that were read: the rows of the series' windows say
themselves how far they go, in the statement that reads the counts. So it does not matter that a series goes
on meanwhile: what was asked as of another end is asked again. One that was dropped, or has lost its narrow
counts to a process of an earlier version, is found out by the same rows (`engine.stores.clickhouse.reports`).

Counts are added up by ClickHouse when many are in one group. Where most groups have one count or a few they
are read as they are, and added up with what came later by whoever asked (`_report_sums`), who finds the
quantiles of times in any case: ClickHouse would take longer to plan that than to read the counts.
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
from engine.stores.clickhouse.report_moved import Moved, moved
from engine.stores.clickhouse.report_narrow_sql import ALONE, BY, DAY, QUARTER_S
from engine.stores.clickhouse.report_period_sql import HOUR_S, TABLE
from engine.stores.clickhouse.report_statements import (
    GROUPS_MAX,
    ROWS_MAX,
    filtered,
    filters,
    groups_of,
    numbered,
    time_sql,
)

_TIMES = ("of_answers", "of_ages")
# Most counts that are read as they are, and most of organisations, which have fewer times each: they come to
# some twenty megabytes. Where some are moved from day to day it is these that are so many at most, and all
# together come to some forty.
_AS_THEY_ARE_MAX = 60_000
_OF_ORGANISATIONS_MAX = 150_000
_AND_MOVED_MAX = 300_000
# Most counts of a country that are read as they are, of quarters of an hour of which others are left out.
_OF_COUNTRY_MAX = 100_000
# Where counts are moved, a group and event has so many rows at most: what stays, what came from the day
# before or after it, and that of a day of UTC which all is taken off again. So there may be more groups, too,
# before all is added up.
_ROWS_OF_MOVED = 4


class Together(NamedTuple):
    """A report that is put together, as what reads it: rows of each group and event, for `_report_sums`."""

    # Reads the counts; and, added up, those that are too many to be read as they are. "": they are too many
    # to be read at all.
    sql: str
    added_up_sql: str
    # Of a report that is not too large the answers have no more groups. Some may come to nothing.
    groups_max: int
    # Reads what came later; it needs the parameters `until0` and so on, and `until`, the least of them:
    # milliseconds since 1970.
    later_sql: str
    parameters: dict[str, Any]
    # The series, in the order in which the rows say how far they are counted.
    series: tuple[Series, ...]


class _Part(NamedTuple):
    """What is read of one series: its periods in SQL, the times of acceptance, seconds since 1970, and which
    counts (`added_of`)."""

    series: Series
    periods: list[str]
    times: list[tuple[int, int]]
    added: int
    # Of days or hours of UTC, what is moved to those of another zone.
    moved: Moved | None = None


def by_periods(
    query: ReportQuery, series: Series | None, utc: Series, days: Days, counts_max: int
) -> Together:
    """The statements of a report that is put together. `series`: None: all is read by hours and quarters;
    `days`: in its zone; `counts_max`: the server refuses to read more of any series."""
    parts = _parts(query, series, utc, days)
    parameters = filtered(query)
    for place, part in enumerate(parts):
        parameters |= {f"series{place}": part.series.zone, f"begun{place}": part.series.from_ms}
    selects = [_of_series(query, part, place, len(parts)) for place, part in enumerate(parts)]
    if series is not None and "day" in query.group_by and parts[0].added and not filters(query):
        # A count is a row of the statement.
        counts_max = min(counts_max, ROWS_MAX)
    as_they_are = min(_as_they_are(query, parts, days if series is not None else None), counts_max)
    added_up = _added_up(query, _bounded(selects, counts_max), parts)
    first, second = added_up, ""
    if _is_of_country(query, parts):
        # What is left out is read too.
        first, second = f"{_bounded(selects, counts_max)}, max_result_rows = {_OF_COUNTRY_MAX:d}", added_up
    elif as_they_are:
        first = _bounded(selects, as_they_are)
        second = added_up if counts_max > as_they_are else ""
    return Together(
        first,
        second,
        GROUPS_MAX * _rows_of_each(parts),
        _of_later(query, parts),
        parameters,
        tuple(part.series for part in parts),
    )


def _bounded(selects: list[str], counts_max: int) -> str:
    """All that the statements read, if none has to read more than so many counts."""
    bound = f"SETTINGS max_rows_to_read = {counts_max:d}"
    if len(selects) == 1:
        return f"{selects[0]} {bound}"
    return " UNION ALL ".join(f"SELECT * FROM ({select} {bound})" for select in selects)  # noqa: S608 - our own names


def _added_up(query: ReportQuery, selects: str, parts: list[_Part]) -> str:
    """What `selects` reads of the series, added up for each group and event."""
    groups = numbered(len(groups_of(query, "")) + 1)
    if parts[0].moved is not None:
        groups += f", {_off(query)}"
    columns = [f"sum({column}) AS {column}" for column in ("n", "parts", "held")]
    if "status" not in query.group_by:
        columns += [f"sumMap({column}) AS {column}" for column in _TIMES]
    columns += [
        f"max({column}) AS {column}" for column in ("lost", *(f"counted{i}" for i in range(len(parts))))
    ]
    most = ROWS_MAX * _rows_of_each(parts)
    return (
        f"SELECT {groups}, {', '.join(columns)} FROM ({selects}) GROUP BY {groups} LIMIT {most} "  # noqa: S608 - our own names
        f"SETTINGS max_rows_to_group_by = {most}"
    )


def _rows_of_each(parts: list[_Part]) -> int:
    """How many rows a group and event has at most, when counts are added up."""
    return 1 if parts[0].moved is None else _ROWS_OF_MOVED


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
        if series is None and (found := moved(query, days, added)) is not None:
            return [_Part(utc, found.periods, ends, added, found)]
        periods = [period for end in ends for period in parts_of_days(query, *end, added)]
        parts.append(_Part(utc, periods, ends, added))
    if len(parts) > 1 and series == utc:
        times = [(min(query.from_s, days.first_s), max(query.until_s, days.last_s))]
        parts = [_Part(utc, parts[0].periods + parts[1].periods, times, parts[0].added)]
    return parts


def _as_they_are(query: ReportQuery, parts: list[_Part], days: Days | None) -> int:
    """How many counts a report may read to have them as they are, because most groups are one count each or a
    few: to add up those of each would take the most time. 0: they are added up. `days`: those that are read
    from counts by day; None: there are none."""
    if parts[0].moved is not None:
        return min(round(_AS_THEY_ARE_MAX / parts[0].moved.part), _AND_MOVED_MAX)
    if "hour" in query.group_by:
        offsets = offsets_in(query.time_zone, query.from_s, query.until_s)
        hours = (ALONE,) if any(ahead_s % HOUR_S for _, ahead_s in offsets) else (ALONE, *BY.values())
        # Of quarters of an hour four are one hour. With a filter most that are read may be left out.
        few = all(part.added in hours or not (part.added or filters(query)) for part in parts)
        return _AS_THEY_ARE_MAX if few else 0
    if days is None:
        return 0
    if "organisation" in query.group_by and "day" not in query.group_by:
        whole_days = days.first_s <= query.from_s and query.until_s <= days.last_s
        return _OF_ORGANISATIONS_MAX if whole_days and not by_members(query) else 0
    return _AS_THEY_ARE_MAX if "day" in query.group_by else 0


def _is_of_country(query: ReportQuery, parts: list[_Part]) -> bool:
    """Whether a report by hour is of one country and reads quarters of an hour: most that are read are left
    out, and few are left of each group. Other filters may leave nearly all."""
    return "hour" in query.group_by and bool(query.country) and not _as_they_are(query, parts, None)


def _of_series(query: ReportQuery, part: _Part, place: int, places: int) -> str:
    """What a series has of a report, count by count, and how far it is counted. It is the one of that place
    among so many."""
    whose = "organisation_id = {organisation:Int64}"
    if query.organisation_id is None:
        each = "organisation" in query.group_by and not by_members(query)
        whose = "organisation_id > 0" if each else "organisation_id = 0"
    where = " AND ".join([whose, f"({' OR '.join(part.periods)})", *filters(query)])
    counted = [f"{'until_ms' if i == place else 'toUInt64(0)'} AS counted{i}" for i in range(places)]
    measures = ["events AS n", "segments AS parts", "units AS held", "answers AS of_answers"]
    measures.append("ages AS of_ages")
    if part.moved is not None:
        counted.append(f"{part.moved.off} AS {_off(query)}")
    # Rows of period 0 say whether it has narrow counts still.
    lost = "period = 0 AND begins = 0" if part.series.narrow else "toUInt8(0)"
    return _select(
        query, [*_groups_of_series(query, part), "event"], measures, TABLE,
        f"zone = {{series{place}:String}} AND from_ms = {{begun{place}:UInt64}} "
        f"AND (period = 0 OR ({where}))",
        [f"{lost} AS lost", *counted],
    )  # fmt: skip


def _groups_of_series(query: ReportQuery, part: _Part) -> list[str]:
    """What a report is grouped by, as SQL of a series."""
    groups = groups_of(query, "")
    for i, name in enumerate(name for name in query.group_by if name != "status"):
        if name in ("hour", "day") and part.moved is not None:
            groups[i] = part.moved.time
        elif name in ("hour", "day"):
            groups[i] = time_sql(query, name, f"fromUnixTimestamp(toUInt32(begins * {QUARTER_S}))")
            if name == "day":
                groups[i] = f"if(period = {DAY + part.added}, begins, {groups[i]})"
        elif name == "organisation" and by_members(query):
            groups[i] = "member"
    return groups


def _off(query: ReportQuery) -> str:
    """The name of the column that says which group a count is taken off: that of its time."""
    named = [name for name in query.group_by if name != "status"]
    return f"off{next(i for i, name in enumerate(named) if name in ('hour', 'day'))}"


def _of_later(query: ReportQuery, parts: list[_Part]) -> str:
    """What came since the end of each series, added up."""
    measures = ["count() AS n", "sum(toUInt64(activity.segments)) AS parts"]
    measures += ["sum(toUInt64(activity.units)) AS held"]
    measures += [f"{TIMES_SQL[0]} AS of_answers", f"{TIMES_SQL[1]} AS of_ages"]
    later = [
        f"(stream_ms >= {{until{place}:UInt64}} AND {_accepted(begin, end)})"
        for place, part in enumerate(parts)
        for begin, end in part.times
    ]
    # The index of the place in the stream, and the partitions, are found by these alone.
    all_times = [time for part in parts for time in part.times]
    where = [
        "stream_ms >= {until:UInt64}",
        _accepted(min(begin for begin, _ in all_times), max(end for _, end in all_times)),
        # One alone says the same again.
        *([f"({' OR '.join(later)})"] if len(later) > 1 else []),
        COUNTED_SQL,
        *[of.replace("country IN", f"{COUNTRY_SQL} IN") for of in filters(query)],
    ]
    if query.organisation_id is not None:
        where.insert(0, "organisation_id = {organisation:Int64}")
    groups = [COUNTRY_SQL if group == "country" else group for group in groups_of(query, "accepted_at")]
    select = _select(query, [*groups, EVENT_SQL], measures, "activity", " AND ".join(where), [])
    return f"{select} GROUP BY {numbered(len(groups) + 1)} LIMIT {ROWS_MAX}"


def _accepted(begin: int, end: int) -> str:
    return f"accepted_at >= fromUnixTimestamp({begin:d}) AND accepted_at < fromUnixTimestamp({end:d})"


def _select(
    query: ReportQuery, groups: list[str], measures: list[str], table: str, where: str, more: list[str]
) -> str:
    """A part of a report that is put together. By status no times are shown, so they are not read."""
    if "status" in query.group_by:
        measures = measures[:3]
    columns = [*(f"{column} AS g{i}" for i, column in enumerate(groups)), *measures, *more]
    return f"SELECT {', '.join(columns)} FROM {table} WHERE {where}"  # noqa: S608 - our own names; values are parameters
