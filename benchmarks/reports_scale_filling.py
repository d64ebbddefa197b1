"""What it costs to count for reports: a minute, and all that is there (`reports_scale`)."""

from __future__ import annotations

import sys
import time
from typing import Any

import msgspec

from benchmarks.reports_scale_counts import (
    ACTIVITY,
    COUNTED_ZONES,
    FROM_S,
    YEAR_EVENTS,
    YEAR_S,
    cpu_s,
    run,
)
from engine.stores.clickhouse.report_narrow_sql import QUARTER
from engine.stores.clickhouse.report_period_sql import TABLE
from engine.stores.clickhouse.report_periods import ClickHouseReportPeriods

RUNS = 5
# Events of the minute that is counted.
_WINDOW_EVENTS = 30_000


async def windows(url: str, client: Any, server: int) -> dict[str, Any]:
    """What it costs to count a minute of events without the narrow counts and with them, milliseconds of
    ClickHouse's CPU, and how many counts it inserts."""
    periods, result = ClickHouseReportPeriods(url), {}
    found = await periods.series()
    begin_ms = max(each.until_ms for each in found) + 3_600_000
    begin_s = FROM_S + YEAR_S
    run(client, ACTIVITY, _WINDOW_EVENTS, 60, from_s=begin_s, later=begin_ms - begin_s * 1000)
    for zone in COUNTED_ZONES:
        [series] = [each for each in found if each.zone == zone]
        for narrow in (False, True):
            costs, counts = [], 0
            for place in range(RUNS):
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
    """What it takes to fill a series of UTC, one of another zone, and one of UTC from one of UTC; these are
    removed."""
    periods, result = ClickHouseReportPeriods(url), {}
    before = {(each.zone, each.from_ms) for each in await periods.series()}
    [utc] = [each for each in await periods.series() if each.zone == "UTC"]
    [(quarters,)] = client.query("SELECT count() FROM report_quarters").result_rows
    of_year = quarters * YEAR_EVENTS // events
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
        print("filling", name, result[name], file=sys.stderr, flush=True)
    for made in await periods.series():
        if (made.zone, made.from_ms) not in before:
            await periods.drop(made)
    await periods.close()
    return result
