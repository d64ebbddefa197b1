"""Rule: the SQL that counts events by the days and months of time zones (0013_report_periods.sql).

Counts come from the rows of the activity or from the counts by the quarter of an hour, as the columns
`org`, `day`, `at_s` (when the quarter begins, seconds), those of a group, `n` events with `parts` segments
and `held` units, and their times by class. `counted_sql` adds them up for each period."""

from __future__ import annotations

from engine.stores.clickhouse.time_classes import EMPTY_SQL, class_sql, classes_sql

_COLUMNS = (
    "zone, from_ms, filled, period, organisation_id, begins, queue, country, provider, event, events, "
    "segments, units, answers, ages, until_ms"
)
_GROUP = "queue, country, provider, event"
# Times of answers and ages of the rows of `report_events`, by class.
TIMES_SQL = (
    f"sumMapIf(map({class_sql('latency_us')}, toUInt64(1)), latency_us > 0)",
    f"sumMapIf(map({class_sql('age')}, toUInt64(1)), aged)",
)
_MONTH = "toUInt32(toStartOfMonth(day))"
# Periods that counts of an organisation and a day are added to, and those that counts of a quarter are.
_OF_DAY = "[(1, org, toUInt32(day)), (1, 0, toUInt32(day))]"
_OF_QUARTER = "[(3, 0, toUInt32(intDiv(at_s, 900)))]"
_OF_BOTH = f"[{_OF_DAY[1:-1]}, {_OF_QUARTER[1:-1]}]"
OF_ALL = f"[{_OF_BOTH[1:-1]}, (2, org, {_MONTH}), (2, 0, {_MONTH})]"


def insert_sql(table: str) -> str:
    """The begin of an insert of what follows."""
    return f"INSERT INTO {table} ({_COLUMNS}) "


def _day(time: str) -> str:
    return f"toDate({time}, {{zone:String}})"


def counted_sql(source: str, filled: int, periods: str) -> str:
    """Rows of `report_periods`, without where they are inserted. `periods`: an array of tuples of period,
    organisation and begin."""
    return f"""
SELECT {{zone:String}}, {{from:UInt64}}, toUInt8({filled}), toUInt8(p.1) AS period,
    toInt64(p.2) AS organisation, toUInt32(p.3) AS begins, {_GROUP},
    sum(n) AS events, sum(parts) AS segments, sum(held) AS units, sumMap(of_answers) AS answers,
    sumMap(of_ages) AS ages, toUInt64(0) AS until_ms
FROM ({source}) ARRAY JOIN {periods} AS p
GROUP BY period, organisation, begins, {_GROUP}"""  # noqa: S608 - our own names; values are parameters


def _of_rows(where: str) -> str:
    """Counts of events one by one."""
    return f"""
    SELECT organisation_id AS org, toUnixTimestamp(toStartOfFifteenMinutes(accepted_at)) AS at_s,
        {_day("accepted_at")} AS day, {_GROUP}, count() AS n, sum(toUInt64(segments)) AS parts,
        sum(toUInt64(units)) AS held, {TIMES_SQL[0]} AS of_answers, {TIMES_SQL[1]} AS of_ages
    FROM report_events WHERE {where}
    GROUP BY org, at_s, day, {_GROUP}"""  # noqa: S608 - our own names; values are parameters


_DAYS = "day >= {first:Date} AND day < {last:Date}"


def _of_quarters(by: str) -> str:
    """Counts of some days from those by quarters; `by`: the columns org, day and at_s."""
    return f"""
    SELECT {by}, {_GROUP}, sum(report_quarters.events) AS n, sum(report_quarters.segments) AS parts,
        sum(report_quarters.units) AS held, {classes_sql("answer_us", "n")} AS of_answers,
        {classes_sql("age_us", "n")} AS of_ages
    FROM report_quarters
    WHERE {_DAYS.replace("day", _day("quarter"))}
      AND quarter >= toDateTime({{first:Date}}, 'UTC') - 86400
      AND quarter < toDateTime({{last:Date}}, 'UTC') + 86400
    GROUP BY org, day, at_s, {_GROUP}"""  # noqa: S608 - our own names; values are parameters


# What came after the series began, to be taken off: a difference of numbers without a sign is right in the
# end, whatever is taken off first.
_LATER = f"""
    UNION ALL
    SELECT organisation_id AS org, {_day("accepted_at")} AS day,
        toUnixTimestamp(toStartOfFifteenMinutes(accepted_at)) AS at_s, {_GROUP}, toUInt64(-count()) AS n,
        toUInt64(-sum(toInt64(segments))) AS parts, toUInt64(-sum(toInt64(units))) AS held,
        {EMPTY_SQL} AS of_answers, {EMPTY_SQL} AS of_ages
    FROM report_events
    WHERE stream_ms >= {{from:UInt64}} AND accepted_at >= toDateTime({{first:Date}}, 'UTC') - 86400
      AND accepted_at < toDateTime({{last:Date}}, 'UTC') + 86400 AND {_DAYS}
    GROUP BY org, day, at_s, {_GROUP}"""  # noqa: S608 - our own names; values are parameters
_BY_DAY = _of_quarters(f"organisation_id AS org, {_day('quarter')} AS day, toUInt32(0) AS at_s")
_BY_QUARTER = _of_quarters("toInt64(0) AS org, toDate(0) AS day, toUnixTimestamp(quarter) AS at_s")
_ROWS_OF_DAYS = (
    "stream_ms < {from:UInt64} AND accepted_at >= toDateTime({first:Date}, 'UTC') - 86400 "
    f"AND accepted_at < toDateTime({{last:Date}}, 'UTC') + 86400 AND {_DAYS}"
)
FROM_QUARTERS_SQL = (
    counted_sql(_BY_DAY + _LATER, 1, _OF_DAY),
    counted_sql(_BY_QUARTER + _LATER, 1, _OF_QUARTER),
)
FROM_ROWS_SQL = counted_sql(_of_rows(_ROWS_OF_DAYS), 1, _OF_BOTH)
WINDOW_SQL = f"""{insert_sql("report_periods")} SELECT * FROM (
{counted_sql(_of_rows("stream_ms >= {begin:UInt64} AND stream_ms < {end:UInt64}"), 0, OF_ALL)}
UNION ALL
SELECT {{zone:String}}, {{from:UInt64}}, 0, 0, 0, 0, '', 0, '', '', 0, 0, 0, {EMPTY_SQL}, {EMPTY_SQL},
    {{end:UInt64}}
) WHERE {{begin:UInt64}} = (
    SELECT max(until_ms) FROM report_periods
    WHERE period = 0 AND zone = {{zone:String}} AND from_ms = {{from:UInt64}} AND filled = 0)"""  # noqa: S608 - our own names; values are parameters
# The row that says until when all is counted.
NOTE_SQL = (
    "SELECT {zone:String}, {from:UInt64}, {filled:UInt8}, 0, 0, 0, '', 0, '', '', 0, 0, 0, "
    f"{EMPTY_SQL}, {EMPTY_SQL}, {{from:UInt64}}"
)
# Sums that say whether counts are the same: of the rows before the series, by day, and of what was made of
# quarters. Countries are left out, because numbers may have been removed from the rows.
_SUMS = (
    "sumIf({n}, {when}), sumIf({n} * (cityHash64({org}, queue, provider, event) % 1000003), {when}), "
    "sumIf({parts}, {when}), sumIf({held}, {when})"
)
_OF_ROWS = {"when": "1", "n": "toUInt64(1)", "parts": "toUInt64(segments)", "held": "toUInt64(units)"}
WANTED_SQL = f"""
SELECT toUInt32({_day("accepted_at")}) AS day, {_SUMS.format(org="organisation_id", **_OF_ROWS)},
    {_SUMS.format(org="toInt64(0)", **_OF_ROWS)}
FROM report_events
WHERE stream_ms < {{from:UInt64}} AND accepted_at >= fromUnixTimestamp({{oldest:UInt32}})
GROUP BY day"""  # noqa: S608 - our own names; values are parameters
DAY_MADE_SQL = (
    "if(period = 3, toUInt32(toDate(fromUnixTimestamp(toUInt32(begins * 900)), {zone:String})), begins)"
)
_MADE_OF = {"org": "organisation_id", "n": "events", "parts": "segments", "held": "units"}
MADE_SQL = f"""
SELECT {DAY_MADE_SQL} AS day, {_SUMS.format(when="period = 1", **_MADE_OF)},
    {_SUMS.format(when="period = 3", **_MADE_OF)}
FROM MADE WHERE organisation_id > 0 OR period = 3
GROUP BY day"""  # noqa: S608 - our own names
MONTHS_SQL = f"""
SELECT zone, from_ms, filled, 2, organisation_id, toUInt32(toStartOfMonth(toDate(begins))) AS month, {_GROUP},
    sum(events), sum(segments), sum(units), sumMap(answers), sumMap(ages), 0
FROM MADE WHERE period = 1
GROUP BY zone, from_ms, filled, organisation_id, month, {_GROUP}"""  # noqa: S608 - our own names
DAYS_THERE_SQL = f"""
SELECT toUInt32({_day("quarter")}) AS day, count() FROM report_quarters GROUP BY day ORDER BY day"""  # noqa: S608 - our own names
SERIES_SQL = """
SELECT zone, from_ms, max(filled), maxIf(until_ms, filled = 0) FROM report_periods
WHERE period = 0 GROUP BY zone, from_ms"""
