"""The busiest minutes, read from real activity."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.capacity import traffic
from engine.capacity.peaks import Peak
from engine.records import ActivityRow
from engine.stores.clickhouse.traffic import ClickHouseTraffic
from tests.activity.world import T0, World, blob_of, make_row, new_world

MINUTE_US = 60_000_000
# The beginning of a minute.
START_US = T0 // MINUTE_US * MINUTE_US


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


def accepted(at_us: int, organisation_id: int, queue: str = "normal", count: int = 1) -> list[ActivityRow]:
    return [
        make_row(
            3 * (at_us - START_US + n),
            at_us=at_us,
            accepted_at_us=at_us,
            organisation_id=organisation_id,
            queue=queue,
            event="accepted",
            segments=2,
            provider="",
            latency_us=0,
        )
        for n in range(count)
    ]


def answered(at_us: int, milliseconds: int, queue: str = "normal") -> ActivityRow:
    return make_row(
        1,
        at_us=at_us,
        organisation_id=1,
        queue=queue,
        event="sent",
        provider="sim",
        latency_us=milliseconds * 1000,
    )


async def test_the_busiest_minute_of_each_queue_has_its_organisations_and_their_bursts(world: World) -> None:
    busy_us = START_US + 5 * MINUTE_US
    rows = [
        # A quieter minute, with a larger burst.
        *accepted(START_US, 1, count=50),
        # The busiest: a burst of 40, one of 5, and 30 that come one after another.
        *accepted(busy_us, 1, count=40),
        *accepted(busy_us + 20_000_000, 1, count=5),
        *(row for n in range(30) for row in accepted(busy_us + n * 1_000_000, 2)),
        *accepted(busy_us + 3 * MINUTE_US, 3, queue="express"),
        *(answered(busy_us + n, 100 + n) for n in range(101)),
    ]
    await world.store.insert(block_of([ActivityEntry(shard=0, id=(1, 0), blob=blob_of(rows))])[0], "t")
    now_us = START_US + 86_400_000_000
    reader = ClickHouseTraffic(world.clickhouse_url, lambda: now_us)
    express, normal = (await reader.traffic(2)).busiest
    assert (express.messages, express.response_ms) == (1, {})
    assert (normal.at_s, normal.messages, normal.segments) == (busy_us // 1_000_000, 75, 150)
    assert [(o.organisation_id, o.messages, o.burst) for o in normal.organisations] == [
        (1, 45, 40),
        (2, 30, 1),
    ]
    assert normal.response_ms["p50"] == pytest.approx(150, abs=2)
    assert normal.response_ms["p99"] == pytest.approx(199, abs=2)
    assert traffic.peaks_of([normal]) == [Peak("1", "normal", 0.75, 40), Peak("2", "normal", 0.5, 1)]
    assert traffic.segments_of([express, normal]) == 2
    times = traffic.response_times_of(normal)
    assert times is not None
    assert times.quantile_s(0.5) == pytest.approx(0.15, abs=0.002)
    assert traffic.response_times_of(express) is None
    # Nothing since then.
    now_us += 86_400_000_000
    assert (await reader.traffic(1)).busiest == []
    await reader.close()
