"""Reports over a year with a thousand million events: how long they take, from a part of that year.

    python -m benchmarks.reports_scale [--events 60000000]

Takes four minutes. Reports read counts of events by the quarter of an hour. ClickHouse makes these counts
itself, as its view makes them, from `--events` events (accepted, sent, delivered) that come as fast as a
thousand million a year: 200 organisations, the largest with a sixth of all; two queues, five countries, three
providers. So they are the first weeks of such a year, and each count is as full as it would be. They are
merged, as those of past months are.

Then each report of those weeks is read five times, as the API reads it; the least time counts. A report takes
as long as there are counts to read, so that of the whole year is extrapolated: the part beyond that of no
counts grows as the time does. The server's folder is removed at the end."""

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
_YEAR_S = 365 * 86_400
_FROM_S = 1_735_689_600  # 2025-01-01, UTC
_ORGANISATIONS, _FIRST_ORGANISATION = 200, 1000
_BLOCK_EVENTS = 3_000_000
_RUNS = 5
_REPORTS: dict[str, tuple[Group, ...]] = {
    "by status": ("status",),
    "by day": ("day",),
    "by country and provider": ("country", "provider"),
}
# The least time of the report of an empty second is that of no counts.
_NOTHING_S = 900
# An organisation has a share by the third root of its place, so that the first has a sixth.
_FILL = """
INSERT INTO report_quarters
WITH intDiv(number, 3) AS message, number % 3 AS place, cityHash64(message) AS hash,
    (hash % 1000003) / 1000003 AS a, toUInt32(20000 + hash % 70000) AS answer
SELECT
    0, {organisation:Int64} + toInt64({organisations:Int64} * pow(a, 3)),
    toStartOfFifteenMinutes(toDateTime({from:UInt32} + toUInt32(message * {step:Float64}), 'UTC')) AS quarter,
    if(intDiv(hash, 1000003) % 10 < 9, 'normal', 'express') AS queue,
    toUInt16(multiIf(hash % 100 < 50, 98, hash % 100 < 70, 49, hash % 100 < 85, 44, hash % 100 < 95, 33, 90))
        AS country,
    if(place = 0, '', multiIf(hash % 97 < 58, 'one', hash % 97 < 87, 'two', 'three')) AS provider,
    ['accepted', 'sent', 'delivered'][place + 1] AS event,
    count(), sum(1), sum(2),
    quantilesTDigestIfState(0.5, 0.95, 0.99)(answer, toUInt8(place = 1)),
    quantilesTDigestIfState(0.5, 0.95, 0.99)(
        toUInt32(if(place = 1, answer + 1000, 1000000 + hash % 8000000)), toUInt8(place > 0))
FROM numbers({begin:UInt64}, {count:UInt64})
GROUP BY 2, quarter, queue, country, provider, event
"""


def largest_and_middle() -> dict[str, tuple[int, float]]:
    """By name, an organisation and its share of all messages."""
    roots = [math.cbrt(place / _ORGANISATIONS) for place in range(_ORGANISATIONS + 1)]
    shares = [after - before for before, after in pairwise(roots)]
    places = {"largest": 0, "middle": _ORGANISATIONS // 2}
    return {name: (_FIRST_ORGANISATION + place, shares[place]) for name, place in places.items()}


def fill(client: Any, events: int) -> dict[str, Any]:
    """Make the counts of the events, and merge them: the sizes."""
    began = time.monotonic()
    for begin in range(0, events, _BLOCK_EVENTS):
        parameters = {
            "from": _FROM_S, "step": 3 * _YEAR_S / _YEAR_EVENTS, "organisation": _FIRST_ORGANISATION,
            "organisations": _ORGANISATIONS, "begin": begin, "count": min(_BLOCK_EVENTS, events - begin),
        }  # fmt: skip
        client.command(_FILL, parameters=parameters)
    filled_s = time.monotonic() - began
    client.command("OPTIMIZE TABLE report_quarters FINAL")
    [(rows, size)] = client.query(
        "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts"
        " WHERE active AND database = currentDatabase() AND table = 'report_quarters'"
    ).result_rows
    return {"filled_s": round(filled_s), "counts": rows, "bytes_a_count": round(size / rows, 1)}


async def least_ms(reports: ClickHouseReports, query: ReportQuery) -> tuple[float, float]:
    """The least time of some runs, and the CPU of this process in it, milliseconds."""
    found = []
    for _ in range(_RUNS):
        began, cpu = time.monotonic(), time.process_time()
        await reports.summary(query)
        found.append(((time.monotonic() - began) * 1000, (time.process_time() - cpu) * 1000))
    return min(found)


async def measure(url: str, client: Any, events: int) -> dict[str, Any]:
    """The least milliseconds of each report, and those of the year."""
    reports = ClickHouseReports(url, timeout_s=120.0)
    whole, until_s = _YEAR_EVENTS / events, _FROM_S + math.ceil(_YEAR_S * events / _YEAR_EVENTS)
    result: dict[str, Any] = {}
    for size, (organisation, share) in largest_and_middle().items():
        [(counts,)] = client.query(
            f"SELECT count() FROM report_quarters WHERE organisation_id = {organisation:d}"
        ).result_rows
        events_of_year = round(_YEAR_EVENTS * share)
        result[size] = {"events_of_year": events_of_year, "counts_of_year": round(counts * whole)}
        for name, group_by in _REPORTS.items():
            query = ReportQuery(
                from_s=_FROM_S, until_s=until_s, group_by=group_by, organisation_id=organisation
            )
            empty = ReportQuery(
                from_s=_FROM_S - _NOTHING_S, until_s=_FROM_S, group_by=group_by, organisation_id=organisation
            )
            (nothing_ms, _), (ms, cpu_ms) = await least_ms(reports, empty), await least_ms(reports, query)
            result[size][name] = {
                "ms": round(ms, 1),
                "ms_of_this_process": round(cpu_ms, 1),
                "ms_of_no_counts": round(nothing_ms, 1),
                "ms_of_the_year": round(nothing_ms + (ms - nothing_ms) * whole),
            }
    await reports.close()
    return result


def main() -> None:
    """Start the server, make the counts, print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reports_scale", description=__doc__)
    parser.add_argument("--events", type=int, default=60_000_000)
    options = parser.parse_args()
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
            result = {"cpus": os.cpu_count(), "events": options.events, **fill(client, options.events)}
            result["reports"] = uvloop.run(measure(url, client, options.events))
        finally:
            server.stop(10)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
