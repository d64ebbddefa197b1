"""Counting for reports that is stopped, frozen, done twice or fails: everything is counted once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from engine.activity.report_rolling import MARGIN_MS, VISIBLE_S, ReportRounds, Series
from engine.errors import Unavailable
from engine.redis_keys import activity_key
from engine.stores.clickhouse.report_periods import ClickHouseReportPeriods
from engine.stores.clickhouse.reports import ClickHouseReports
from tests.activity.world import World
from tests.stores.clickhouse.report_scene import (
    ZONES,
    Archiver,
    ask,
    assert_all_agree,
    few,
)


class Killed(Exception):
    """The process ends here."""


class Dying(ClickHouseReportPeriods):
    """Ends after so many statements that change something: whether it knows of the last one is the same."""

    left = 10**9

    async def _run(self, sql: str, *rest: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed
        await super()._run(sql, *rest)


@pytest.mark.parametrize("zones", [("UTC",), ("UTC", "Asia/Kolkata")])
async def test_killed_at_any_statement_everything_is_counted_once(
    world: World, archiver: Archiver, reader: ClickHouseReports, zones: tuple[str, ...]
) -> None:
    activity = await few(world, archiver, 3, 8)
    if len(zones) > 1:
        await archiver.rounds.make()
        await ask(world, *zones[1:])
    dying, steps = Dying(world.clickhouse_url), 0
    rounds = ReportRounds(dying, world.stream, lambda: True, lambda: archiver.now_ms * 1000, visible_s=0)
    while True:
        dying.left = steps
        try:
            await rounds.make()
            break
        except Killed:
            steps += 1
            # What is younger than that may not be there yet.
            await activity.archive(archiver.now_ms - MARGIN_MS + 1_000, archiver.now_ms, 0.05)
            archiver.now_ms += 1_000
            if steps % 4 == 0:
                await assert_all_agree(reader, activity, 3, zones)
    await dying.close()
    assert steps > 7
    assert sorted((s.zone, s.filled) for s in await archiver.periods.series()) == sorted(
        (zone, True) for zone in zones
    )
    await assert_all_agree(reader, activity, 10, zones)
    await archiver.rounds.make()
    left = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name LIKE '%filling%'"
    assert await world.query(left) == [(0,)]


async def test_two_archivers_at_once_count_once(
    world: World, archiver: Archiver, reader: ClickHouseReports
) -> None:
    activity, other = await few(world, archiver, 4), Archiver(world)
    await ask(world, "Asia/Tehran", "America/New_York")
    for _ in range(3):
        # One drops what the other works on, which then fails and is done again.
        await asyncio.gather(archiver.rounds.make(), other.rounds.make(), return_exceptions=True)
        await archiver.rounds.make()
        activity.accept(20, 2)
        await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.5)
        archiver.now_ms, other.now_ms = archiver.now_ms + 210_000, archiver.now_ms + 240_000
    await other.periods.close()
    await assert_all_agree(reader, activity, 10)
    await archiver.rounds.make()
    zones = [s.zone for s in await archiver.periods.series() if s.filled]
    assert len(set(zones)) == len(zones)
    assert {"America/New_York", "Asia/Tehran", "UTC"} <= set(zones)


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


async def test_a_zone_that_was_filled_by_one_that_was_frozen_is_counted_once(
    world: World, archiver: Archiver, reader: ClickHouseReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity, frozen = await few(world, archiver, 12), Archiver(world)
    await archiver.rounds.make()
    await ask(world, "Asia/Tehran")
    finish = frozen.periods._finish

    async def late(*of: Any) -> None:
        # Meanwhile another goes on: it does not know of what this one has begun, and drops it.
        await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.5)
        archiver.now_ms += 300_000
        await archiver.rounds.make()
        await finish(*of)

    monkeypatch.setattr(frozen.periods, "_finish", late)
    await frozen.rounds.make()
    for _ in range(2):
        await assert_all_agree(reader, activity, 10, ("UTC", "Asia/Tehran"))
        await archiver.rounds.make()
    assert sorted(s.zone for s in await archiver.periods.series()) == ["Asia/Tehran", "UTC"]
    await frozen.periods.close()


async def test_a_zone_that_cannot_be_filled_or_counted_holds_up_no_other(
    world: World, archiver: Archiver, reader: ClickHouseReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity, tried = await few(world, archiver, 13), list[str]()
    await ask(world, *ZONES[1:4])
    derive, roll = archiver.periods.derive, archiver.periods.roll

    async def failing(zone: str, utc: Series) -> AsyncGenerator[float, None]:
        tried.append(zone)
        if zone == "Asia/Kolkata":
            raise Unavailable("no")
        async for part in derive(zone, utc):
            yield part

    monkeypatch.setattr(archiver.periods, "derive", failing)
    await archiver.rounds.make()
    assert sorted(tried) == sorted(ZONES[1:4])
    assert {s.zone for s in await archiver.periods.series()} == {"UTC", "Asia/Tehran", "America/New_York"}
    assert archiver.progress.filling == {"Asia/Kolkata": 0.0}
    # It is tried again, and ever more rarely.
    for _ in range(20):
        archiver.now_ms += 60_000
        await archiver.rounds.make()
    assert tried[3:] == ["Asia/Kolkata"] * 4

    async def not_tehran(series: Series, until_ms: int) -> None:
        if series.zone == "Asia/Tehran":
            raise Unavailable("no")
        await roll(series, until_ms)

    monkeypatch.setattr(archiver.periods, "derive", derive)
    monkeypatch.setattr(archiver.periods, "roll", not_tehran)
    stands_ms = archiver.progress.until_ms
    archiver.now_ms += 3_600_000
    await archiver.rounds.make()
    found = {s.zone: s.until_ms for s in await archiver.periods.series() if s.filled}
    assert found.pop("Asia/Tehran") == archiver.progress.until_ms == stands_ms
    assert found == dict.fromkeys(("UTC", "Asia/Kolkata", "America/New_York"), archiver.now_ms - MARGIN_MS)
    assert archiver.progress.filling == {}
    await assert_all_agree(reader, activity, 15)


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


async def test_what_left_the_streams_a_moment_ago_is_not_counted_yet(
    world: World, archiver: Archiver
) -> None:
    rounds = ReportRounds(archiver.periods, world.stream, lambda: True, lambda: archiver.now_ms * 1000)

    async def counted_ms() -> int:
        await rounds.make()
        return max([series.until_ms for series in await archiver.periods.series()], default=0)

    # Rows of an hour wait, as when ClickHouse was away.
    begin_ms = archiver.now_ms
    for minute in range(60):
        await world.redis.xadd(activity_key(1), {"b": b""}, id=f"{begin_ms + minute * 60_000}-0")
    archiver.now_ms += 3_600_000
    # Nobody has looked before: what was there a moment ago may have left since.
    assert await counted_ms() == 0
    # Ten of them leave, by an insert that was sent twice: the answer was that it is known.
    await world.redis.xtrim(activity_key(1), minid=begin_ms + 600_000, approximate=False)
    archiver.now_ms += 10_000
    assert await counted_ms() == 0
    archiver.now_ms += int(VISIBLE_S * 1000) - 10_000
    assert await counted_ms() == begin_ms
    archiver.now_ms += 10_000
    assert await counted_ms() == begin_ms + 600_000
    await world.redis.flushdb()
    archiver.now_ms += 20_000
    assert await counted_ms() == begin_ms + 600_000
    archiver.now_ms += int(VISIBLE_S * 1000)
    assert await counted_ms() == archiver.now_ms - MARGIN_MS
    # With a clock that goes back it is looked anew.
    archiver.now_ms -= 3_600_000
    assert await rounds._settled_ms() is None


async def test_an_archiver_whose_turn_comes_again_goes_on_where_another_has_counted(
    world: World, archiver: Archiver
) -> None:
    mine, other = (
        ReportRounds(archiver.periods, world.stream, lambda: True, lambda: archiver.now_ms * 1000)
        for _ in range(2)
    )
    for rounds in (mine, mine, *[other] * 10):
        archiver.now_ms += 60_000
        await rounds.make()
    [begun] = await archiver.periods.series()
    archiver.now_ms += 60_000
    await mine.make()
    # When it looked last says nothing of how far the other has counted since, nor of the clock of Redis.
    assert await archiver.periods.series() == [begun]
    archiver.now_ms += 60_000
    await mine.make()
    [series] = await archiver.periods.series()
    assert series.from_ms == begun.from_ms
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
