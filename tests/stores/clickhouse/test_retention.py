"""How long what is recorded stays, and that a start changes only what is to be changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.stores.clickhouse.lost_time import LostTime
from engine.stores.clickhouse.retention import KeptDays, keep_for
from engine.stream_id import StreamId
from tests.activity.world import World, blob_of, make_row, new_world, until

DAY_US = 86_400_000_000


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


async def keep(world: World, numbers_days: int, minutes_days: int) -> list[str]:
    return await keep_for(world.clickhouse_url, KeptDays(numbers_days, 0, minutes_days), timeout_s=30)


async def test_numbers_and_minutes_go_after_their_days_and_nothing_else_does(world: World) -> None:
    [(now_us,)] = await world.query("SELECT toUnixTimestamp64Micro(now64(6))")
    ages = {1: 5, 2: 20, 3: 50}
    rows = [
        make_row(
            0, organisation_id=organisation, event="accepted", units=7, to="+989120000001",
            at_us=now_us - days * DAY_US, accepted_at_us=now_us - days * DAY_US,
        )
        for organisation, days in ages.items()
    ]  # fmt: skip
    await world.store.insert(
        block_of([ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))])[0], "t"
    )

    async def numbers() -> list[tuple[int, str]]:
        return [(o, to) for o, to in await world.query("SELECT organisation_id, to FROM activity ORDER BY 1")]

    assert await keep(world, 0, 400) == ["report_minutes"]
    assert await keep(world, 10, 40) == ["activity", "report_minutes"]
    assert await keep(world, 10, 40) == [], "all is as it should be"

    async def gone() -> bool:
        minutes = await world.query("SELECT organisation_id FROM report_minutes ORDER BY 1")
        return await numbers() == [(1, "+989120000001"), (2, ""), (3, "")] and minutes == [(1,), (2,)]

    await until(gone, 60)
    assert await world.query("SELECT sum(units) FROM activity") == [(21,)]
    assert await world.query("SELECT sum(units), uniqExact(country) FROM report_quarters") == [(21, 1)]
    assert await keep(world, 0, 400) == ["activity", "report_minutes"]
    assert await keep(world, 0, 400) == []


async def test_months_of_events_and_of_what_recipients_wrote_go_as_a_whole_and_their_counts_stay(
    world: World,
) -> None:
    [(now_us,)] = await world.query("SELECT toUnixTimestamp64Micro(now64(6))")
    rows = [
        make_row(
            0, organisation_id=days, event="accepted", units=7, to="+989120000001",
            at_us=now_us - days * DAY_US, accepted_at_us=now_us - days * DAY_US,
        )
        for days in (5, 200)
    ]  # fmt: skip
    entry = ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))
    await world.store.insert(block_of([entry])[0], "t")
    for days in (5, 200):
        await world.query(
            "INSERT INTO inbound_messages (organisation_id, at, id) "
            f"VALUES ({days}, now64(6) - INTERVAL {days} DAY, 'a')"
        )
    lost = LostTime(world.store)
    assert await lost.complete_from_ms(10) == 0
    kept = KeptDays(events=62, inbound=62, minutes=400)
    assert await keep_for(world.clickhouse_url, kept, 30) == [
        "activity",
        "report_minutes",
        "inbound_messages",
    ]
    assert await keep_for(world.clickhouse_url, kept, 30) == [], "all is as it should be"

    async def left(table: str) -> list[tuple[int]]:
        return [tuple(row) for row in await world.query(f"SELECT organisation_id FROM {table} ORDER BY 1")]

    async def gone() -> bool:
        return await left("activity") == await left("inbound_messages") == [(5,)]

    await until(gone, 60)
    assert await world.query("SELECT sum(units) FROM report_quarters") == [(14,)]
    # An audit that begins before this would miss what is gone.
    from_ms = await lost.complete_from_ms(10)
    month_s = 31 * 86_400
    end_s = now_us // 1_000_000 - 200 * 86_400
    assert end_s < from_ms // 1000 - 43 * 86_400 <= end_s + month_s
    # So it is when all of it is gone.
    await world.query("ALTER TABLE activity DELETE WHERE 1 SETTINGS mutations_sync = 1")
    assert await lost.complete_from_ms(10) > now_us // 1000
    assert await keep_for(world.clickhouse_url, KeptDays(minutes=400), 30) == ["activity", "inbound_messages"]


async def test_texts_go_after_their_days_and_all_of_them_when_none_are_recorded_any_more(
    world: World,
) -> None:
    [(now_us,)] = await world.query("SELECT toUnixTimestamp64Micro(now64(6))")
    rows = [
        make_row(
            0, organisation_id=days, event="accepted", to="+989120000001", text=f"{days} days",
            at_us=now_us - days * DAY_US, accepted_at_us=now_us - days * DAY_US,
        )
        for days in (5, 20)
    ]  # fmt: skip
    entry = ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))
    await world.store.insert(block_of([entry])[0], "t")

    async def texts() -> list[str]:
        return [text for (text,) in await world.query("SELECT text FROM activity ORDER BY organisation_id")]

    async def gone(left: list[str]) -> bool:
        return await texts() == left

    default = KeptDays(minutes=400)
    assert await keep_for(world.clickhouse_url, default, 30) == ["report_minutes"]
    assert await texts() == ["5 days", "20 days"]
    assert await keep_for(world.clickhouse_url, KeptDays(minutes=400, texts=10), 30) == ["activity"]
    assert await keep_for(world.clickhouse_url, KeptDays(minutes=400, texts=10), 30) == []
    await until(partial(gone, ["5 days", ""]), 60)
    assert await keep_for(world.clickhouse_url, default, 30) == ["activity"]
    assert await keep_for(world.clickhouse_url, default, 30) == []
    await until(partial(gone, ["", ""]), 60)
    assert await world.query("SELECT count(), uniqExact(to) FROM activity") == [(2, 1)]
