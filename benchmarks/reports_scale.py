"""Reports over a year with a thousand million events: how long they take.

    python -m benchmarks.reports_scale [--events 5000000]

Takes some minutes. ClickHouse makes the counts that reports read itself, as they are made, from events of
200 organisations, the largest with a sixth of all; two queues, five countries, three providers; accepted,
sent and delivered. The counts are merged, as those of past months are. Each report is read five times, as the
API reads it: the least time counts, and the mean of the CPU of ClickHouse.

`year`: the series of UTC and of another zone, from `--events` events over the whole year. Of the largest
organisation they are as many by day, and have as many classes of times, as those of a thousand million
events; they only count less. Of the middle one there are fewer than there would be: `full` is how many times
as many there may be at most, and the time grows by less. By the quarter of an hour, the days at the ends of
the reports are as full as those of a thousand million events are. Beside them `activity` has a part of the
year's events (`--rows`), and those of two minutes that are not counted yet.

`weeks`: counts by the quarter of an hour, which days of time zones are read from that are not counted. They
are the first weeks of a year with a thousand million events, as far as `--events` reach, and are as full. The
time of the whole year is extrapolated: the part beyond that of no counts grows as the time does.

`filling`: what it takes to fill the series of UTC from those counts, and that of another zone from UTC, and
the longest of the steps. For a year that grows as the number of counts by the quarter of an hour does. The
server's folder is removed at the end."""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import msgspec
import uvloop

from engine.activity.reports import Group, ReportQuery
from engine.hosts.cores import usable_cores
from engine.stores.clickhouse.report_period_sql import (
    DAY,
    MONTHS_SQL,
    NOTE_SQL,
    QUARTER,
    TABLE,
    counted_sql,
    insert_sql,
)  # fmt: skip
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
_REPORTS: dict[str, tuple[Group, ...]] = {
    "by status": ("status",),
    "by day": ("day",),
    "by country and provider": ("country", "provider"),
    "by organisation": ("organisation",),
}
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
# Reports of a year begin so many days after its begin; the days at their ends are as full as they would be.
_BEGINS = {"": 0.0, ", from noon": 0.5, ", from noon of the 15th": 14.5}
_SPAN_DAYS = 400
# How far the counts by day are behind at most, seconds.
_LATER_S = 120


def organisations() -> dict[str, tuple[int | None, float]]:
    """By name, organisations (None: all) and their share of all messages."""
    roots = [math.cbrt(place / _ORGANISATIONS) for place in range(_ORGANISATIONS + 1)]
    shares = [after - before for before, after in pairwise(roots)]
    middle = _ORGANISATIONS // 2
    return {
        "largest": (_FIRST_ORGANISATION, shares[0]),
        "middle": (_FIRST_ORGANISATION + middle, shares[middle]),
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


async def least_ms(reports: ClickHouseReports, query: ReportQuery, server: int) -> dict[str, float]:
    """The least time of some runs, and the mean CPU of ClickHouse and of this process, milliseconds."""
    found = []
    cpu, of_server = time.process_time(), cpu_s(server)
    for _ in range(_RUNS):
        began = time.monotonic()
        await reports.summary(query)
        found.append(time.monotonic() - began)
    seconds = {
        "ms": min(found),
        "cpu_ms": (cpu_s(server) - of_server) / _RUNS,
        "cpu_ms_of_this_process": (time.process_time() - cpu) / _RUNS,
    }
    return {name: round(1000 * value, 1) for name, value in seconds.items()}


def cpu_s(process: int) -> float:
    """The CPU that a process has used, seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def year(reports: ClickHouseReports, client: Any, server: int) -> dict[str, Any]:
    """What each report of the year takes, from counts by day."""
    result: dict[str, Any] = {}
    for size, (organisation, share) in organisations().items():
        of = f"organisation_id = {organisation or 0:d}"
        [(counts,)] = client.query(
            f"SELECT count() FROM report_series WHERE zone = 'UTC' AND period = 1 AND {of}"
        ).result_rows
        about = {"events": round(_YEAR_EVENTS * share), "counts": counts}
        about["full"] = round(_YEAR_DAYS * _GROUPS / counts, 2)
        result[size] = about
        for zone in _SERIES:
            result[size][zone] = {}
            for name, group_by in _REPORTS.items():
                if organisation is not None and "organisation" in group_by:
                    continue
                for period, days in _BEGINS.items():
                    from_s = _FROM_S + int(days * _DAY_S) - (12_600 if zone == "Asia/Tehran" else 0)
                    query = ReportQuery(
                        from_s=from_s, until_s=from_s + _YEAR_S, group_by=group_by,
                        organisation_id=organisation, time_zone=zone,
                    )  # fmt: skip
                    result[size][zone][name + period] = await least_ms(reports, query, server)
    return result


async def weeks(reports: ClickHouseReports, events: int, server: int) -> dict[str, Any]:
    """What each report of the first weeks takes, from counts by the quarter of an hour, and of the year."""
    whole, until_s = _YEAR_EVENTS / events, _FROM_S + math.ceil(_YEAR_S * events / _YEAR_EVENTS)
    result: dict[str, Any] = {}
    for size, (organisation, _) in organisations().items():
        result[size] = {}
        for name, group_by in _REPORTS.items():
            query = ReportQuery(
                from_s=_FROM_S, until_s=until_s, group_by=group_by, organisation_id=organisation,
                time_zone="Asia/Kolkata",
            )  # fmt: skip
            empty = msgspec.structs.replace(query, from_s=_FROM_S - _DAY_S, until_s=_FROM_S)
            nothing, found = [(await least_ms(reports, q, server))["ms"] for q in (empty, query)]
            of_year_ms = nothing + max(0.0, found - nothing) * whole
            result[size][name] = {"ms": found, "ms_of_year": round(of_year_ms)}
    return result


async def filling(url: str, client: Any, events: int) -> dict[str, Any]:
    """What it takes to fill a series of UTC, and one of another zone."""
    periods, result = ClickHouseReportPeriods(url), {}
    [utc] = [each for each in await periods.series() if each.zone == "UTC"]
    [(quarters,)] = client.query("SELECT count() FROM report_quarters").result_rows
    of_year = quarters * _YEAR_EVENTS // events
    later = msgspec.structs.replace(utc, from_ms=utc.from_ms + 1)
    counted = f"SELECT count() FROM {TABLE} WHERE zone = 'UTC' AND period = {QUARTER} AND organisation_id > 0"
    for name, steps in (("Asia/Kolkata", periods.derive("Asia/Kolkata", utc)), ("UTC", periods.fill(later))):
        # Of UTC before the other series of it is there.
        rows = quarters if name == "UTC" else client.query(counted).result_rows[0][0]
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


async def measure(url: str, client: Any, events: int, server: int) -> dict[str, Any]:
    """All figures, by name."""
    reports = ClickHouseReports(url, timeout_s=120.0)
    result = {
        "year": await year(reports, client, server),
        "weeks": await weeks(reports, events, server),
        "filling": await filling(url, client, events),
    }
    await reports.close()
    return result


def main() -> None:
    """Start the server, make the counts, print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reports_scale", description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rows", type=int, default=5_000_000)
    options = parser.parse_args()
    result: dict[str, Any] = {"cpus": usable_cores(), "events": options.events}
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
            result |= uvloop.run(measure(url, client, options.events, server.pid))
        finally:
            server.stop(10)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
