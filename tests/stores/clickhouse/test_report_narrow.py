"""Narrow counts: reports by hour and by the days of any zone agree to the unit with the rows from them too,
and where a series of an earlier version has none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from engine.activity.report_rolling import MARGIN_MS, ReportRounds, Series
from engine.activity.reports import Group, ReportQuery
from engine.stores.clickhouse.report_cover import parts_of_days
from engine.stores.clickhouse.report_narrow_sql import ALONE, BY, QUARTER
from engine.stores.clickhouse.report_period_sql import NOTE_SQL
from engine.stores.clickhouse.report_periods import ClickHouseReportPeriods
from engine.stores.clickhouse.reports import ClickHouseReports
from tests.activity.world import World
from tests.stores.clickhouse.report_scene import (
    DAY_S,
    NOW_S,
    Activity,
    Archiver,
    ask,
    assert_all_agree,
    counts,
    few,
    midnight,
)

# Reports that are read from the hours of UTC, or of a zone that is not counted: those of a half and a quarter
# of an hour, and one whose summer time is half an hour.
ZONES = ("UTC", "Europe/Berlin", "Asia/Tehran", "Asia/Kathmandu", "Australia/Lord_Howe")
GROUPS: tuple[tuple[Group, ...], ...] = (("hour",), ("day",))
# When clocks go back and forth by half an hour on Lord Howe, the half hour after which another hour begins
# there: none that is counted has it.
HALF_HOURS = ("2026-04-04T15:00Z", "2026-10-03T15:30Z")


class Earlier(ClickHouseReportPeriods):
    """Counts as the version before did: without narrow counts, and without saying so."""

    async def _run(self, sql: str, *rest: Any) -> None:
        said = NOTE_SQL.replace("{filled:UInt8}, 0, 0, 1,", "{filled:UInt8}, 0, 0, 0,")
        assert said != NOTE_SQL
        await super()._run(sql.replace(NOTE_SQL, said), *rest)

    async def _narrow(self, *_: Any) -> None:
        pass

    async def series(self) -> list[Series]:
        # It takes each for complete.
        return [msgspec.structs.replace(each, narrow=True) for each in await super().series()]

    async def roll(self, series: Series, until_ms: int) -> None:
        await super().roll(msgspec.structs.replace(series, narrow=False), until_ms)


async def test_a_report_over_hours_reads_quarters_of_an_hour_only_where_no_hour_is_counted(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity = Activity(world, 21)
    activity.accept(2000, 400)
    half_hours = [int(datetime.fromisoformat(at).timestamp()) for at in HALF_HOURS]
    for at_s in half_hours * 3:
        activity.accept_at(at_s, at_s + 1799)
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - 400 * DAY_S * 1000, begun_ms, 0.7)
    await archiver.rounds.make()
    # What is not read may be wrong.
    await world.query(
        "ALTER TABLE report_series UPDATE events = events + 1 "
        f"WHERE period = 1 OR period = 3 AND intDiv(begins, 2) NOT IN {[s // 1800 for s in half_hours]} "
        "SETTINGS mutations_sync = 1"
    )
    wrong = []
    day = datetime.fromtimestamp(NOW_S - 390 * DAY_S, UTC).date()
    for zone in ZONES:
        from_s, until_s = midnight(day, zone), midnight(day.replace(year=day.year + 1), zone)
        for group_by in GROUPS:
            query = ReportQuery(from_s=from_s, until_s=until_s, group_by=group_by, time_zone=zone)
            found = (await reader.summary(query)).rows
            if counts(found) != counts(activity.report(query)):
                wrong.append((zone, group_by))
    assert not wrong
    query = ReportQuery(from_s=from_s, until_s=until_s, group_by=("provider", "day"), time_zone="UTC")
    assert counts((await reader.summary(query)).rows) == counts(activity.report(query))


async def test_a_series_of_the_version_before_gets_narrow_counts_and_reports_are_right_meanwhile(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity = await few(world, archiver, 22, 200)
    earlier = Earlier(world.clickhouse_url)
    before = ReportRounds(earlier, world.stream, lambda: True, lambda: archiver.now_ms * 1000, visible_s=0)
    await ask(world, "Asia/Tehran")

    async def go_on() -> None:
        activity.accept(30, 3)
        await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.5)
        archiver.now_ms += MARGIN_MS + 60_000

    async def agree(most: int) -> None:
        # A zone that is counted later than the others, and one that is never counted.
        await assert_all_agree(reader, activity, most, ("UTC", "Asia/Tehran", "Asia/Kathmandu"))

    await before.make()
    await go_on()
    await before.make()
    assert not any(series.narrow for series in await archiver.periods.series())
    await agree(5)
    # It is upgraded, rolled back for a moment, and upgraded again.
    for _ in range(2):
        await go_on()
        filling = archiver.periods.derive("UTC", await of_utc(archiver))
        async for _ in filling:
            # Both are there, the second not filled.
            await agree(2)
            break
        await filling.aclose()
        await archiver.rounds.make()
        assert archiver.progress.filling == {}
        await agree(5)
        await go_on()
        await archiver.rounds.make()
        found = await archiver.periods.series()
        assert {"Asia/Tehran", "UTC"} <= {s.zone for s in found}
        assert all(s.narrow for s in found)
        await agree(5)
        await go_on()
        for series in found:
            await earlier.roll(series, archiver.now_ms - MARGIN_MS)
        assert not any(series.narrow for series in await archiver.periods.series())
        await agree(5)
    await earlier.close()


async def of_utc(archiver: Archiver) -> Series:
    [series] = [each for each in await archiver.periods.series() if each.zone == "UTC"]
    return series


@pytest.mark.parametrize(
    ("zone", "added", "expected"),
    [
        # A day before and after an hour, of UTC, of a zone that is half an hour off, and a quarter.
        ("UTC", ALONE, ["14: 20454.0-20455.0"]),
        ("Asia/Tehran", ALONE, ["16: 20454.02-20454.98", "3: 20454.0-20454.02", "3: 20454.98-20455.0"]),
        ("Asia/Kathmandu", ALONE, ["15: 20454.01-20454.97", "3: 20454.0-20454.01", "3: 20454.97-20455.0"]),
        # With a group there are those of UTC alone.
        ("Asia/Tehran", BY["country"], ["3: 20454.0-20455.0"]),
        ("Europe/Berlin", BY["country"], ["34: 20454.0-20455.0"]),
    ],
)
def test_hours_are_read_that_begin_when_those_of_the_zone_do(
    zone: str, added: int, expected: list[str]
) -> None:
    from_s = 20_454 * DAY_S
    query = ReportQuery(from_s=from_s, until_s=from_s + DAY_S, group_by=("hour",), time_zone=zone)
    assert [said(period) for period in parts_of_days(query, from_s, from_s + DAY_S, added)] == expected


@pytest.mark.parametrize("zone", ZONES)
def test_quarters_of_an_hour_are_read_where_no_whole_hour_of_the_zone_is(zone: str) -> None:
    """Wherever in a day a report begins and ends."""
    begin = int(datetime(2025, 11, 5, tzinfo=UTC).timestamp()) // 900
    local = ZoneInfo(zone)
    offsets_s = {
        quarter: datetime.fromtimestamp(quarter * 900, local).utcoffset()
        for quarter in range(begin, begin + 368 * 96)
    }

    def expected(first: int, last: int) -> list[int]:
        found = []
        while first < last:
            ahead = offsets_s[first]
            assert ahead is not None
            begins = (first * 900 + ahead.total_seconds()) % 3600 == 0
            if begins and first + 4 <= last and all(offsets_s[first + n] == ahead for n in range(4)):
                first += 4
            else:
                found.append(first)
                first += 1
        return found

    for n in range(96):
        first, last = begin + n, begin + 366 * 96 - 7 * n
        wanted = expected(first, last)
        assert len(wanted) <= 3 + 3 + (4 if zone == "Australia/Lord_Howe" else 0)
        for group_by in GROUPS:
            query = ReportQuery(from_s=first * 900, until_s=last * 900, group_by=group_by, time_zone=zone)
            parts = [numbers(part) for part in parts_of_days(query, query.from_s, query.until_s, ALONE)]
            found = [q for period, begins, ends in parts if period == QUARTER for q in range(begins, ends)]
            assert sorted(found) == wanted, datetime.fromtimestamp(first * 900, UTC)


def numbers(period: str) -> list[int]:
    """The numbers in a period in SQL: its own, and between which it is."""
    return [int(word.strip("()")) for word in period.split() if word.strip("()").isdigit()]


def said(period: str) -> str:
    """A period in SQL as its number and its days."""
    number, begin, end = numbers(period)
    return f"{number}: {round(begin / 96, 2)}-{round(end / 96, 2)}"
