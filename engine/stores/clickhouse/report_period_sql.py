"""Rule: the SQL that counts events by the quarters of an hour, days and months (0015_report_series.sql).

Counts come from the rows of the activity, from the counts by the quarter of an hour that a view makes, or
from those of the series of UTC: as the columns `org`, `day`, `at_s` (when the quarter begins, seconds), those
of a group, `n` events with `parts` segments and `held` units, and their times by class. `counted_sql` adds
them up for each period.

Narrow counts (`report_narrow_sql`) have one of the groups or none, so there are few of them. They are in the
same table with numbers of their own, and their hours in the series of UTC alone. A series of an earlier
version has none, or lost them when a process of that version counted on: the rows of period 0 say so."""

from __future__ import annotations

from engine.stores.clickhouse.report_narrow_sql import (
    ALONE,
    BY,
    DAY,
    MONTH,
    NARROW_DAYS,
    QUARTER,
    QUARTER_S,
    begins_of_day_sql,
    begins_of_quarter_sql,
    kept_by_sql,
)
from engine.stores.clickhouse.time_classes import EMPTY_SQL, class_sql, classes_sql

TABLE = "report_series"
# What is added to that of a period in which all are counted by organisation and event alone.
MEMBERS = 3
# The one that there is of all by organisation and event alone; with each quarter of an hour.
HOUR_MEMBERS = 7
HOUR_S = 3600
_COLUMNS = (
    "zone, from_ms, filled, period, organisation_id, begins, member, queue, country, provider, event, "
    "events, segments, units, answers, ages, until_ms"
)
_GROUP = "queue, country, provider, event"
# Times of answers and ages of the rows of `report_events`, by class.
TIMES_SQL = (
    f"sumMapIf(map({class_sql('latency_us')}, toUInt64(1)), latency_us > 0)",
    f"sumMapIf(map({class_sql('age')}, toUInt64(1)), aged)",
)


def insert_sql(table: str) -> str:
    """The begin of an insert of what follows."""
    return f"INSERT INTO {table} ({_COLUMNS}) "


def _day(time: str) -> str:
    return f"toDate({time}, {{zone:String}})"


def _added_to(periods: tuple[int, ...], *, narrow: bool) -> dict[int, str]:
    """What counts are added to, as an array of tuples of period, organisation, begin and member: by what is
    added to the numbers of the periods, those with all groups first."""
    begins = {
        DAY: "toUInt32(day)",
        MONTH: "toUInt32(toStartOfMonth(day))",
        QUARTER: f"toUInt32(intDiv(at_s, {QUARTER_S}))",
    }
    added: dict[int, list[str]] = {0: [], ALONE: []}
    more = begins_of_day_sql(begins[DAY], begins[MONTH]) if narrow else []
    more += begins_of_quarter_sql(begins[QUARTER]) if narrow and QUARTER in periods else []
    for period, begin in [(period, begins[period]) for period in periods] + more:
        of = added.setdefault(period // 10 * 10, [])
        of += [f"({period}, {whose}, {begin}, toInt64(0))" for whose in ("org", "toInt64(0)")]
    added[ALONE] += [f"({period + MEMBERS}, toInt64(0), {begins[period]}, org)" for period in periods]
    if QUARTER in periods:
        added[ALONE].append(f"({HOUR_MEMBERS}, toInt64(0), toUInt32(intDiv(at_s, {HOUR_S})), org)")
    return {kind: f"[{', '.join(places)}]" for kind, places in added.items()}


def counted_sql(source: str, filled: int, *periods: int, narrow: bool = False) -> str:
    """Rows of a series, without where they are inserted; with the narrow counts or without.

    Counts are first added up for each kind of groups, which leaves few but of the first, and then for each
    period."""
    added = _added_to(periods, narrow=narrow)
    kinds = list(added)
    at = ["org", "day", *(["at_s"] if QUARTER in periods else [])]
    kept = ", ".join(f"{kept_by_sql(name, 'kind')} AS of_{name}" for name in BY)
    by = ", ".join(f"of_{name}" for name in BY)
    first = f"""
    SELECT arrayJoin({kinds}) AS kind, {", ".join(at)}, {kept}, event, sum(n) AS n_of, sum(parts) AS parts_of,
        sum(held) AS held_of, sumMap(of_answers) AS answers_of, sumMap(of_ages) AS ages_of
    FROM ({source}) GROUP BY kind, {", ".join(at)}, {by}, event"""  # noqa: S608 - our own names; values are parameters
    places = ", ".join(f"kind = {kind}, {places}" for kind, places in list(added.items())[:-1])
    return f"""
SELECT {{zone:String}}, {{from:UInt64}}, toUInt8({filled}), toUInt8(p.1) AS of_period,
    toInt64(p.2) AS organisation, toUInt32(p.3) AS begin, toInt64(p.4) AS of_member, {by}, event,
    sum(n_of) AS all_n, sum(parts_of) AS all_parts, sum(held_of) AS all_held,
    sumMap(answers_of) AS all_answers, sumMap(ages_of) AS all_ages, toUInt64(0) AS until
FROM ({first}) ARRAY JOIN multiIf({places}, {added[kinds[-1]]}) AS p
GROUP BY of_period, organisation, begin, of_member, {by}, event"""  # noqa: S608 - our own names; values are parameters


def _of_rows(where: str) -> str:
    """Counts of events one by one."""
    return f"""
    SELECT organisation_id AS org, toUnixTimestamp(toStartOfFifteenMinutes(accepted_at)) AS at_s,
        {_day("accepted_at")} AS day, {_GROUP}, count() AS n, sum(toUInt64(segments)) AS parts,
        sum(toUInt64(units)) AS held, {TIMES_SQL[0]} AS of_answers, {TIMES_SQL[1]} AS of_ages
    FROM report_events WHERE {where}
    GROUP BY org, at_s, day, {_GROUP}"""  # noqa: S608 - our own names; values are parameters


_DAYS = "day >= {first:Date} AND day < {last:Date}"
# A window of what was archived, of UTC and of another zone.
_WINDOW = "stream_ms >= {begin:UInt64} AND stream_ms < {end:UInt64}"


def window_sql(*periods: int, narrow: bool) -> str:
    """The insert of a window, with the row that says until when all is counted; of nothing, when the series
    does not end where the window begins. `narrow`: whether the series has narrow counts."""
    return f"""{insert_sql(TABLE)} SELECT * FROM (
{counted_sql(_of_rows(_WINDOW), 0, *periods, narrow=narrow)}
UNION ALL
SELECT {{zone:String}}, {{from:UInt64}}, 0, 0, 0, {narrow:d}, 0, '', 0, '', '', 0, 0, 0, {EMPTY_SQL},
    {EMPTY_SQL}, {{end:UInt64}}
) WHERE {{begin:UInt64}} = (
    SELECT max(until_ms) FROM {TABLE}
    WHERE period = 0 AND zone = {{zone:String}} AND from_ms = {{from:UInt64}} AND filled = 0)"""  # noqa: S608 - our own names; values are parameters


# The row that says until when all is counted, and, as `begins` 1, that the narrow counts are there too: not
# when any row of the series says 0.
NOTE_SQL = (
    "SELECT {zone:String}, {from:UInt64}, {filled:UInt8}, 0, 0, 1, 0, '', 0, '', '', 0, 0, 0, "
    f"{EMPTY_SQL}, {EMPTY_SQL}, {{from:UInt64}}"
)
SERIES_SQL = f"""
SELECT zone, from_ms, max(filled), maxIf(until_ms, filled = 0), min(begins)
FROM {TABLE} WHERE period = 0 GROUP BY zone, from_ms"""  # noqa: S608 - our own name

# The counts of UTC for another series of it, from `SOURCE`: those that the narrow ones are made of.
COPY_SQL = f"""
SELECT {{zone:String}}, {{from:UInt64}}, 1, period, organisation_id, begins, member, {_GROUP},
    events, segments, units, answers, ages, 0
FROM SOURCE
WHERE (period IN ({DAY}, {DAY + MEMBERS}) AND begins >= toUInt32({{first:Date}})
        AND begins < toUInt32({{last:Date}}))
    OR (period IN ({QUARTER}, {QUARTER + MEMBERS}) AND begins >= toUInt32({{first:Date}}) * 96
        AND begins < toUInt32({{last:Date}}) * 96)
    OR (period = {HOUR_MEMBERS} AND begins >= toUInt32({{first:Date}}) * 24
        AND begins < toUInt32({{last:Date}}) * 24)"""  # noqa: S608 - our own names; values are parameters

# When a quarter begins.
_QUARTER = f"fromUnixTimestamp(toUInt32(begins * {QUARTER_S}))"
# What a zone is filled with: the counts of UTC, which `SOURCE` is a copy of.
_OF_UTC = f"""
    SELECT organisation_id AS org, {_day(_QUARTER)} AS day, {_GROUP}, sum(events) AS n,
        sum(segments) AS parts, sum(units) AS held, sumMap(answers) AS of_answers,
        sumMap(ages) AS of_ages
    FROM SOURCE
    WHERE period = {QUARTER} AND organisation_id > 0 AND {_DAYS}
      AND begins >= (toUInt32({{first:Date}}) - 1) * 96 AND begins < (toUInt32({{last:Date}}) + 1) * 96
    GROUP BY org, day, {_GROUP}"""  # noqa: S608 - our own names; values are parameters
FROM_UTC_SQL = counted_sql(_OF_UTC, 1, DAY)
DAYS_OF_UTC_SQL = f"""
SELECT toUInt32({_day(_QUARTER)}) AS day, count() FROM SOURCE
WHERE period = {QUARTER} AND organisation_id > 0 GROUP BY day ORDER BY day"""  # noqa: S608 - our own names
MONTHS_SQL = f"""
SELECT zone, from_ms, filled, period + 1, organisation_id, toUInt32(toStartOfMonth(toDate(begins))) AS month,
    member, {_GROUP}, sum(events), sum(segments), sum(units), sumMap(answers), sumMap(ages), 0
FROM MADE WHERE period IN ({", ".join(map(str, (DAY, DAY + MEMBERS, *NARROW_DAYS)))})
GROUP BY zone, from_ms, filled, period, organisation_id, month, member, {_GROUP}"""  # noqa: S608 - our own names

# What UTC is filled with: the counts that the view makes.
_OF_QUARTERS = f"""
    SELECT organisation_id AS org, toUnixTimestamp(quarter) AS at_s, {_day("quarter")} AS day, {_GROUP},
        sum(report_quarters.events) AS n, sum(report_quarters.segments) AS parts,
        sum(report_quarters.units) AS held, {classes_sql("answer_us", "n")} AS of_answers,
        {classes_sql("age_us", "n")} AS of_ages
    FROM report_quarters
    WHERE quarter >= toDateTime({{first:Date}}, 'UTC') AND quarter < toDateTime({{last:Date}}, 'UTC')
    GROUP BY org, at_s, day, {_GROUP}"""  # noqa: S608 - our own names; values are parameters
_ACCEPTED = "accepted_at >= toDateTime({first:Date}, 'UTC') AND accepted_at < toDateTime({last:Date}, 'UTC')"
# What came after the series began, to be taken off: a difference of numbers without a sign is right in the
# end, whatever is taken off first.
_LATER = f"""
    UNION ALL
    SELECT organisation_id AS org, toUnixTimestamp(toStartOfFifteenMinutes(accepted_at)) AS at_s,
        {_day("accepted_at")} AS day, {_GROUP}, toUInt64(-count()) AS n,
        toUInt64(-sum(toInt64(segments))) AS parts, toUInt64(-sum(toInt64(units))) AS held,
        {EMPTY_SQL} AS of_answers, {EMPTY_SQL} AS of_ages
    FROM report_events WHERE stream_ms >= {{from:UInt64}} AND {_ACCEPTED}
    GROUP BY org, at_s, day, {_GROUP}"""  # noqa: S608 - our own names; values are parameters
FROM_QUARTERS_SQL = counted_sql(_OF_QUARTERS + _LATER, 1, DAY, QUARTER)
FROM_ROWS_SQL = counted_sql(_of_rows(f"stream_ms < {{from:UInt64}} AND {_ACCEPTED}"), 1, DAY, QUARTER)
DAYS_OF_QUARTERS_SQL = f"""
SELECT toUInt32({_day("quarter")}) AS day, count() FROM report_quarters GROUP BY day ORDER BY day"""  # noqa: S608 - our own names
# Sums that say whether counts are the same: of the rows before the series, by day, and of what was made of
# quarters. Countries are left out, because numbers may have been removed from the rows.
_SUMS = (
    "sum({n}), sum({n} * (cityHash64(organisation_id, queue, provider, event) % 1000003)), sum({parts}), "
    "sum({held})"
)
WANTED_SQL = f"""
SELECT toUInt32({_day("accepted_at")}) AS day,
    {_SUMS.format(n="toUInt64(1)", parts="toUInt64(segments)", held="toUInt64(units)")}
FROM report_events WHERE stream_ms < {{from:UInt64}} AND {_ACCEPTED}
GROUP BY day"""  # noqa: S608 - our own names; values are parameters
MADE_SQL = f"""
SELECT begins, {_SUMS.format(n="events", parts="segments", held="units")} FROM MADE
WHERE period = {DAY} AND organisation_id > 0 GROUP BY begins"""  # noqa: S608 - our own names
# The day (UTC) of what was made.
DAY_MADE_SQL = (
    f"multiIf(period IN ({QUARTER}, {QUARTER + MEMBERS}), intDiv(begins, 96), "
    f"period = {HOUR_MEMBERS}, intDiv(begins, 24), begins)"
)
