"""Reports over a year with a thousand million events: how long they take.

    python -m benchmarks.reports_scale [--events 1000000]

Takes minutes, however few events, and says how far it is. ClickHouse makes the counts that reports read
itself, as they are made, from events of 200 organisations, the largest with a sixth of all; two queues, five
countries, three providers; accepted, sent and delivered. The counts are merged, as those of past months are.
Each report is read five times, as the API reads it: the least time counts, that of ClickHouse's answers
apart, and the mean of the CPU of ClickHouse and of the process that asks. Those by hour are of 31 days, with
two other groups of seven, which are the longest that the API makes.

`year`: the series of UTC and of another zone, from `--events` events over the whole year. The days at the
ends of the reports are as full, by the quarter of an hour, as those of a thousand million events are. Of the
largest organisation and of all together one such day of UTC stands for each day of the year, and its days and
months are what these come to, so what is read is as much as it would be. By the days of the other zone they
are as many, and have as many classes of times; they only count less. Beside them
`activity` has a part of the year's events (`--rows`), and those of two minutes that are not counted yet.
Some zones are not counted: their days are read from hours, or from quarters of an hour.

`filling`: what it takes to fill the series of UTC from the counts that the views make, that of another zone
from UTC, and narrow counts of UTC for a series that has none; and the longest of the steps. It is measured
while one day is full. For a year that grows as the number of counts by the quarter of an hour does. `window`:
what it costs to count a minute, with and without the narrow counts. The server's folder is removed at the
end."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import clickhouse_connect
import msgspec
import uvloop

from benchmarks.arguments import count_from_1, parser_of
from benchmarks.reports_scale_counts import (
    BEGINS,
    COUNTED_ZONES,
    DAY_S,
    FROM_S,
    NOON,
    YEAR_EVENTS,
    YEAR_S,
    cpu_s,
    fill,
    fill_thin,
    organisations,
)
from benchmarks.reports_scale_filling import filling, windows
from engine.activity.reports import Group, ReportQuery
from engine.errors import Refusal
from engine.hosts.cores import usable_cores
from engine.stores.clickhouse.reports import ClickHouseReports
from engine.stores.migrate import migrate_clickhouse
from supervisor.embedded.servers import start_clickhouse

RUNS = 5
# Reports by hour are as long as they may be.
_HOURS_S, _HOURS_OF_GROUPS_S = 31 * DAY_S, 7 * DAY_S
_OTHER_ZONES = ("Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe")


class Case(NamedTuple):
    """Reports of a kind: their groups and filters, in which zones, and when they begin."""

    group_by: tuple[Group, ...]
    filters: dict[str, str]
    zones: tuple[str, ...] = ("UTC",)
    begins: tuple[str, ...] = ("",)


_ENDS = tuple(BEGINS)
_CASES = (
    Case(("status",), {}, COUNTED_ZONES, _ENDS),
    Case(("day",), {}, COUNTED_ZONES, _ENDS),
    Case(("country", "provider"), {}, COUNTED_ZONES, _ENDS),
    Case(("organisation",), {}, COUNTED_ZONES, _ENDS),
    Case(("hour",), {}, ("UTC", *_OTHER_ZONES), ("", NOON)),
    Case(("hour",), {"country": "IR"}, ("UTC", "Asia/Kolkata")),
    Case(("hour",), {"provider": "one"}),
    Case(("hour",), {"country": "IR", "provider": "one"}),
    Case(("hour", "country"), {}, ("UTC", "Asia/Kolkata"), ("", NOON)),
    Case(("hour", "provider"), {"country": "IR"}),
    Case(("hour", "country", "provider"), {}, ("UTC", "Asia/Kolkata"), ("", NOON)),
    Case(("hour", "country", "provider", "queue"), {}),
    Case(("day",), {}, _OTHER_ZONES, ("", NOON)),
    Case(("day",), {"country": "IR"}, ("UTC", "Europe/Berlin", "Asia/Kolkata")),
    Case(("day",), {"provider": "one"}, ("UTC", "Europe/Berlin")),
    Case(("day",), {"country": "IR", "provider": "one"}),
    Case(("day", "country"), {}, ("UTC", "Europe/Berlin", "Asia/Kolkata"), ("", NOON)),
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


class Reader(ClickHouseReports):
    """Reads reports, and notes how long ClickHouse's answers took, seconds; two at a time count once."""

    answers_s = 0.0
    _under_way = 0
    _began = 0.0

    async def _query(self, sql: str, parameters: dict[str, Any]) -> Any:
        return await self._timed(super()._query(sql, parameters))

    async def _answer(self, sql: str, parameters: dict[str, Any]) -> bytes:
        answer: bytes = await self._timed(super()._answer(sql, parameters))
        return answer

    async def _timed(self, asked: Awaitable[Any]) -> Any:
        if not self._under_way:
            self._began = time.monotonic()
        self._under_way += 1
        try:
            return await asked
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.answers_s += time.monotonic() - self._began


async def least_ms(reports: Reader, query: ReportQuery, server: int) -> dict[str, float | str]:
    """The least time of some runs, and of ClickHouse's answers in it; the mean CPU of ClickHouse and of this
    process, which encodes the report as the API does; milliseconds. And how many rows it has, or why it is
    refused."""
    found, rows, refused, encoder = [], 0, "", msgspec.json.Encoder()
    cpu, of_server = time.process_time(), cpu_s(server)
    for _ in range(RUNS):
        reports.answers_s, began = 0.0, time.monotonic()
        try:
            report = await reports.summary(query)
        except Refusal as e:
            refused = str(e)
        else:
            encoder.encode(report)
            rows = len(report.rows)
        found.append((time.monotonic() - began, reports.answers_s))
    seconds = {
        "ms": min(found)[0],
        "answers_ms": min(found)[1],
        "cpu_ms": (cpu_s(server) - of_server) / RUNS,
        "cpu_ms_of_this_process": (time.process_time() - cpu) / RUNS,
    }
    figures = {name: round(1000 * value, 1) for name, value in seconds.items()}
    return {"rows": rows, **figures, **({"refused": refused} if refused else {})}


async def year(reports: Reader, client: Any, server: int, only: str) -> dict[str, Any]:
    """What each report of the year takes; `only` those with that in their names."""
    result: dict[str, Any] = {}
    for size, (organisation, share) in organisations().items():
        of = f"organisation_id = {organisation or 0:d}"
        [(counts,)] = client.query(
            f"SELECT count() FROM report_series WHERE zone = 'UTC' AND period = 1 AND {of}"
        ).result_rows
        result[size] = {"events": round(YEAR_EVENTS * share), "counts": counts}
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
    """A report of a case: of a year, or as long as one by hour may be."""
    longest_s = YEAR_S
    if "hour" in case.group_by:
        longest_s = _HOURS_S if len(case.group_by) < 3 else _HOURS_OF_GROUPS_S
    begin = datetime.fromtimestamp(FROM_S + int(BEGINS[period] * DAY_S), UTC)
    from_s = int(begin.replace(tzinfo=ZoneInfo(zone)).timestamp())
    return ReportQuery(
        from_s=from_s, until_s=from_s + longest_s, group_by=case.group_by, organisation_id=organisation,
        time_zone=zone, **case.filters,
    )  # fmt: skip


async def measure(url: str, client: Any, options: argparse.Namespace, server: int) -> dict[str, Any]:
    """All figures, by name."""
    reports = Reader(url, timeout_s=120.0)
    result = {"year": await year(reports, client, server, options.only)}
    if not options.only:
        result["window"] = await windows(url, client, server)
    await reports.close()
    return result


def main() -> None:
    """Start the server, make the counts, print the figures as JSON."""
    parser = parser_of("reports_scale", __doc__)
    parser.add_argument("--events", type=count_from_1, default=1_000_000)
    parser.add_argument("--rows", type=count_from_1, default=300_000)
    parser.add_argument("--only", default="", help="reports with this in their names, and nothing else")
    options = parser.parse_args()
    began = time.monotonic()
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
            begun_ms = fill_thin(client, options.events)
            if not options.only:
                result["filling"] = uvloop.run(filling(url, client, options.events))
            result |= fill(client, begun_ms, options.rows)
            result |= uvloop.run(measure(url, client, options, server.pid))
        finally:
            server.stop(10)
    print(json.dumps({**result, "took_s": round(time.monotonic() - began)}, indent=2))


if __name__ == "__main__":
    main()
