"""Reports by the days of a zone that is not counted are put together from days of UTC and what is moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from engine.activity.reports import Group, ReportQuery
from engine.stores.clickhouse.report_cover import days_of, zone_of
from engine.stores.clickhouse.report_moved import moved
from engine.stores.clickhouse.report_narrow_sql import ALONE, BY
from engine.stores.clickhouse.reports import ClickHouseReports
from tests.activity.world import World
from tests.stores.clickhouse.report_scene import DAY_S, NOW_S, Activity, Archiver, ZoneInfo, counts, midnight

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
