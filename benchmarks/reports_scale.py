"""Reports over a year with a thousand million events: how long they take.

    python -m benchmarks.reports_scale [--events 5000000]

Takes some minutes. ClickHouse makes the counts that reports read itself, as they are made, from events of
200 organisations, the largest with a sixth of all; two queues, five countries, three providers; accepted,
sent and delivered. The counts are merged, as those of past months are. Each report is read five times, as the
API reads it: the least time counts, that of ClickHouse's answers apart, and the mean of the CPU of ClickHouse
and of the process that asks.

`year`: the series of UTC and of another zone, from `--events` events over the whole year. Of the largest
organisation they are as many by day, and have as many classes of times, as those of a thousand million
events; they only count less. The days at the ends of the reports are as full, by the quarter of an hour, as
those of a thousand million events are. Of the largest organisation and of all together one such day stands
for each day of the year, so what is read by the hour or the quarter is as much as it would be. Beside them
`activity` has a part of the year's events (`--rows`), and those of two minutes that are not counted yet.
Some zones are not counted: their days are read from hours, or from quarters of an hour.

`filling`: what it takes to fill the series of UTC from the counts that the views make, that of another zone
from UTC, and narrow counts of UTC for a series that has none; and the longest of the steps. For a year that
grows as the number of counts by the quarter of an hour does. `window`: what it costs to count a minute, with
and without the narrow counts. The server's folder is removed at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import clickhouse_connect
import msgspec
import uvloop

from engine.activity.reports import Group, ReportQuery
from engine.errors import Refusal
from engine.stores.clickhouse.report_narrow_sql import (
    DAY,
    DAYS_SQL,
    HOURS_ALONE_SQL,
    HOURS_BY_SQL,
    QUARTER,
)
from engine.stores.clickhouse.report_period_sql import MONTHS_SQL, NOTE_SQL, TABLE, counted_sql, insert_sql
from engine.stores.clickhouse.report_periods import ClickHouseReportPeriods
from engine.stores.clickhouse.reports import ClickHouseReports
from engine.stores.clickhouse.time_classes import class_sql
from engine.stores.migrate import migrate_clickhouse
from supervisor.embedded.servers import start_clickhouse

_YEAR_EVENTS = 1_000_000_000
_DAY_S, _YEAR_DAYS = 86_400, 365
_YEAR_S = _YEAR_DAYS * _DAY_S
_FROM_S = 1_735_689_600  # 2025-01-01, UTC
_ORGANISATIONS, _FIRST_ORGANISATION = 200, 1000
# Groups of one organisation and day: accepted without a provider; sent and delivered with each of three.
_GROUPS = 2 * 5 * (1 + 2 * 3)
_BLOCK_EVENTS = 2_500_000
_RUNS = 5
_NOON, _MIDDLE = ", from noon", ", from noon of the 15th"
# Reports of a year begin so many days after its begin; the days at their ends are as full as they would be.
_BEGINS = {"": 0.0, _NOON: 0.5, _MIDDLE: 14.5}
_COUNTED_ZONES = ("UTC", "Asia/Tehran")
_OTHER_ZONES = ("Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe")


class Case(NamedTuple):
    """Reports of a kind: their groups and filters, in which zones, and when they begin."""

    group_by: tuple[Group, ...]
    filters: dict[str, str]
    zones: tuple[str, ...] = ("UTC",)
    begins: tuple[str, ...] = ("",)


_ENDS = tuple(_BEGINS)
_CASES = (
    Case(("status",), {}, _COUNTED_ZONES, _ENDS),
    Case(("day",), {}, _COUNTED_ZONES, _ENDS),
    Case(("country", "provider"), {}, _COUNTED_ZONES, _ENDS),
    Case(("organisation",), {}, _COUNTED_ZONES, _ENDS),
    Case(("hour",), {}, ("UTC", *_OTHER_ZONES), ("", _NOON)),
    Case(("hour",), {"country": "IR"}, ("UTC", "Asia/Kolkata")),
    Case(("hour",), {"provider": "one"}),
    Case(("hour",), {"country": "IR", "provider": "one"}),
    Case(("day",), {}, _OTHER_ZONES, ("", _NOON)),
    Case(("day",), {"country": "IR"}, ("UTC", "Europe/Berlin", "Asia/Kolkata")),
    Case(("day",), {"provider": "one"}, ("UTC", "Europe/Berlin")),
    Case(("day",), {"country": "IR", "provider": "one"}),
    Case(("day", "country"), {}, ("UTC", "Europe/Berlin", "Asia/Kolkata"), ("", _NOON)),
    Case(("day", "provider"), {}, ("UTC", "Europe/Berlin")),
    Case(("day", "queue"), {}, ("UTC", "Europe/Berlin")),
    Case(("day", "country", "provider"), {}, ("UTC", "Europe/Berlin")),
    Case(("organisation", "country"), {}, ("UTC",), _ENDS),
    Case(("organisation", "provider"), {}, ("UTC",), _ENDS),
    Case(("organisation", "status"), {}, ("UTC",), _ENDS),
    Case(("organisation",), {"country": "IR"}, ("UTC",), _ENDS),
    Case(("organisation",), {"provider": "one"}, ("UTC",), _ENDS),
    Case(("organisation", "country", "provider"), {}, ("UTC",), _ENDS),
    Case(("organisation", "day"), {}),
)
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
    FROM numbers({begin:UInt64}, {count:UInt64})"""
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
_ACTIVITY = f"""
INSERT INTO activity (at, organisation_id, message_id, accepted_at, event, queue, to, segments, units,
    provider, latency_us, stream_ms)
SELECT accepted + intDiv(age, 1000000), org, toString(generateUUIDv7()), accepted, event, queue,
    concat('+', toString(country), '12345678'), 1, 2, provider, answer,
    toUnixTimestamp(accepted) * 1000 + intDiv(age, 1000) + {{later:Int64}}
FROM ({_EVENTS})"""
# A day of the largest organisation and of all together, once more on another.
_COPIED = f"""
INSERT INTO {TABLE}
SELECT zone, from_ms, filled, period, organisation_id, begins + 96 * arrayJoin({{days:Array(UInt32)}}),
    member, queue, country, provider, event, events, segments, units, answers, ages, 0
FROM {TABLE} WHERE period = {QUARTER} AND organisation_id IN (0, {_FIRST_ORGANISATION})
    AND begins >= {{day:UInt32}} * 96 AND begins < {{day:UInt32}} * 96 + 96"""
_SPAN_DAYS = 400
# Events of the minute that is counted.
_WINDOW_EVENTS = 30_000
# So many days are made at a time.
_NARROW_DAYS = 20
# How far the counts by day are behind at most, seconds.
_LATER_S = 120


def organisations() -> dict[str, tuple[int | None, float]]:
    """By name, organisations (None: all) and their share of all messages."""
    roots = [math.cbrt(place / _ORGANISATIONS) for place in range(_ORGANISATIONS + 1)]
    shares = [after - before for before, after in pairwise(roots)]
    return {
        "largest": (_FIRST_ORGANISATION, shares[0]),
        "all": (None, 1.0),
    }


def run(client: Any, statement: str, events: int, seconds: float, **parameters: Any) -> None:
    """Have a statement make something of events that come within so many seconds."""
    for begin in range(0, events, _BLOCK_EVENTS):
        client.command(
            statement,
            parameters={
                "from_s": _FROM_S, "step": 3 * seconds / events, "organisation": _FIRST_ORGANISATION,
                "organisations": _ORGANISATIONS, "begin": begin, "count": min(_BLOCK_EVENTS, events - begin),
                **parameters,
            },
        )  # fmt: skip


def fill(client: Any, events: int, rows: int) -> dict[str, Any]:
    """Make the counts of events, merge them, and the activity: the sizes."""
    began = time.monotonic()
    run(client, _QUARTERS, events, _YEAR_S * events / _YEAR_EVENTS)
    # Reports end before it, so that the time since when rows are read one by one is that of the archiver.
    begun_ms = int(time.time() * 1000)
    span_s = _SPAN_DAYS * _DAY_S
    for zone, statement in _SERIES.items():
        of: dict[str, Any] = {"zone": zone, "from": begun_ms}
        run(client, statement, events * _SPAN_DAYS // _YEAR_DAYS, span_s, **of)
        for filled in (0, 1):
            client.command(insert_sql(TABLE) + NOTE_SQL, parameters={**of, "filled": filled})
    for begin in sorted({int(begin) for begin in _BEGINS.values()}):
        for first, count in ((begin, 1), (begin + _YEAR_DAYS - 1, 2)):
            run(
                client, _FULL, _YEAR_EVENTS * count // _YEAR_DAYS, count * _DAY_S,
                zone="UTC", from_s=_FROM_S + first * _DAY_S, **{"from": begun_ms},
            )  # fmt: skip
    copy_days(client)
    for first in range(0, _SPAN_DAYS, _NARROW_DAYS):
        dates = {
            name: date(2025, 1, 1) + timedelta(days)
            for name, days in (("first", first), ("last", first + _NARROW_DAYS))
        }
        for statement in (HOURS_ALONE_SQL, HOURS_BY_SQL, DAYS_SQL):
            client.command(insert_sql(TABLE) + statement.replace("MADE", TABLE), parameters=dates)
    client.command(insert_sql(TABLE) + MONTHS_SQL.replace("MADE", TABLE))
    for table in ("report_quarters", TABLE):
        client.command(f"OPTIMIZE TABLE {table} FINAL")
    # Its views would count it as well.
    for view in ("activity_to_report", "activity_to_outstanding", "activity_to_outstanding_messages"):
        client.command(f"DROP VIEW {view}")
    run(client, _ACTIVITY, rows, _YEAR_S, later=0)
    client.command("OPTIMIZE TABLE activity FINAL")
    later = begun_ms - (_FROM_S + _YEAR_S - _LATER_S) * 1000
    run(
        client,
        _ACTIVITY,
        _YEAR_EVENTS * _LATER_S // _YEAR_S,
        _LATER_S,
        later=later,
        from_s=_FROM_S + _YEAR_S - _LATER_S,
    )
    found = client.query(
        "SELECT table, sum(rows), sum(bytes_on_disk), sum(marks) FROM system.parts WHERE active AND "
        "database = currentDatabase() AND table IN ('report_quarters', 'report_series', 'activity') "
        "GROUP BY table"
    ).result_rows
    sizes = {
        table: {"rows": rows, "bytes_a_row": round(size / rows, 1), "granules": marks}
        for table, rows, size, marks in found
    }
    return {"filled_s": round(time.monotonic() - began), **sizes}


def copy_days(client: Any) -> None:
    """Make the days of the largest organisation and of all together as full as they would be."""
    full = {int(begin) + days for begin in _BEGINS.values() for days in (0, _YEAR_DAYS - 1, _YEAR_DAYS)}
    left = [day for day in range(1, _SPAN_DAYS) if day not in full]
    for place in range(0, len(left), _NARROW_DAYS):
        days = {"day": _FROM_S // _DAY_S, "days": left[place : place + _NARROW_DAYS]}
        client.command(_COPIED, parameters=days)


class Reader(ClickHouseReports):
    """Reads reports, and notes how long ClickHouse's answers took, seconds."""

    answers_s = 0.0

    async def _query(self, sql: str, parameters: dict[str, Any]) -> Any:
        began = time.monotonic()
        try:
            return await super()._query(sql, parameters)
        finally:
            self.answers_s += time.monotonic() - began


async def least_ms(reports: Reader, query: ReportQuery, server: int) -> dict[str, float]:
    """The least time of some runs, and of ClickHouse's answers in it; the mean CPU of ClickHouse and of this
    process, which encodes the report as the API does; milliseconds. And how many rows it has."""
    found, rows, encoder = [], 0, msgspec.json.Encoder()
    cpu, of_server = time.process_time(), cpu_s(server)
    for _ in range(_RUNS):
        reports.answers_s, began = 0.0, time.monotonic()
        with contextlib.suppress(Refusal):
            report = await reports.summary(query)
            encoder.encode(report)
            rows = len(report.rows)
        found.append((time.monotonic() - began, reports.answers_s))
    seconds = {
        "ms": min(found)[0],
        "answers_ms": min(found)[1],
        "cpu_ms": (cpu_s(server) - of_server) / _RUNS,
        "cpu_ms_of_this_process": (time.process_time() - cpu) / _RUNS,
    }
    return {"rows": rows, **{name: round(1000 * value, 1) for name, value in seconds.items()}}


def cpu_s(process: int) -> float:
    """The CPU that a process has used, seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def year(reports: Reader, client: Any, server: int, only: str) -> dict[str, Any]:
    """What each report of the year takes; `only` those with that in their names."""
    result: dict[str, Any] = {}
    for size, (organisation, share) in organisations().items():
        of = f"organisation_id = {organisation or 0:d}"
        [(counts,)] = client.query(
            f"SELECT count() FROM report_series WHERE zone = 'UTC' AND period = 1 AND {of}"
        ).result_rows
        result[size] = {"events": round(_YEAR_EVENTS * share), "counts": counts}
        for case in _CASES:
            if organisation is not None and "organisation" in case.group_by:
                continue
            for zone in case.zones:
                for period in case.begins:
                    filters = "".join(f", {name} {value}" for name, value in case.filters.items())
                    name = f"{' and '.join(case.group_by)}{filters}, {zone}{period}"
                    if only in name:
                        query = of_year(case, zone, period, organisation)
                        result[size][name] = await least_ms(reports, query, server)
                        print(size, name, result[size][name], file=sys.stderr, flush=True)
    return result


def of_year(case: Case, zone: str, period: str, organisation: int | None) -> ReportQuery:
    """A report of a case."""
    begin = datetime.fromtimestamp(_FROM_S + int(_BEGINS[period] * _DAY_S), UTC)
    from_s = int(begin.replace(tzinfo=ZoneInfo(zone)).timestamp())
    return ReportQuery(
        from_s=from_s, until_s=from_s + _YEAR_S, group_by=case.group_by, organisation_id=organisation,
        time_zone=zone, **case.filters,
    )  # fmt: skip


async def windows(url: str, client: Any, server: int) -> dict[str, Any]:
    """What it costs to count a minute of events without the narrow counts and with them, milliseconds of
    ClickHouse's CPU, and how many counts it inserts."""
    periods, result = ClickHouseReportPeriods(url), {}
    found = await periods.series()
    begin_ms = max(each.until_ms for each in found) + 3_600_000
    begin_s = _FROM_S + _YEAR_S
    run(client, _ACTIVITY, _WINDOW_EVENTS, 60, from_s=begin_s, later=begin_ms - begin_s * 1000)
    for zone in _COUNTED_ZONES:
        [series] = [each for each in found if each.zone == zone]
        for narrow in (False, True):
            costs, counts = [], 0
            for place in range(_RUNS):
                # Each a series of its own: the minute after the last one that is counted.
                from_ms = begin_ms - 10 * place - narrow
                await periods.begin(zone, from_ms)
                fresh = msgspec.structs.replace(series, from_ms=from_ms, until_ms=from_ms, narrow=narrow)
                began = cpu_s(server)
                await periods.roll(fresh, begin_ms + 120_000)
                costs.append(cpu_s(server) - began)
                of = f"zone = '{zone}' AND from_ms = {from_ms}"
                [(counts,)] = client.query(f"SELECT count() FROM {TABLE} WHERE {of}").result_rows
                await periods.drop(fresh)
            result[f"{zone}, {'with' if narrow else 'without'} narrow counts"] = {
                "cpu_ms": round(1000 * min(costs)),
                "counts": counts,
            }
    await periods.close()
    return result


async def filling(url: str, client: Any, events: int) -> dict[str, Any]:
    """What it takes to fill a series of UTC, one of another zone, and one of UTC from one of UTC."""
    periods, result = ClickHouseReportPeriods(url), {}
    [utc] = [each for each in await periods.series() if each.zone == "UTC"]
    [(quarters,)] = client.query("SELECT count() FROM report_quarters").result_rows
    of_year = quarters * _YEAR_EVENTS // events
    counted = f"SELECT count() FROM {TABLE} WHERE zone = 'UTC' AND period = {QUARTER} AND organisation_id > 0"
    [(of_utc,)] = client.query(counted).result_rows
    # Another one begins where it ends.
    await periods.roll(utc, utc.from_ms + 1)
    for name, rows, steps in (
        ("Asia/Kolkata", of_utc, periods.derive("Asia/Kolkata", utc)),
        ("UTC from UTC", of_utc, periods.derive("UTC", utc)),
        ("UTC", quarters, periods.fill(msgspec.structs.replace(utc, from_ms=utc.from_ms + 2))),
    ):
        began = last = time.monotonic()
        longest_s = 0.0
        async for _ in steps:
            longest_s, last = max(longest_s, time.monotonic() - last), time.monotonic()
        seconds = time.monotonic() - began
        result[name] = {
            "counts_of_quarters": rows, "s": round(seconds, 1), "longest_step_s": round(longest_s, 2),
            "counts_of_quarters_in_a_year": of_year, "s_of_year": round(seconds / rows * of_year),
        }  # fmt: skip
    await periods.close()
    return result


async def measure(url: str, client: Any, options: argparse.Namespace, server: int) -> dict[str, Any]:
    """All figures, by name."""
    reports = Reader(url, timeout_s=120.0)
    result = {"year": await year(reports, client, server, options.only)}
    if not options.only:
        result["window"] = await windows(url, client, server)
        result["filling"] = await filling(url, client, options.events)
    await reports.close()
    return result


def main() -> None:
    """Start the server, make the counts, print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reports_scale", description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--only", default="", help="reports with this in their names, and nothing else")
    options = parser.parse_args()
    result: dict[str, Any] = {"cpus": os.cpu_count(), "events": options.events}
    with tempfile.TemporaryDirectory(prefix="smsengine-bench-") as folder:
        Path(folder).chmod(0o755)
        server = start_clickhouse(Path(folder))
        try:
            url = server.url.rpartition("/")[0] + "/bench"
            uvloop.run(migrate_clickhouse(url))
            parts = urlsplit(url)
            client = clickhouse_connect.get_client(
                host=parts.hostname, port=parts.port, username=parts.username, password=parts.password or "",
                database="bench", send_receive_timeout=1200, autogenerate_session_id=False,
            )  # fmt: skip
            result |= fill(client, options.events, options.rows)
            result |= uvloop.run(measure(url, client, options, server.pid))
        finally:
            server.stop(10)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
