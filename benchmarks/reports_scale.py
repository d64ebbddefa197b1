"""Reports over a year with a thousand million events: how long they take.

    python -m benchmarks.reports_scale [--events 50000000]

Takes four minutes. ClickHouse makes the counts that reports read itself, as its views make them, from events
of 200 organisations, the largest with a sixth of all; two queues, five countries, three providers; accepted,
sent and delivered. The counts are merged, as those of past months are. Each report is read five times, as the
API reads it; the least time counts.

`year`: counts by day, from `--events` events over the whole year. Of the largest organisation they are as
many, and have as many classes of times, as those of a thousand million events; they only count less. Of the
middle one there are fewer than there would be: `full` is how many times as many there may be at most, and the
time grows by less.

`weeks`: counts by the quarter of an hour, which reports in other time zones than UTC are read from, and those
that do not begin and end at midnight. They are the first weeks of a year with a thousand million events, as
far as `--events` reach, and are as full. The time of the whole year is extrapolated: the part beyond that of
no counts grows as the time does. The server's folder is removed at the end."""

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
import uvloop

from engine.activity.reports import Group, ReportQuery
from engine.stores.clickhouse.reports import ClickHouseReports
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
}
# What both tables have. An organisation has a share by the third root of its place: the first has a sixth.
_EVENTS = """
WITH intDiv(number, 3) AS message, number % 3 AS place, cityHash64(message) AS hash,
    (hash % 1000003) / 1000003 AS a, toUInt32(20000 + hash % 70000) AS answer,
    toUInt32(if(place = 1, answer + 1000, 1000000 + hash % 8000000)) AS age,
    toDateTime({from:UInt32} + toUInt32(message * {step:Float64}), 'UTC') AS accepted
SELECT
    0, {organisation:Int64} + toInt64({organisations:Int64} * pow(a, 3)), TIME AS time,
    if(intDiv(hash, 1000003) % 10 < 9, 'normal', 'express') AS queue,
    toUInt16(multiIf(hash % 100 < 50, 98, hash % 100 < 70, 49, hash % 100 < 85, 44, hash % 100 < 95, 33, 90))
        AS country,
    if(place = 0, '', multiIf(hash % 97 < 58, 'one', hash % 97 < 87, 'two', 'three')) AS provider,
    ['accepted', 'sent', 'delivered'][place + 1] AS event, count(), sum(1), sum(2), ANSWER, AGE
FROM numbers({begin:UInt64}, {count:UInt64})
GROUP BY 2, time, queue, country, provider, event
"""
# Of each table: how the time is written, and how times of answers and ages are.
_TABLES = {
    "report_days": (
        "toDate(accepted, 'UTC')",
        "sumMapIf(map(toUInt16(floor(8 * log2(answer))), toUInt64(1)), place = 1)",
        "sumMapIf(map(toUInt16(floor(8 * log2(age))), toUInt64(1)), place > 0)",
    ),
    "report_quarters": (
        "toStartOfFifteenMinutes(accepted)",
        "quantilesTDigestIfState(0.5, 0.95, 0.99)(answer, toUInt8(place = 1))",
        "quantilesTDigestIfState(0.5, 0.95, 0.99)(age, toUInt8(place > 0))",
    ),
}


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


def fill(client: Any, table: str, events: int, seconds: float) -> dict[str, Any]:
    """Make the counts of events that come within so many seconds, and merge them: the sizes."""
    began = time.monotonic()
    when, answer, age = _TABLES[table]
    select = _EVENTS.replace("TIME", when).replace("ANSWER", answer).replace("AGE", age)
    for begin in range(0, events, _BLOCK_EVENTS):
        parameters = {
            "from": _FROM_S, "step": 3 * seconds / events, "organisation": _FIRST_ORGANISATION,
            "organisations": _ORGANISATIONS, "begin": begin, "count": min(_BLOCK_EVENTS, events - begin),
        }  # fmt: skip
        client.command(f"INSERT INTO {table} {select}", parameters=parameters)
    client.command(f"OPTIMIZE TABLE {table} FINAL")
    [(rows, size)] = client.query(
        "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts"
        f" WHERE active AND database = currentDatabase() AND table = '{table}'"
    ).result_rows
    took_s = round(time.monotonic() - began)
    return {"filled_s": took_s, "counts": rows, "bytes_a_count": round(size / rows, 1)}


async def least_ms(reports: ClickHouseReports, query: ReportQuery) -> tuple[float, float]:
    """The least time of some runs, and the CPU of this process in it, milliseconds."""
    found = []
    for _ in range(_RUNS):
        began, cpu = time.monotonic(), time.process_time()
        await reports.summary(query)
        found.append(((time.monotonic() - began) * 1000, (time.process_time() - cpu) * 1000))
    return min(found)


async def year(reports: ClickHouseReports, client: Any) -> dict[str, Any]:
    """The least milliseconds of each report of the year, from counts by day."""
    result: dict[str, Any] = {}
    for size, (organisation, share) in organisations().items():
        of = "" if organisation is None else f"WHERE organisation_id = {organisation:d}"
        [(counts,)] = client.query(f"SELECT count() FROM report_days {of}").result_rows
        most = _YEAR_DAYS * _GROUPS * (_ORGANISATIONS if organisation is None else 1)
        about = {"events": round(_YEAR_EVENTS * share), "counts": counts, "full": round(most / counts, 2)}
        result[size] = about
        for name, group_by in _REPORTS.items():
            query = ReportQuery(
                from_s=_FROM_S, until_s=_FROM_S + _YEAR_S, group_by=group_by, organisation_id=organisation
            )
            ms, cpu_ms = await least_ms(reports, query)
            result[size][name] = {"ms": round(ms, 1), "ms_of_this_process": round(cpu_ms, 1)}
    return result


async def weeks(reports: ClickHouseReports, events: int) -> dict[str, Any]:
    """The least milliseconds of each report of the first weeks, from counts by the quarter of an hour, and
    those of the year."""
    whole, until_s = _YEAR_EVENTS / events, _FROM_S + math.ceil(_YEAR_S * events / _YEAR_EVENTS)
    result: dict[str, Any] = {}
    for size, (organisation, _) in organisations().items():
        result[size] = {}
        for name, group_by in _REPORTS.items():
            # Not a whole day, so that it is read from the quarters.
            query = ReportQuery(
                from_s=_FROM_S, until_s=until_s | 1, group_by=group_by, organisation_id=organisation
            )
            empty = ReportQuery(
                from_s=_FROM_S - _DAY_S, until_s=_FROM_S, group_by=group_by, organisation_id=organisation
            )
            (nothing_ms, _), (ms, _) = await least_ms(reports, empty), await least_ms(reports, query)
            of_year_ms = nothing_ms + max(0.0, ms - nothing_ms) * whole
            result[size][name] = {"ms": round(ms, 1), "ms_of_year": round(of_year_ms)}
    return result


async def measure(url: str, client: Any, events: int) -> dict[str, Any]:
    """All figures, by name."""
    reports = ClickHouseReports(url, timeout_s=120.0)
    result = {"year": await year(reports, client), "weeks": await weeks(reports, events)}
    await reports.close()
    return result


def main() -> None:
    """Start the server, make the counts, print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reports_scale", description=__doc__)
    parser.add_argument("--events", type=int, default=50_000_000)
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
            result["report_days"] = fill(client, "report_days", options.events, _YEAR_S)
            part_s = _YEAR_S * options.events / _YEAR_EVENTS
            result["report_quarters"] = fill(client, "report_quarters", options.events, part_s)
            result |= uvloop.run(measure(url, client, options.events))
        finally:
            server.stop(10)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
