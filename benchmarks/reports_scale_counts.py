"""What `reports_scale` reads: counts of a year with a thousand million events, and a part of its activity."""

from __future__ import annotations

import math
import os
import sys
import time
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.stores.clickhouse.report_narrow_sql import (
    ALONE,
    BY,
    DAY,
    DAYS_SQL,
    HOURS,
    HOURS_ALONE_SQL,
    HOURS_BY_SQL,
    MONTH,
    QUARTER,
)
from engine.stores.clickhouse.report_period_sql import MONTHS_SQL, NOTE_SQL, TABLE, counted_sql, insert_sql
from engine.stores.clickhouse.time_classes import class_sql

YEAR_EVENTS = 1_000_000_000
DAY_S, _YEAR_DAYS = 86_400, 365
YEAR_S = _YEAR_DAYS * DAY_S
FROM_S = 1_735_689_600  # 2025-01-01, UTC
ORGANISATIONS, FIRST_ORGANISATION = 200, 1000
# Groups of one organisation and day: accepted without a provider; sent and delivered with each of three.
_GROUPS = 2 * 5 * (1 + 2 * 3)
_BLOCK_EVENTS = 2_500_000
COUNTED_ZONES = ("UTC", "Asia/Tehran")
NOON, _MIDDLE = ", from noon", ", from noon of the 15th"
# Reports of a year begin so many days after its begin; the days at their ends are as full as they would be.
BEGINS = {"": 0.0, NOON: 0.5, _MIDDLE: 14.5}
# Events of messages; an organisation has a share by the third root of its place: the first has a sixth.
_EVENTS = """
    WITH intDiv(number, 3) AS message, number % 3 AS place, cityHash64(message) AS hash,
        (hash % 1000003) / 1000003 AS a
    SELECT
        {organisation:Int64} + toInt64({organisations:Int64} * pow(a, 3)) AS org,
        toDateTime({from_s:UInt32} + toUInt32(message * {step:Float64}), 'UTC') AS accepted,
        place,
        toUInt32(20000 + hash % 70000) AS answer,
        toUInt32(if(place = 1, answer + 1000, 1000000 + hash % 8000000)) AS age,
        if(intDiv(hash, 1000003) % 10 < 9, 'normal', 'express') AS queue,
        hash % 100 AS part,
        toUInt16(multiIf(part < 50, 98, part < 70, 49, part < 85, 44, part < 95, 33, 90)) AS country,
        if(place = 0, '', multiIf(hash % 97 < 58, 'one', hash % 97 < 87, 'two', 'three')) AS provider,
        ['accepted', 'sent', 'delivered'][place + 1] AS event
    FROM numbers_mt({begin:UInt64}, {count:UInt64})"""
_QUARTERS = f"""
INSERT INTO report_quarters
SELECT 0, org, toStartOfFifteenMinutes(accepted) AS time, queue, country, provider, event, count(), sum(1),
    sum(2), quantilesTDigestIfState(0.5, 0.95, 0.99)(answer, toUInt8(place = 1)),
    quantilesTDigestIfState(0.5, 0.95, 0.99)(age, toUInt8(place > 0))
FROM ({_EVENTS}) GROUP BY org, time, queue, country, provider, event"""
_COUNTED = f"""
    SELECT org, toUInt32(toStartOfFifteenMinutes(accepted)) AS at_s,
        toDate(accepted, {{zone:String}}) AS day, queue, country, provider, event,
        count() AS n, sum(1) AS parts, sum(2) AS held,
        sumMapIf(map({class_sql("answer")}, toUInt64(1)), place = 1) AS of_answers,
        sumMapIf(map({class_sql("age")}, toUInt64(1)), place > 0) AS of_ages
    FROM ({_EVENTS}) GROUP BY org, at_s, day, queue, country, provider, event"""
# By zone, what the series has beside months.
_SERIES = {
    "UTC": insert_sql(TABLE) + counted_sql(_COUNTED, 1, DAY, QUARTER),
    "Asia/Tehran": insert_sql(TABLE) + counted_sql(_COUNTED, 1, DAY),
}
_FULL = insert_sql(TABLE) + counted_sql(_COUNTED, 1, QUARTER)
ACTIVITY = f"""
INSERT INTO activity (at, organisation_id, message_id, accepted_at, event, queue, to, segments, units,
    provider, latency_us, stream_ms)
SELECT accepted + intDiv(age, 1000000), org, toString(generateUUIDv7()), accepted, event, queue,
    concat('+', toString(country), '12345678'), 1, 2, provider, answer,
    toUnixTimestamp(accepted) * 1000 + intDiv(age, 1000) + {{later:Int64}}
FROM ({_EVENTS})"""
_COPIED_PERIODS = (
    QUARTER,
    *(ALONE + hour for hour in HOURS.values()),
    *(by + HOURS[0] for by in BY.values()),
)
# A day of the largest organisation and of all together, once more on another, with its narrow counts by hour.
_COPIED = f"""
INSERT INTO {TABLE}
SELECT zone, from_ms, filled, period, organisation_id, begins + 96 * arrayJoin({{days:Array(UInt32)}}),
    member, queue, country, provider, event, events, segments, units, answers, ages, 0
FROM {TABLE} WHERE period IN {_COPIED_PERIODS} AND organisation_id IN (0, {FIRST_ORGANISATION})
    AND begins >= {{day:UInt32}} * 96 AND begins < {{day:UInt32}} * 96 + 96"""
# Of these the counts by day and month of UTC, which then are what those by the quarter come to.
_OF_COPIED = f"(SELECT * FROM {TABLE} WHERE zone = 'UTC' AND organisation_id IN (0, {FIRST_ORGANISATION}))"
_DROPPED = f"""
ALTER TABLE {TABLE} DELETE WHERE zone = 'UTC' AND organisation_id IN (0, {FIRST_ORGANISATION})
    AND period IN {tuple(kind + unit for kind in (0, ALONE, *BY.values()) for unit in (DAY, MONTH))}
SETTINGS mutations_sync = 1"""
_DAYS_OF_COPIED = f"""
SELECT zone, from_ms, filled, {DAY}, organisation_id, toUInt32(intDiv(begins, 96)) AS day, 0, queue, country,
    provider, event, sum(r.events), sum(r.segments), sum(r.units), sumMap(r.answers), sumMap(r.ages), 0
FROM {_OF_COPIED} AS r WHERE period = {QUARTER} AND begins >= toUInt32({{first:Date}}) * 96
    AND begins < toUInt32({{last:Date}}) * 96
GROUP BY zone, from_ms, filled, organisation_id, day, queue, country, provider, event"""
_SPAN_DAYS = 400
# Events of the minute that is counted.
_WINDOW_EVENTS = 30_000
# So many days are made at a time.
_NARROW_DAYS = 20
# How far the counts by day are behind at most, seconds.
_LATER_S = 120


def organisations() -> dict[str, tuple[int | None, float]]:
    """By name, organisations (None: all) and their share of all messages."""
    roots = [math.cbrt(place / ORGANISATIONS) for place in range(ORGANISATIONS + 1)]
    shares = [after - before for before, after in pairwise(roots)]
    return {
        "largest": (FIRST_ORGANISATION, shares[0]),
        "all": (None, 1.0),
    }


def run(client: Any, statement: str, events: int, seconds: float, **parameters: Any) -> None:
    """Have a statement make something of events that come within so many seconds."""
    for begin in range(0, events, _BLOCK_EVENTS):
        client.command(
            statement,
            parameters={
                "from_s": FROM_S, "step": 3 * seconds / events, "organisation": FIRST_ORGANISATION,
                "organisations": ORGANISATIONS, "begin": begin, "count": min(_BLOCK_EVENTS, events - begin),
                **parameters,
            },
        )  # fmt: skip


def fill_thin(client: Any, events: int) -> int:
    """Make the counts of events over the whole year, and those of the first day as full as it would be: when
    the series begin, milliseconds since 1970."""
    began = time.monotonic()
    run(client, _QUARTERS, events, YEAR_S * events / YEAR_EVENTS)
    # Reports end before it, so that the time since when rows are read one by one is that of the archiver.
    begun_ms = int(time.time() * 1000)
    span_s = _SPAN_DAYS * DAY_S
    for zone, statement in _SERIES.items():
        of: dict[str, Any] = {"zone": zone, "from": begun_ms}
        run(client, statement, events * _SPAN_DAYS // _YEAR_DAYS, span_s, **of)
        for filled in (0, 1):
            client.command(insert_sql(TABLE) + NOTE_SQL, parameters={**of, "filled": filled})
        _tell(began, f"the year of {zone} is made")
    _full(client, begun_ms, 0, 1)
    _tell(began, "the first full day is made")
    return begun_ms


def fill(client: Any, begun_ms: int, rows: int) -> dict[str, Any]:
    """Make the other full days, the narrow counts and the activity, and merge all: the sizes."""
    began = time.monotonic()
    for begin in sorted({int(begin) for begin in BEGINS.values()}):
        if begin:
            _full(client, begun_ms, begin, 1)
        _full(client, begun_ms, begin + _YEAR_DAYS - 1, 2)
        _tell(began, f"the full days from {begin} on are made")
    add_narrow(client)
    _tell(began, "the narrow counts are made")
    copy_days(client)
    _tell(began, "the days between are copied")
    add_up_days(client)
    _tell(began, "they are added up")
    for table in ("report_quarters", TABLE):
        client.command(f"OPTIMIZE TABLE {table} FINAL")
    _tell(began, "the counts are merged")
    # Its views would count it as well.
    for view in ("activity_to_report", "activity_to_outstanding", "activity_to_outstanding_messages"):
        client.command(f"DROP VIEW {view}")
    run(client, ACTIVITY, rows, YEAR_S, later=0)
    client.command("OPTIMIZE TABLE activity FINAL")
    later = begun_ms - (FROM_S + YEAR_S - _LATER_S) * 1000
    run(
        client,
        ACTIVITY,
        YEAR_EVENTS * _LATER_S // YEAR_S,
        _LATER_S,
        later=later,
        from_s=FROM_S + YEAR_S - _LATER_S,
    )
    found = client.query(
        "SELECT table, sum(rows), sum(bytes_on_disk), sum(marks) FROM system.parts WHERE active AND "
        "database = currentDatabase() AND table IN ('report_quarters', 'report_series', 'activity') "
        "GROUP BY table"
    ).result_rows
    return {
        table: {"rows": rows, "bytes_a_row": round(size / rows, 1), "granules": marks}
        for table, rows, size, marks in found
    }


def _full(client: Any, begun_ms: int, first: int, days: int) -> None:
    """Make days as full, by the quarter of an hour, as those of a thousand million events a year are."""
    run(
        client, _FULL, YEAR_EVENTS * days // _YEAR_DAYS, days * DAY_S,
        zone="UTC", from_s=FROM_S + first * DAY_S, **{"from": begun_ms},
    )  # fmt: skip


def _tell(began: float, what: str) -> None:
    """Say how far a filling is, and how long it has taken: minutes, however few events there are."""
    print(f"{time.monotonic() - began:.0f} s: {what}", file=sys.stderr, flush=True)


def add_narrow(client: Any) -> None:
    """Make the narrow counts, and those by month."""
    for dates in _parts_of_span():
        for statement in (HOURS_ALONE_SQL, HOURS_BY_SQL, DAYS_SQL):
            client.command(insert_sql(TABLE) + statement.replace("MADE", TABLE), parameters=dates)
    client.command(insert_sql(TABLE) + MONTHS_SQL.replace("MADE", TABLE))


def copy_days(client: Any) -> None:
    """Make the days of the largest organisation and of all together as full as they would be."""
    full = {int(begin) + days for begin in BEGINS.values() for days in (0, _YEAR_DAYS - 1, _YEAR_DAYS)}
    left = [day for day in range(1, _SPAN_DAYS) if day not in full]
    for place in range(0, len(left), _NARROW_DAYS):
        days = {"day": FROM_S // DAY_S, "days": left[place : place + _NARROW_DAYS]}
        client.command(_COPIED, parameters=days)


def add_up_days(client: Any) -> None:
    """Make the days and months of the largest organisation and of all together what their quarters come
    to."""
    client.command(_DROPPED)
    for statement in (_DAYS_OF_COPIED, DAYS_SQL):
        for dates in _parts_of_span():
            client.command(insert_sql(TABLE) + statement.replace("MADE", _OF_COPIED), parameters=dates)
    client.command(insert_sql(TABLE) + MONTHS_SQL.replace("MADE", _OF_COPIED))


def _parts_of_span() -> list[dict[str, date]]:
    begin = date(2025, 1, 1)
    return [
        {"first": begin + timedelta(first), "last": begin + timedelta(first + _NARROW_DAYS)}
        for first in range(0, _SPAN_DAYS, _NARROW_DAYS)
    ]


def cpu_s(process: int) -> float:
    """The CPU that a process has used, seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
