"""Reports that would read too much: they are refused with what to ask for instead, and answered when that is
there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from engine.activity.report_rolling import Series
from engine.activity.reports import Group, ReportQuery
from engine.errors import Refusal
from engine.stores.clickhouse import report_together
from engine.stores.clickhouse.report_bounds import too_many_counts
from engine.stores.clickhouse.reports import ClickHouseReports
from tests.activity.world import World
from tests.stores.clickhouse.report_scene import DAY_S, NOW_S, Activity, Archiver, Reader, counts, midnight

DAYS = 6
TODAY = datetime.fromtimestamp(NOW_S, UTC).date()
COMBINED: tuple[Group, ...] = ("day", "country", "provider")


def of_days(
    zone: str, *group_by: Group, days: int = DAYS, shift_s: int = 0, until_shift_s: int | None = None
) -> ReportQuery:
    """A report of so many whole days before today, `shift_s` later, or the end by `until_shift_s`."""
    begin = midnight(TODAY - timedelta(days), zone) + shift_s
    end = midnight(TODAY, zone) + (shift_s if until_shift_s is None else until_shift_s)
    return ReportQuery(from_s=begin, until_s=end, group_by=group_by, time_zone=zone)


@pytest.fixture
async def activity(world: World, archiver: Archiver) -> Activity:
    """Messages of a few days, so many that a day has fewer counts than its quarters of an hour have."""
    activity = Activity(world, 31)
    activity.accept(2500, DAYS)
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - DAYS * DAY_S * 1000, begun_ms, 0.7)
    await archiver.rounds.make()
    # As after a while: of a part that is not merged a granule is read at least.
    await world.query("OPTIMIZE TABLE report_series FINAL")
    return activity


async def test_days_of_a_zone_that_are_not_counted_are_refused_and_answered_once_they_are(
    world: World, archiver: Archiver, activity: Activity
) -> None:
    query, reader = (
        of_days("Asia/Kolkata", *COMBINED),
        Reader(world.clickhouse_url, counts_max=3600),
    )
    with pytest.raises(Refusal, match="the days of Asia/Kolkata are not counted yet") as refused:
        await reader.summary(query)
    assert (refused.value.status, refused.value.code) == (422, "report_too_large")
    # What it says that can be asked for meanwhile.
    for other in (
        of_days("UTC", *COMBINED),
        of_days("Asia/Kolkata", "day"),
        of_days("Asia/Kolkata", *COMBINED, days=3),
    ):
        assert counts((await reader.summary(other)).rows) == counts(activity.report(other))
    # That it was asked for is noted, so the archiver counts these days.
    await archiver.rounds.make()
    assert counts((await reader.summary(query)).rows) == counts(activity.report(query))
    await reader.close()


async def test_a_report_with_a_row_for_each_count_is_refused_before_they_are_read(
    activity: Activity, reader: ClickHouseReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = of_days("UTC", "organisation", "day")
    assert counts((await reader.summary(query)).rows) == counts(activity.report(query))
    monkeypatch.setattr(report_together, "ROWS_MAX", 100)
    with pytest.raises(Refusal, match="it reads too much"):
        await reader.summary(query)
    # With a filter it has fewer rows than it reads.
    one = msgspec.structs.replace(of_days("UTC", "day"), provider="a")
    assert counts((await reader.summary(one)).rows) == counts(activity.report(one))


async def test_groups_of_counts_that_are_moved_are_not_all_made_when_they_are_too_many(
    activity: Activity, reader: ClickHouseReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = of_days("Europe/Berlin", *COMBINED)
    expected = counts(activity.report(query))
    assert counts((await reader.summary(query)).rows) == expected
    # So many groups may come to nothing beside those of the report.
    monkeypatch.setattr(report_together, "GROUPS_MAX", len(expected) // 2)
    assert counts((await reader.summary(query)).rows) == expected
    monkeypatch.setattr(report_together, "GROUPS_MAX", len(expected) // 5)
    with pytest.raises(Refusal, match="it has more than") as refused:
        await reader.summary(query)
    assert (refused.value.status, refused.value.code) == (422, "report_too_large")


async def test_much_that_came_and_is_not_counted_yet_is_no_reason_to_refuse_a_report(
    world: World, archiver: Archiver, activity: Activity
) -> None:
    reader = Reader(world.clickhouse_url, counts_max=3600)
    today = msgspec.structs.replace(of_days("UTC", "day"), until_s=midnight(TODAY + timedelta(1), "UTC"))
    assert counts((await reader.summary(today)).rows) == counts(activity.report(today))
    activity.accept(6000, 1)
    await activity.archive(archiver.now_ms + 1000, archiver.now_ms + 60_000, 1.0)
    assert counts((await reader.summary(today)).rows) == counts(activity.report(today))
    # The counts are bounded all the same.
    with pytest.raises(Refusal, match="the days of Asia/Kolkata are not counted yet"):
        await reader.summary(of_days("Asia/Kolkata", *COMBINED))
    await reader.close()


@pytest.mark.parametrize(
    ("query", "counted", "sentence"),
    [
        (of_days("Asia/Kolkata", *COMBINED), None, "the days of Asia/Kolkata are not counted yet. Ask again"),
        (of_days("Asia/Kolkata", *COMBINED), "Asia/Kolkata", "it reads too much. Ask for a shorter period"),
        # Its ends are midnights there, so the days of that zone would do.
        (of_days("Europe/Berlin", "organisation", "country"), "UTC", "the days of Europe/Berlin are not"),
        (
            of_days("UTC", "organisation", "country", shift_s=DAY_S // 2, until_shift_s=-DAY_S // 2),
            "UTC",
            "it begins and ends within a day of UTC. Ask for one that begins and ends at midnight, UTC",
        ),
        (
            of_days("Europe/Berlin", "organisation", "country", until_shift_s=-DAY_S // 2),
            "Europe/Berlin",
            "Ask for one that ends at midnight, Europe/Berlin, for",
        ),
        # It ends within a day that is not over: all that was accepted in that is in it.
        (
            of_days("UTC", "organisation", "country", shift_s=DAY_S // 2),
            "UTC",
            "because it begins within a day of UTC. Ask for one that begins at midnight, UTC, for a shorter",
        ),
        (of_days("UTC", "organisation", "country"), "UTC", "it reads too much. Ask for a shorter period"),
        # Hours are read in any case.
        (of_days("Asia/Kolkata", "hour", "country"), None, "it reads too much. Ask for a shorter period"),
    ],
)
def test_a_report_that_reads_too_much_is_told_what_to_ask_for(
    query: ReportQuery, counted: str | None, sentence: str
) -> None:
    series: Any = counted and Series(zone=counted, from_ms=0, filled=True, until_ms=1, narrow=True)
    refusal = too_many_counts(query, series, NOW_S)
    assert str(refusal).startswith("The report is too large: ")
    assert sentence in str(refusal)
