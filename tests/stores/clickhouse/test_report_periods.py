"""Reports that are put together say to the unit what the rows of the activity say, whatever the archiver has
counted of them, and wherever it was stopped."""

from __future__ import annotations

import shutil
from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from engine.activity.report_rolling import MARGIN_MS, ZONES_MAX
from engine.activity.reports import Quantiles, ReportQuery
from engine.stores import migrate
from engine.stores.clickhouse.report_cover import days_of, is_long
from engine.stores.clickhouse.reports import ClickHouseReports
from engine.stores.migrate import migrate_clickhouse
from tests.activity.world import World, new_world
from tests.stores.clickhouse.report_scene import (
    DAY_S,
    FIRST_S,
    NOW_S,
    ZONES,
    Activity,
    Archiver,
    Reader,
    ask,
    assert_all_agree,
    counts,
    few,
    midnight,
)


async def test_reports_agree_with_the_rows_whatever_is_counted_of_them(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity = Activity(world, 11)
    activity.accept(1500, 400)
    activity.accept(500, 20)
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - 400 * DAY_S * 1000, begun_ms, 0.6)
    await ask(world, *ZONES[1:4])
    # Of some zones there is a series, of others none: their days are read from the quarters of an hour.
    await archiver.rounds.make()
    assert {s.zone for s in await archiver.periods.series() if s.filled} == set(ZONES[:4])
    await assert_all_agree(reader, activity, 25)
    # What came since, new messages and late events of old ones: not counted yet, then counted, then more.
    for _ in range(2):
        activity.accept(100, 3)
        await activity.archive(archiver.now_ms - 5_000, archiver.now_ms + 40_000, 0.5)
        await assert_all_agree(reader, activity, 10)
        archiver.now_ms += MARGIN_MS + 60_000
        await archiver.rounds.make()
        await assert_all_agree(reader, activity, 10)


async def test_a_report_that_is_read_while_the_counts_go_on_or_are_dropped_is_right(
    world: World, archiver: Archiver, reader: ClickHouseReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity = await few(world, archiver, 6)
    await archiver.rounds.make()
    [series] = await archiver.periods.series()

    async def go_on() -> None:
        await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.4)
        archiver.now_ms += MARGIN_MS + 60_000
        await archiver.rounds.make()

    # Before its counts are read, while what came later is; before that is read again, as of what is counted
    # now; and of the next report, before its counts are read.
    meanwhile = [("counts", go_on), ("later", go_on), ("counts", partial(archiver.periods.drop, series))]
    read = reader._answer

    async def slow(sql: str, parameters: dict[str, Any]) -> bytes:
        asked = "counts" if "until" not in parameters else "later"
        is_again = parameters.get("until") != series.until_ms
        if meanwhile and meanwhile[0][0] == asked and is_again:
            await meanwhile.pop(0)[1]()
        return await read(sql, parameters)

    monkeypatch.setattr(reader, "_answer", slow)
    query = ReportQuery(from_s=FIRST_S // 900 * 900, until_s=(NOW_S // 900 + 90) * 900, group_by=("queue",))
    for left in (1, 0):
        found = await reader.summary(query)
        assert len(meanwhile) == left
        assert counts(found.rows) == counts(activity.report(query))


async def test_numbers_and_months_that_were_removed_stay_in_the_counts_of_a_zone_that_comes_later(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity = await few(world, archiver, 7, 200)
    query = ReportQuery(
        from_s=midnight(datetime.fromtimestamp(NOW_S - 210 * DAY_S, UTC).date(), "Asia/Tehran"),
        until_s=(NOW_S // 900 + 90) * 900, group_by=("day", "country"), time_zone="Asia/Tehran",
    )  # fmt: skip
    await world.query(
        f"ALTER TABLE activity UPDATE to = '' WHERE accepted_at < toDateTime({NOW_S - 9 * DAY_S}) "
        "SETTINGS mutations_sync = 1"
    )
    [(oldest,)] = await world.query("SELECT toYYYYMM(min(accepted_at)) FROM activity")
    await world.query(f"ALTER TABLE activity DROP PARTITION {oldest}")
    # Read once, which notes the zone.
    assert counts((await reader.summary(query)).rows) == counts(activity.report(query))
    await archiver.rounds.make()
    assert {s.zone for s in await archiver.periods.series() if s.filled} == {"UTC", "Asia/Tehran"}
    assert counts((await reader.summary(query)).rows) == counts(activity.report(query))


async def test_a_zone_is_counted_while_reports_are_asked_for_in_its_days_and_few_zones_are(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    day = (FIRST_S // DAY_S + 1) * DAY_S
    for zone, group_by, days in (
        ("Asia/Tehran", ("day", "status"), 40), ("Etc/UTC", ("day",), 40), ("Asia/Tokyo", ("status",), 40),
        ("Asia/Dubai", ("day",), 2), ("Asia/Riyadh", ("hour",), 40),
    ):  # fmt: skip
        query = ReportQuery(from_s=day, until_s=day + days * DAY_S, group_by=group_by, time_zone=zone)  # type: ignore[arg-type]
        await reader.summary(query)
    assert await archiver.periods.zones() == ["Asia/Tehran"]
    await archiver.rounds.make()
    assert {s.zone for s in await archiver.periods.series()} == {"UTC", "Asia/Tehran"}
    # It was last asked for long ago; others are too many.
    await world.query("TRUNCATE TABLE report_zones")
    old = "today() - 90, today() - 61"
    await world.query(
        f"INSERT INTO report_zones VALUES ('Asia/Tehran', {old}), ('Asia/Tokyo', today() - 9, today())"
    )
    many = [f"Etc/GMT+{n}" for n in range(1, ZONES_MAX + 1)]
    await ask(world, *many)
    await archiver.rounds.make()
    assert {s.zone for s in await archiver.periods.series()} == {"UTC", "Asia/Tokyo", *sorted(many)[:-1]}


async def test_an_organisation_that_asks_for_all_zones_takes_one_place_among_those_that_are_counted(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    day = (FIRST_S // DAY_S + 1) * DAY_S
    for organisation_id, zones in ((7, ("Asia/Baku", "Asia/Aden", "Asia/Amman")), (8, ("Asia/Tehran",))):
        for zone in zones:
            query = ReportQuery(
                from_s=day, until_s=day + 40 * DAY_S, group_by=("day",), time_zone=zone,
                organisation_id=organisation_id,
            )  # fmt: skip
            await reader.summary(query)
    assert sorted(await archiver.periods.zones()) == ["Asia/Baku", "Asia/Tehran"]


@pytest.mark.parametrize(("version", "table"), [("0013", "report_days"), ("0015", "report_periods")])
async def test_counts_of_an_earlier_version_are_made_anew_and_it_does_not_take_its_own_for_whole(
    redis_url: str, clickhouse_url: str, tmp_path: Path, version: str, table: str
) -> None:
    for script in (Path(migrate.__file__).parent / "clickhouse/migrations").glob("*.sql"):
        if script.name < version:
            shutil.copy(script, tmp_path)
    async with new_world(redis_url, clickhouse_url, tmp_path) as world:
        archiver, reader = Archiver(world), Reader(world.clickhouse_url)
        await world.query("ALTER TABLE activity ADD COLUMN IF NOT EXISTS receipts_by UInt16")
        activity = await few(world, archiver, 8)
        if version == "0015":
            await world.query("INSERT INTO report_periods (zone, until_ms) VALUES ('UTC', 1)")
        # Also when it is done twice, as when it was killed before it was noted.
        for _ in range(2):
            await migrate_clickhouse(world.clickhouse_url)
            await world.query("TRUNCATE TABLE smsengine_migrations")
        await assert_all_agree(reader, activity, 5)
        activity.accept(20, 2)
        await activity.archive(archiver.now_ms - 40_000, archiver.now_ms - 20_000, 0.5)
        await assert_all_agree(reader, activity, 10)
        await archiver.rounds.make()
        await assert_all_agree(reader, activity, 10)
        # It may still read its own.
        for each in (table, "report_series"):
            assert (await world.query(f"SELECT count() >= 1 FROM {each}")) == [(1,)]
        # What it looks at before it reads `report_days`: from which month on that is whole.
        assert await world.query("SELECT max(from_month) > 210000 FROM report_day_filled") == [(1,)]
        await archiver.periods.close()
        await reader.close()


async def test_counts_whose_times_are_packed_otherwise_are_read_and_filled_beside_those_of_now(
    redis_url: str, clickhouse_url: str, tmp_path: Path
) -> None:
    for script in (Path(migrate.__file__).parent / "clickhouse/migrations").glob("*.sql"):
        if script.name < "0017":
            shutil.copy(script, tmp_path)
    codecs = "SELECT name, compression_codec FROM system.columns WHERE database = currentDatabase() "
    codecs += "AND table = 'report_series' AND name IN ('answers', 'ages') ORDER BY name"
    async with new_world(redis_url, clickhouse_url, tmp_path) as world:
        archiver, reader = Archiver(world), Reader(world.clickhouse_url)
        activity = await few(world, archiver, 12)
        await archiver.rounds.make()
        # A zone is being filled meanwhile.
        filling = archiver.periods.derive("Asia/Tehran", (await archiver.periods.series())[0])
        await anext(filling)
        before = await world.query(codecs)
        await migrate_clickhouse(world.clickhouse_url)
        assert await world.query(codecs) == [(name, "CODEC(T64, ZSTD(1))") for name in ("ages", "answers")]
        assert before == [(name, "CODEC(ZSTD(1))") for name in ("ages", "answers")]
        async for _ in filling:
            pass
        assert {s.zone for s in await archiver.periods.series() if s.filled} == {"Asia/Tehran", "UTC"}
        await assert_all_agree(reader, activity, 10)
        activity.accept(20, 2)
        await activity.archive(archiver.now_ms - 40_000, archiver.now_ms - 20_000, 0.5)
        archiver.now_ms += MARGIN_MS + 60_000
        await archiver.rounds.make()
        await assert_all_agree(reader, activity, 10)
        await world.query("OPTIMIZE TABLE report_series FINAL")
        await assert_all_agree(reader, activity, 10)
        await archiver.periods.close()
        await reader.close()


async def test_times_are_within_a_class_of_those_of_the_rows(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity = Activity(world, 9)
    activity.accept(3000, 90)
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - 90 * DAY_S * 1000, begun_ms, 1)
    query = ReportQuery(from_s=FIRST_S // 900 * 900, until_s=(NOW_S // 900 + 90) * 900, group_by=("queue",))
    ages: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in activity.archived:
        ages[row.event, row.queue].append((row.at_us - max(row.accepted_at_us, row.due_at_us)) / 1000)
    # Once from the digests of the quarters, once from windows.
    for made in range(2):
        if made:
            await archiver.rounds.make()
        for found in (await reader.summary(query)).rows:
            for event, after_ms in (("sent", found.sent_after_ms), ("delivered", found.delivered_after_ms)):
                sorted_ = sorted(ages[event, str(found.queue)])
                wanted = [sorted_[int(part * len(sorted_))] for part in (0.5, 0.95, 0.99)]
                assert isinstance(after_ms, Quantiles)
                assert msgspec.structs.astuple(after_ms) == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize(
    ("changed", "long"),
    [
        ({}, True),
        ({"group_by": ("day",), "time_zone": "Asia/Tehran"}, True),
        ({"from_s": FIRST_S + 900}, True),
        ({"group_by": ("hour",)}, True),
        ({"group_by": ("minute",)}, False),
        ({"group_by": ("reference",)}, False),
        ({"campaign": "spring"}, False),
        ({"until_s": FIRST_S + 3 * DAY_S - 900}, False),
    ],
)
def test_only_reports_of_several_days_are_put_together(changed: dict[str, Any], long: bool) -> None:
    query = ReportQuery(from_s=FIRST_S, until_s=FIRST_S + 40 * DAY_S, group_by=())
    assert is_long(msgspec.structs.replace(query, **changed)) is long


@pytest.mark.parametrize(
    ("zone", "from_time", "until_time", "first", "last"),
    [
        ("UTC", "2026-03-01T00:00Z", "2026-04-01T00:00Z", "2026-03-01", "2026-04-01"),
        ("UTC", "2026-03-01T00:15Z", "2026-04-01T23:45Z", "2026-03-02", "2026-04-01"),
        ("Asia/Tehran", "2026-02-28T20:30Z", "2026-03-31T20:30Z", "2026-03-01", "2026-04-01"),
        # Summer time begins at midnight: the day begins at one o'clock.
        ("Africa/Cairo", "2026-04-23T22:00Z", "2026-05-23T21:00Z", "2026-04-24", "2026-05-24"),
        # It is not over yet.
        ("UTC", "2026-03-01T00:00Z", "2026-05-01T10:15Z", "2026-03-01", "2026-05-02"),
    ],
)
def test_the_whole_days_of_a_report_are_those_of_its_zone(
    zone: str, from_time: str, until_time: str, first: str, last: str
) -> None:
    times = [int(datetime.fromisoformat(time).timestamp()) for time in (from_time, until_time)]
    query = ReportQuery(from_s=times[0], until_s=times[1], group_by=(), time_zone=zone)
    now_s = int(datetime(2026, 5, 1, 10, 10, tzinfo=UTC).timestamp())
    found = days_of(query, ZoneInfo(zone), now_s)
    assert (str(found.first), str(found.last)) == (first, last)
