"""Reports that are put together say to the unit what the rows of the activity say, whatever the archiver has
counted of them, and wherever it was stopped."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.activity.report_rolling import MARGIN_MS, ZONES_MAX, ReportRounds
from engine.activity.reports import COUNTED, EventSum, Group, Quantiles, ReportQuery, ReportRow, rows_of
from engine.records import ActivityRow
from engine.redis_keys import activity_key
from engine.stores import migrate
from engine.stores.clickhouse.report_periods import ClickHouseReportPeriods
from engine.stores.clickhouse.report_statements import days_of, is_long
from engine.stores.clickhouse.reports import ClickHouseReports
from engine.stores.clickhouse.time_classes import class_sql, quantiles_sql, summed_sql
from engine.stores.migrate import migrate_clickhouse
from tests.activity.world import World, blob_of, make_row, new_world
from tests.stores.clickhouse.test_reports import COUNTRIES, HISTORIES, NUMBERS

DAY_S = 86_400
ZONES = ("UTC", "Asia/Tehran", "Asia/Kolkata", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe")
TIMES = ("answer_ms", "sent_after_ms", "delivered_after_ms")
# Now, whole: summer time has ended or begun within the last year wherever there is one.
NOW_S = int(datetime.now(UTC).timestamp())
FIRST_S = NOW_S - 400 * DAY_S
NAMED = dict(zip(NUMBERS, (49, 1416, 1, 77, 98, 1868), strict=True))


def message(number: int, rng: Random, days: float) -> list[ActivityRow]:
    """The rows of a message that was accepted within so many days before now."""
    accepted_at_us = (NOW_S - rng.randrange(int(days * DAY_S))) * 1_000_000 + rng.randrange(1_000_000)
    segments = rng.choice((1, 1, 2, 3))
    same: dict[str, Any] = {
        "organisation_id": 1 + number % 3,
        "message_id": f"019aaaaa-0000-7000-8000-{number:012x}",
        "accepted_at_us": accepted_at_us,
        "queue": "express" if number % 4 == 0 else "normal",
        "to": rng.choice(NUMBERS),
        "segments": segments,
        "units": segments * 5,
    }
    rows = [make_row(0, at_us=accepted_at_us, event="accepted", provider="", latency_us=0, **same)]
    for place, (event, provider) in enumerate(rng.choice(HISTORIES), 1):
        again = event == "resent"
        rows.append(
            make_row(
                0,
                at_us=accepted_at_us + rng.randrange(1_000, 5_000_000_000),
                event="retrying" if again else event,
                provider=provider,
                provider_message_id="id" if again or event == "sent" else "",
                latency_us=rng.randrange(1_000, 900_000) if event == "sent" else 0,
                attempt=place,
                **same,
            )
        )
    return rows


class Activity:
    """Messages, and what has been archived of them."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.rng = world, Random(seed)
        # What is to come of each message.
        self.left: list[list[ActivityRow]] = []
        self.archived: list[ActivityRow] = []
        self._blocks = 0

    def accept(self, count: int, days: float) -> None:
        """Messages of the last so many days."""
        begin = len(self.left)
        self.left += [message(begin + n, self.rng, days) for n in range(count)]

    async def archive(self, from_ms: int, until_ms: int, part: float) -> None:
        """Archive a part of what is to come of each message, as if it came to the streams in that time."""
        # Blocks of not too many days, which `outstanding` has in partitions.
        entries = defaultdict[int, list[ActivityEntry]](list)
        for rows in self.left:
            while rows and self.rng.random() < part:
                at = (self.rng.randrange(from_ms, until_ms), self.rng.randrange(1000))
                entry = ActivityEntry(shard=0, id=at, blob=blob_of([rows[0]]))
                entries[rows[0].at_us // (50 * DAY_S * 1_000_000)].append(entry)
                self.archived.append(rows.pop(0))
        for of_days in entries.values():
            self._blocks += 1
            await self.world.store.insert(block_of(of_days)[0], f"block {self._blocks}")

    def report(self, query: ReportQuery) -> list[ReportRow]:
        """The report, from the rows themselves, without times."""
        zone, sums = ZoneInfo(query.time_zone), defaultdict[tuple[Any, ...], list[int]](lambda: [0, 0, 0])
        for row in self.archived:
            if row.event in COUNTED and wanted(row, query):
                event = "resent" if row.event == "retrying" and row.provider_message_id else row.event
                of = sums[*(value(row, name, zone) for name in query.group_by if name != "status"), event]
                for place, more in enumerate((1, row.segments, row.units)):
                    of[place] += more
        found = [
            EventSum(group=key[:-1], event=key[-1], events=of[0], segments=of[1], units=of[2])
            for key, of in sums.items()
        ]
        return rows_of(found, query.group_by, zone, of_provider=bool(query.provider))


def wanted(row: ActivityRow, query: ReportQuery) -> bool:
    at_s = row.accepted_at_us / 1_000_000
    country = COUNTRIES[NUMBERS.index(row.to)]
    return query.from_s <= at_s < query.until_s and all(
        not asked or asked == has
        for asked, has in (
            (query.organisation_id, row.organisation_id),
            (query.queue, row.queue),
            (query.provider, row.provider),
            (query.country, country),
        )
    )


def value(row: ActivityRow, name: Group, zone: ZoneInfo) -> Any:
    if name == "day":
        day = datetime.fromtimestamp(row.accepted_at_us / 1_000_000, zone).date()
        return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())
    of: dict[str, Any] = {
        "queue": row.queue, "provider": row.provider, "organisation": row.organisation_id,
        "country": NAMED[row.to],
    }  # fmt: skip
    return of[name]


def counts(rows: Iterable[ReportRow]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in msgspec.to_builtins(row).items() if name not in TIMES} for row in rows
    ]


def queries() -> list[ReportQuery]:
    """Reports of all kinds that are put together."""
    rng, found = Random(5), []
    groups: tuple[tuple[Group, ...], ...] = (
        (), ("status",), ("day",), ("day", "status"), ("organisation",), ("organisation", "queue"),
        ("country", "provider"), ("status", "country"), ("organisation", "day"), ("provider", "day", "queue"),
    )  # fmt: skip
    filters: tuple[dict[str, Any], ...] = (
        {}, {}, {"organisation_id": 2}, {"organisation_id": 1, "queue": "normal"}, {"provider": "a"},
        {"country": "CA"}, {"country": "DE", "organisation_id": 3, "provider": "b"},
    )  # fmt: skip
    for zone in ZONES:
        for group_by in groups:
            begin, end = sorted(rng.sample(range(FIRST_S - 5 * DAY_S, NOW_S, 900), 2))
            day = datetime.fromtimestamp(begin, ZoneInfo(zone)).date()
            times = [
                # Whole days, up to now, of any times, of part of the last month.
                (midnight(day, zone), midnight(day + timedelta(90), zone)),
                (midnight(day, zone), (NOW_S // 900 + 1) * 900),
                (begin // 900 * 900, max(end, begin + 4 * DAY_S) // 900 * 900),
                ((NOW_S - 20 * DAY_S) // 900 * 900, (NOW_S - 3 * DAY_S) // 900 * 900),
            ]
            for from_s, until_s in times:
                found.append(
                    ReportQuery(
                        from_s=from_s,
                        until_s=until_s,
                        group_by=group_by,
                        time_zone=zone,
                        **rng.choice(filters),
                    )
                )
    return found


def midnight(day: date, zone: str) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp()) // 900 * 900


QUERIES = queries()


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


class Archiver:
    """The part of an archiver that counts; its clock is `now_ms`."""

    def __init__(self, world: World) -> None:
        self.now_ms = NOW_S * 1000
        self.periods = ClickHouseReportPeriods(world.clickhouse_url)
        self.rounds = ReportRounds(self.periods, world.stream, lambda: True, lambda: self.now_ms * 1000)


@pytest.fixture
async def archiver(world: World) -> AsyncIterator[Archiver]:
    archiver = Archiver(world)
    yield archiver
    await archiver.periods.close()


@pytest.fixture
async def reader(world: World) -> AsyncIterator[ClickHouseReports]:
    reader = ClickHouseReports(world.clickhouse_url)
    yield reader
    await reader.close()


async def ask(world: World, *zones: str) -> None:
    for zone in zones:
        await world.query(f"INSERT INTO report_zones VALUES ('{zone}', today(), today())")


async def assert_all_agree(
    reader: ClickHouseReports, activity: Activity, most: int = 25, zones: Sequence[str] = ZONES
) -> None:
    wrong = []
    for query in activity.rng.sample([q for q in QUERIES if q.time_zone in zones], most):
        found, expected = (await reader.summary(query)).rows, activity.report(query)
        if counts(found) != counts(expected):
            wrong.append(query)
    assert not wrong


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


class Killed(Exception):
    """The process ends here."""


class Dying(ClickHouseReportPeriods):
    """Ends before or after so many statements that change something."""

    left, done = 10**9, False

    async def _run(self, sql: str, *rest: Any) -> None:
        self.left -= 1
        if self.left < 0 and not self.done:
            raise Killed
        await super()._run(sql, *rest)
        if self.left < 0:
            raise Killed


async def few(world: World, archiver: Archiver, seed: int, days: float = 70) -> Activity:
    """A little activity, archived before now."""
    activity = Activity(world, seed)
    activity.accept(150, days)
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - int(days) * DAY_S * 1000, begun_ms, 0.6)
    return activity


async def test_killed_at_any_statement_everything_is_counted_once(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity = await few(world, archiver, 3, 8)
    dying, steps = Dying(world.clickhouse_url), 0
    rounds = ReportRounds(dying, world.stream, lambda: True, lambda: archiver.now_ms * 1000)
    while True:
        # Never carried out, and carried out but never answered.
        dying.left, dying.done = steps // 2, bool(steps % 2)
        try:
            await rounds.make()
            break
        except Killed:
            steps += 1
            # What is younger than that may not be there yet.
            await activity.archive(archiver.now_ms - MARGIN_MS + 1_000, archiver.now_ms, 0.05)
            archiver.now_ms += 1_000
            if steps % 8 == 0:
                await assert_all_agree(reader, activity, 3, ("UTC",))
    await dying.close()
    assert steps > 20
    assert [(s.zone, s.filled) for s in await archiver.periods.series()] == [("UTC", True)]
    await assert_all_agree(reader, activity, 10, ("UTC",))


async def test_two_archivers_at_once_count_once(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity, other = await few(world, archiver, 4), Archiver(world)
    for _ in range(3):
        # One drops what the other works on, which then fails and is done again.
        await asyncio.gather(archiver.rounds.make(), other.rounds.make(), return_exceptions=True)
        await archiver.rounds.make()
        activity.accept(20, 2)
        await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.5)
        archiver.now_ms, other.now_ms = archiver.now_ms + 210_000, archiver.now_ms + 240_000
    await other.periods.close()
    await assert_all_agree(reader, activity, 10)
    assert len(await archiver.periods.series()) <= 2


async def test_a_window_that_was_counted_is_not_counted_by_one_that_was_frozen(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity = await few(world, archiver, 5)
    await archiver.rounds.make()
    [series] = await archiver.periods.series()
    activity.accept(50, 2)
    await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 1)
    for until_ms in (archiver.now_ms + 50_000, archiver.now_ms + 50_000, archiver.now_ms + 30_000):
        await archiver.periods.roll(series, until_ms)
    [after] = await archiver.periods.series()
    assert after.until_ms == archiver.now_ms + 50_000
    # Also when so many others came between that nobody knows its token any more.
    await world.query("ALTER TABLE report_series MODIFY SETTING non_replicated_deduplication_window = 1")
    await archiver.periods.roll(after, archiver.now_ms + 51_000)
    await archiver.periods.roll(series, archiver.now_ms + 50_000)
    await assert_all_agree(reader, activity, 10)


async def test_only_what_nothing_waits_before_is_counted(world: World, archiver: Archiver) -> None:
    await archiver.rounds.make()
    # A minute ago it was put on its stream, and is not archived yet.
    await world.redis.xadd(activity_key(1), {"b": b""}, id=f"{archiver.now_ms + 20_000}-0")
    archiver.now_ms += MARGIN_MS + 80_000
    await archiver.rounds.make()
    [series] = await archiver.periods.series()
    assert series.until_ms == archiver.now_ms - MARGIN_MS - 60_000
    await world.redis.flushdb()
    await archiver.rounds.make()
    [series] = await archiver.periods.series()
    # What comes now may be as old as this.
    assert series.until_ms == archiver.now_ms - MARGIN_MS


@pytest.mark.parametrize("back_ms", [MARGIN_MS - 10_000, MARGIN_MS + 10_000])
async def test_everything_is_counted_when_the_clock_is_set_back(
    world: World, archiver: Archiver, reader: ClickHouseReports, back_ms: int
) -> None:
    activity = await few(world, archiver, 6, 8)
    archiver.now_ms += 400_000
    await archiver.rounds.make()
    archiver.now_ms -= back_ms
    activity.accept(40, 2)
    await activity.archive(archiver.now_ms, archiver.now_ms + 1_000, 1)
    for _ in range(3):
        archiver.now_ms += 60_000
        await archiver.rounds.make()
        await assert_all_agree(reader, activity, 3, ("UTC",))
    archiver.now_ms += 2 * back_ms
    await archiver.rounds.make()
    await assert_all_agree(reader, activity, 10, ("UTC",))


async def test_a_report_that_is_read_while_the_counts_go_on_or_are_dropped_is_read_again(
    world: World, archiver: Archiver, reader: ClickHouseReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity = await few(world, archiver, 6)
    await archiver.rounds.make()
    await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.9)
    archiver.now_ms += 60_000
    [series] = await archiver.periods.series()
    meanwhile = [archiver.rounds.make, partial(archiver.periods.drop, series)]
    read = reader._query

    async def slow(sql: str, parameters: dict[str, Any]) -> Any:
        if "UNION ALL" in sql and meanwhile:
            await meanwhile.pop(0)()
        return await read(sql, parameters)

    monkeypatch.setattr(reader, "_query", slow)
    query = ReportQuery(from_s=FIRST_S // 900 * 900, until_s=(NOW_S // 900 + 90) * 900, group_by=("queue",))
    found = await reader.summary(query)
    assert not meanwhile
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
        "ALTER TABLE activity UPDATE to = '' WHERE accepted_at < now() - 9 * 86400 "
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


async def test_counts_of_the_previous_version_are_made_anew_and_it_does_not_take_its_own_for_whole(
    redis_url: str, clickhouse_url: str, tmp_path: Path
) -> None:
    for script in (Path(migrate.__file__).parent / "clickhouse/migrations").glob("*.sql"):
        if script.name < "0013":
            shutil.copy(script, tmp_path)
    async with new_world(redis_url, clickhouse_url, tmp_path) as world:
        archiver, reader = Archiver(world), ClickHouseReports(world.clickhouse_url)
        await world.query("ALTER TABLE activity ADD COLUMN receipts_by UInt16")
        activity = await few(world, archiver, 8)
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
        for table, rows in (("report_days", 1), ("report_series", 1)):
            assert (await world.query(f"SELECT count() >= {rows} FROM {table}")) == [(1,)]
        # What it looks at before it reads `report_days`: from which month on that is whole.
        assert await world.query("SELECT max(from_month) > 210000 FROM report_day_filled") == [(1,)]
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
    ages: dict[str, list[float]] = defaultdict(list)
    for row in activity.archived:
        if row.event == "delivered":
            ages[row.queue].append((row.at_us - row.accepted_at_us) / 1000)
    # Once from the digests of the quarters, once from windows.
    for made in range(2):
        if made:
            await archiver.rounds.make()
        for found in (await reader.summary(query)).rows:
            sorted_ = sorted(ages[str(found.queue)])
            wanted = [sorted_[int(part * len(sorted_))] for part in (0.5, 0.95, 0.99)]
            assert isinstance(found.delivered_after_ms, Quantiles)
            assert msgspec.structs.astuple(found.delivered_after_ms) == pytest.approx(wanted, rel=0.15)


async def test_quantiles_of_classes_are_off_by_less_than_a_class(world: World) -> None:
    rng, parts = Random(3), (0.5, 0.95, 0.99)
    times = sorted(int(rng.lognormvariate(10, 2)) + 1 for _ in range(5000))
    wanted = [times[math.ceil(part * len(times)) - 1] for part in parts]
    for found, expected in ((times, wanted), ([1000], [1000] * 3), ([], [])):
        # Each by itself, which are added up.
        times_sql = f"SELECT arrayJoin({found}::Array(UInt32)) AS t"
        maps_sql = f"SELECT map({class_sql('t')}, toUInt64(1)) AS m FROM ({times_sql})"
        sums_sql = f"SELECT {summed_sql('m')} FROM ({maps_sql})"
        [(quantiles,)] = await world.query(f"SELECT {quantiles_sql('m', parts)} FROM ({sums_sql})")
        assert [q for q in quantiles if q == q] == pytest.approx(expected, rel=0.09)


@pytest.mark.parametrize(
    ("changed", "long"),
    [
        ({}, True),
        ({"group_by": ("day",), "time_zone": "Asia/Tehran"}, True),
        ({"from_s": FIRST_S + 900}, True),
        ({"group_by": ("hour",)}, False),
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
