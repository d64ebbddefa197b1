"""Reports by the days of a zone that is not counted are put together from days of UTC and what is moved."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

import pytest

from engine.activity.report_rolling import Series
from engine.activity.reports import Group, ReportQuery
from engine.errors import Refusal
from engine.stores.clickhouse import report_together, reports
from engine.stores.clickhouse.local_time import offsets_of
from engine.stores.clickhouse.report_cover import Days, days_of, zone_of
from engine.stores.clickhouse.report_moved import moved
from engine.stores.clickhouse.report_narrow_sql import ALONE, BY, DAY, HOURS
from engine.stores.clickhouse.report_together import by_periods
from engine.stores.clickhouse.reports import ClickHouseReports
from tests.activity.world import World
from tests.stores.clickhouse.report_scene import (
    DAY_S,
    NOW_S,
    Activity,
    Archiver,
    ZoneInfo,
    counts,
    midnight,
    value,
)

# Ahead of UTC and behind it, by up to 14 hours, some of which change their clocks, at midnight too.
ZONES = (
    "Europe/Berlin", "Africa/Cairo", "America/New_York", "America/Santiago", "Pacific/Auckland",
    "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Tokyo",
)  # fmt: skip
GROUPS: tuple[tuple[Group, ...], ...] = (("day",), ("country", "day"), ("day", "provider"), ("day", "status"))


async def test_hours_that_are_in_the_same_day_of_utc_and_of_the_zone_are_not_read(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity = Activity(world, 51)
    activity.accept(1500, 400)
    # Many of them near midnight of UTC.
    for n in range(1, 400, 7):
        activity.accept_at(*((NOW_S // DAY_S - n) * DAY_S + shift for shift in (-7200, 7200)))
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - 410 * DAY_S * 1000, begun_ms, 0.7)
    await archiver.rounds.make()
    await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.3)
    # What is not read may be wrong: from five in the morning till seven in the evening of UTC, Berlin, Cairo
    # and New York have the same day.
    await world.query(
        "ALTER TABLE report_series UPDATE events = events + 1 WHERE period IN (14, 24, 34, 44) "
        "AND intDiv(begins, 4) % 24 >= 5 AND intDiv(begins, 4) % 24 < 19 SETTINGS mutations_sync = 1"
    )
    day = datetime.fromtimestamp(NOW_S - 390 * DAY_S, UTC).date()
    wrong = []
    for zone in ZONES[:3]:
        from_s, until_s = midnight(day, zone), midnight(day + timedelta(365), zone)
        for group_by in GROUPS:
            # The second ends now, and the last day is whole.
            for end_s in (until_s, (NOW_S // 900 + 1) * 900):
                query = ReportQuery(from_s=from_s, until_s=end_s, group_by=group_by, time_zone=zone)
                if counts((await reader.summary(query)).rows) != counts(activity.report(query)):
                    wrong.append(query)
    assert not wrong


async def test_days_of_any_zone_say_the_same_wherever_the_report_begins_and_ends(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity = Activity(world, 52)
    activity.accept(1500, 400)
    for n in range(1, 400, 7):
        activity.accept_at(*((NOW_S // DAY_S - n) * DAY_S + shift for shift in (-DAY_S // 2, DAY_S // 2)))
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - 410 * DAY_S * 1000, begun_ms, 0.8)
    await archiver.rounds.make()
    day, rng, wrong, put = datetime.fromtimestamp(NOW_S - 390 * DAY_S, UTC).date(), activity.rng, [], 0
    for zone in ZONES:
        for group_by in (*GROUPS, ("day", "queue", "provider"), ("day", "organisation")):
            begin_s = midnight(day + timedelta(rng.randrange(60)), zone)
            end_s = midnight(day + timedelta(300 + rng.randrange(60)), zone)
            shifts = [rng.choice((0, 0, 3600, 7200, 12 * 3600, 23 * 3600, 900, 12_600)) for _ in range(2)]
            query = ReportQuery(
                from_s=begin_s + shifts[0], until_s=end_s + shifts[1], group_by=group_by, time_zone=zone,
                organisation_id=rng.choice((None, None, 1)),
            )  # fmt: skip
            put += moved(query, days_of(query, ZoneInfo(zone_of(query)), NOW_S), ALONE) is not None
            if counts((await reader.summary(query)).rows) != counts(activity.report(query)):
                wrong.append(query)
    assert not wrong
    assert 10 < put < 48


def test_nothing_is_moved_where_an_hour_is_in_two_days_or_partly_in_the_report() -> None:
    from_s = int(datetime(2026, 1, 4, 23, tzinfo=UTC).timestamp())

    def found(zone: str, shift_s: int, added: int, *group_by: Group, days: int = 9) -> bool:
        query = ReportQuery(
            from_s=from_s + shift_s, until_s=from_s + days * DAY_S, group_by=group_by, time_zone=zone
        )
        return moved(query, days_of(query, ZoneInfo(zone), NOW_S), added) is not None

    assert found("Europe/Berlin", 0, BY["country"], "day")
    assert found("Europe/Berlin", 3600, BY["country"], "day")
    assert not found("Europe/Berlin", 900, BY["country"], "day")
    assert not found("Asia/Kolkata", 0, ALONE, "day")
    assert not found("Europe/Berlin", 0, ALONE, "hour")
    # Quarters of an hour are in one day, wherever it begins.
    assert found("Asia/Kolkata", 900, 0, "day")
    assert not found("Europe/Berlin", 3600, ALONE, "day", days=1)


async def test_days_of_a_zone_that_are_those_of_utc_are_read_as_these(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity = Activity(world, 53)
    activity.accept(300, 28)
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - 28 * DAY_S * 1000, begun_ms, 0.8)
    await archiver.rounds.make()
    for zone in ("Europe/London", "Africa/Abidjan", "GMT", "Atlantic/Reykjavik"):
        for from_s, until_s in (
            (midnight(date(2026, 11, 3), zone), midnight(date(2026, 11, 29), zone)),
            (midnight(date(2026, 11, 3), zone) + 7200, (NOW_S // 900 + 1) * 900),
        ):
            for group_by in GROUPS:
                query = ReportQuery(from_s=from_s, until_s=until_s, group_by=group_by, time_zone=zone)
                assert counts((await reader.summary(query)).rows) == counts(activity.report(query))
    # They need not be counted, so nobody is told that they were asked for.
    assert await world.query("SELECT count() FROM report_zones") == [(0,)]
    # Some of the days of a summer are others.
    query = ReportQuery(
        from_s=midnight(date(2026, 10, 20), "Europe/London"), until_s=NOW_S // 900 * 900, group_by=("day",),
        time_zone="Europe/London",
    )  # fmt: skip
    assert counts((await reader.summary(query)).rows) == counts(activity.report(query))
    assert await world.query("SELECT zone FROM report_zones") == [("Europe/London",)]


def changes(zone: str, year: int) -> list[int]:
    """When a zone goes to another offset in a year, seconds since 1970."""
    begin_s = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    return [since_s for since_s, _ in offsets_of(ZoneInfo(zone), begin_s, begin_s + 366 * DAY_S)[1:]]


def near(zone: str, at_s: int) -> list[tuple[ReportQuery, Days]]:
    """Reports of a few days by day that begin or end near a time, and their whole days."""
    day, found = datetime.fromtimestamp(at_s, ZoneInfo(zone)).date(), []
    for first in (-3, -1, 0, 1):
        for shift_s in (0, 7200):
            begin = datetime.combine(day + timedelta(first), datetime.min.time(), ZoneInfo(zone))
            end = datetime.combine(day + timedelta(first + 3), datetime.min.time(), ZoneInfo(zone))
            query = ReportQuery(
                from_s=int(begin.timestamp()) + shift_s, until_s=int(end.timestamp()) + shift_s,
                group_by=("day",), time_zone=zone,
            )  # fmt: skip
            found.append((query, days_of(query, ZoneInfo(zone), NOW_S * 2)))
    return found


@pytest.mark.parametrize("year", [2018, 2026])
async def test_each_hour_is_in_its_day_wherever_a_report_begins_near_a_change_of_clocks(
    world: World, year: int
) -> None:
    # Each hour has a count: its number, and the square of that, so that no other hours come to the same.
    first = (date(year, 1, 1) - date(1970, 1, 1)).days - 10
    await world.query(
        f"""CREATE TABLE counts ENGINE = Memory AS
        WITH {first} * 24 + number AS hour
        SELECT toUInt8({DAY + ALONE}) AS period, toUInt32(intDiv(hour, 24)) AS begins, sum(hour) AS n,
            sum(hour * hour) AS m FROM numbers(386 * 24) GROUP BY begins
        UNION ALL SELECT {ALONE + HOURS[0]}, toUInt32(hour * 4), hour, hour * hour FROM numbers(386 * 24)"""
    )
    seen, wrong, put = set(), [], 0
    for zone in sorted(available_timezones()):
        begin_s = (first + 10) * DAY_S
        offsets = tuple(offsets_of(ZoneInfo(zone), begin_s, begin_s + 366 * DAY_S))
        if offsets in seen:
            continue
        seen.add(offsets)
        asked = [each for at_s in changes(zone, year) or [begin_s + 40 * DAY_S] for each in near(zone, at_s)]
        plans = [(query, moved(query, days, ALONE)) for query, days in asked]
        selects = [
            f"SELECT {i} AS report, {plan.time} AS day, {plan.off} AS off, sum(n), sum(m) FROM counts "
            f"WHERE {' OR '.join(plan.periods)} GROUP BY day, off"
            for i, (_, plan) in enumerate(plans)
            if plan is not None
        ]
        put += len(selects)
        found: dict[int, dict[int, tuple[int, int]]] = defaultdict(lambda: defaultdict(lambda: (0, 0)))
        for report, day, off, *sums in await world.query(" UNION ALL ".join(selects)) if selects else ():
            for sign, at in ((1, day), (-1, off)):
                if at != 0xFFFFFFFF:
                    n, m = found[report][at]
                    found[report][at] = (n + sign * sums[0], m + sign * sums[1])
        for report, of in found.items():
            query, expected = plans[report][0], defaultdict[int, tuple[int, int]](lambda: (0, 0))
            for hour in range(query.from_s // 3600, query.until_s // 3600):
                on = datetime.fromtimestamp(hour * 3600, ZoneInfo(zone)).date()
                n, m = expected[(on - date(1970, 1, 1)).days]
                expected[(on - date(1970, 1, 1)).days] = (n + hour, m + hour * hour)
            if {day: sums for day, sums in of.items() if any(sums)} != expected:
                wrong.append(query)
    assert not wrong
    assert put > 500


def test_counts_that_are_moved_and_are_many_are_added_up() -> None:
    utc = Series(zone="UTC", from_ms=1, filled=True, until_ms=2, narrow=True)
    for zone in ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "Atlantic/Azores"):
        query = ReportQuery(
            from_s=midnight(date(2025, 1, 1), zone), until_s=midnight(date(2026, 1, 1), zone),
            group_by=("day", "country", "queue"), time_zone=zone,
        )  # fmt: skip
        together = by_periods(query, None, utc, days_of(query, ZoneInfo(zone), NOW_S), 400_000)
        assert int(together.sql.rpartition(" ")[2]) <= 300_000
        assert "GROUP BY" in together.added_up_sql


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
async def test_a_report_is_not_too_large_for_what_is_moved_in_it(
    world: World,
    archiver: Archiver,
    reader: ClickHouseReports,
    monkeypatch: pytest.MonkeyPatch,
    zone: str,
) -> None:
    activity, today = Activity(world, 54), NOW_S // DAY_S * DAY_S
    # Those of every second day of UTC are in the next day of Tokyo, or the day before in New York.
    for n in range(1, 40):
        moved_s = today - n * DAY_S + (3600 if zone == "America/New_York" else 23 * 3600)
        for at_s in (moved_s, *([moved_s - 6 * 3600, moved_s + 6 * 3600] if n % 2 else [])):
            activity.accept_at(at_s - 600, at_s + 600)
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - 40 * DAY_S * 1000, begun_ms, 1.0)
    await archiver.rounds.make()
    day = datetime.fromtimestamp(today, UTC).date()
    query = ReportQuery(
        from_s=midnight(day - timedelta(36), zone), until_s=midnight(day - timedelta(2), zone),
        group_by=("day", "country"), time_zone=zone,
    )  # fmt: skip
    expected = counts(activity.report(query))
    within = [row for row in activity.archived if query.from_s <= row.accepted_at_us // 10**6 < query.until_s]
    has: set[tuple[Any, ...]] = {
        (*(value(row, name, ZoneInfo(zone)) for name in query.group_by), row.event, row.provider_message_id)
        for row in within
    }
    groups = {event[:2] for event in has}
    for module in (reports, report_together):
        monkeypatch.setattr(module, "GROUPS_MAX", len(groups))
        monkeypatch.setattr(module, "ROWS_MAX", len(has) + 1)
    assert counts((await reader.summary(query)).rows) == expected
    # Added up by ClickHouse it has rows of what stays and of what is moved.
    monkeypatch.setattr(report_together, "_AS_THEY_ARE_MAX", 1)
    assert counts((await reader.summary(query)).rows) == expected
    # One group more is one too many.
    monkeypatch.setattr(reports, "GROUPS_MAX", len(groups) - 1)
    with pytest.raises(Refusal, match="more than"):
        await reader.summary(query)
