"""Reports over divisions say to the unit what the rows say, and their times are those of one database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.activity.report_rolling import MARGIN_MS
from engine.activity.reports import Group, Report, ReportQuery
from engine.errors import Refusal
from engine.stores.clickhouse import report_bounds, reports
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.clickhouse.divided.reports import DividedReports
from engine.stores.clickhouse.division import urls_of
from engine.stores.clickhouse.reports import ClickHouseReports
from engine.stores.clickhouse.traffic import ClickHouseTraffic
from engine.stream_id import StreamId
from tests.activity.world import T0, World, blob_of, make_row
from tests.stores.clickhouse.divided.conftest import asked
from tests.stores.clickhouse.report_scene import (
    DAY_S,
    NOW_S,
    QUERIES,
    TIMES,
    ZONES,
    Activity,
    Archiver,
    Reader,
    counts,
)


class Both:
    """The same activity in one database and in two divisions."""

    def __init__(self, world: World, url: str) -> None:
        self.url, self.one, self.store = url, world.store, DividedActivityStore(url)
        self.activity = Activity(SimpleNamespace(store=self), 11)  # type: ignore[arg-type]
        self.divided = DividedReports(url)
        self.divided.divisions = [Reader(one) for one in urls_of(url)]
        self.plain = Reader(world.clickhouse_url)
        places = [world.clickhouse_url, *urls_of(url)]
        self.archivers = [
            Archiver(SimpleNamespace(clickhouse_url=place, stream=world.stream))  # type: ignore[arg-type]
            for place in places
        ]

    async def insert(self, block: Any, token: str) -> None:
        for store in (self.one, self.store):
            await store.insert(block, token)

    async def count(self) -> None:
        """Have everything counted, in each division by itself."""
        for archiver in self.archivers:
            archiver.now_ms = self.archivers[0].now_ms
            await archiver.rounds.make()

    async def close(self) -> None:
        for one in (self.store, self.divided, self.plain, *(a.periods for a in self.archivers)):
            await one.close()


@pytest.fixture
async def both(world: World, url: str) -> AsyncIterator[Both]:
    both = Both(world, url)
    yield both
    await both.close()


def times(report: Report) -> list[dict[str, Any]]:
    return [
        {name: of for name, of in msgspec.to_builtins(row).items() if name in TIMES} for row in report.rows
    ]


async def assert_alike(both: Both, queries: list[ReportQuery]) -> None:
    wrong = []
    for query in queries:
        divided, plain = await both.divided.summary(query), await both.plain.summary(query)
        assert divided.complete is plain.complete is True
        assert counts(divided.rows) == counts(plain.rows), query
        for found, expected in zip(times(divided), times(plain), strict=True):
            for name, of in expected.items():
                # Classes are 9 % wide, and digests of few times are rough.
                if (of is None) != (found[name] is None) or (
                    of is not None and found[name] != pytest.approx(of, rel=0.2)
                ):
                    wrong.append((query, name, found[name], of))
    assert not wrong


async def test_reports_agree_with_the_rows_whatever_each_division_has_counted(both: Both) -> None:
    activity = both.activity
    activity.accept(900, 400)
    activity.accept(300, 20)
    begun_ms = NOW_S * 1000 - 60_000
    await activity.archive(begun_ms - 400 * DAY_S * 1000, begun_ms, 0.6)
    of_all = [query for query in QUERIES if query.organisation_id is None]

    async def agree(most: int) -> None:
        for query in activity.rng.sample(of_all, most) + activity.rng.sample(QUERIES, 5):
            found = await both.divided.summary(query)
            assert counts(found.rows) == counts(activity.report(query)), query

    # Nothing is counted but by the views.
    await agree(15)
    for zone in ZONES[1:3]:
        await asked(both.url, f"INSERT INTO report_zones VALUES ('{zone}', today(), today())")
    # One division has counted, the other not yet.
    await both.archivers[1].rounds.make()
    await agree(15)
    await both.archivers[2].rounds.make()
    await agree(25)
    # What came since, then counted.
    activity.accept(100, 3)
    await activity.archive(NOW_S * 1000 - 5_000, NOW_S * 1000 + 40_000, 0.5)
    await agree(10)
    both.archivers[0].now_ms += MARGIN_MS + 60_000
    await both.count()
    await agree(10)


async def test_times_are_those_of_one_database(both: Both) -> None:
    both.activity.accept(1500, 12)
    await both.activity.archive((NOW_S - 12 * DAY_S) * 1000, NOW_S * 1000 - 60_000, 1)
    groups: list[tuple[Group, ...]] = [(), ("provider",), ("day",), ("queue", "hour"), ("country",)]
    whole = [
        ReportQuery(from_s=(NOW_S // DAY_S - 10) * DAY_S, until_s=NOW_S // DAY_S * DAY_S, group_by=group)
        for group in groups
    ]
    # Minute by minute, event by event, and of a few hours.
    short = [
        ReportQuery(from_s=(NOW_S // DAY_S - 2) * DAY_S, until_s=(NOW_S // DAY_S - 1) * DAY_S, group_by=group)
        for group in (*groups, ("minute",), ("reference",), ("organisation", "status"))
    ]
    await assert_alike(both, whole + short)
    await both.count()
    await assert_alike(both, whole + short)


async def test_a_report_that_is_too_large_is_refused_and_its_zone_noted_in_each_division(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.activity.accept(300, 12)
    await both.activity.archive((NOW_S - 12 * DAY_S) * 1000, NOW_S * 1000 - 60_000, 1)
    query = ReportQuery(
        from_s=(NOW_S // DAY_S - 10) * DAY_S, until_s=NOW_S // DAY_S * DAY_S,
        group_by=("day",), time_zone="Asia/Tehran",
    )  # fmt: skip
    await both.divided.summary(query)
    assert await asked(both.url, "SELECT zone FROM report_zones") == [[("Asia/Tehran",)]] * 2
    for module in (reports, report_bounds):
        monkeypatch.setattr(module, "GROUPS_MAX", 3, raising=False)
    with pytest.raises(Refusal, match="more than 3 groups"):
        await both.divided.summary(query)


async def test_an_organisation_is_asked_for_in_its_division_alone(url: str) -> None:
    first, _ = urls_of(url)
    reader = DividedReports(f"{first} http://127.0.0.1:9/none")
    assert reader.of(0) is reader.divisions[0]
    query = ReportQuery(from_s=NOW_S - DAY_S, until_s=NOW_S, group_by=(), organisation_id=0)
    assert (await reader.summary(query)).rows == []
    await reader.close()


async def test_the_busiest_minute_is_that_of_all_divisions_together(world: World, url: str) -> None:
    store = DividedActivityStore(url)
    minutes = [T0 // 60_000_000 * 60_000_000 + n * 60_000_000 for n in range(3)]
    # Each division has a minute of its own in which it was busier.
    events = [(minutes[0], 0, 9), (minutes[1], 1, 8), (minutes[2], 0, 7), (minutes[2], 1, 7)]
    rows, number = [], 0
    for at_us, organisation, count in events:
        for n in range(count):
            number += 1
            same = {"organisation_id": organisation, "message_id": f"m{number}", "accepted_at_us": at_us}
            rows.append(make_row(0, at_us=at_us, event="accepted", provider="", latency_us=0, **same))
            latency_us = 100_000 + 400_000 * organisation + n
            rows.append(
                make_row(1, at_us=at_us + 5, event="sent", provider="a", latency_us=latency_us, **same)
            )
    block = block_of([ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))])[0]
    found = []
    for of, place in ((world.store, world.clickhouse_url), (store, url)):
        await of.insert(block, "one")
        reader = ClickHouseTraffic(place, lambda: T0 + 600_000_000)
        found.append((await reader.traffic(1)).busiest)
        await reader.close()
    await store.close()
    [plain], [divided] = found
    assert (divided.at_s, divided.messages) == (minutes[2] // 1_000_000, 14)
    same = {name: getattr(plain, name) for name in plain.__struct_fields__ if name != "response_ms"}
    assert {name: getattr(divided, name) for name in same} == same
    assert divided.response_ms == pytest.approx(plain.response_ms, rel=0.02)


async def test_a_report_of_one_division_is_that_of_the_server(world: World) -> None:
    reader = DividedReports(world.clickhouse_url)
    query = ReportQuery(from_s=NOW_S - DAY_S, until_s=NOW_S, group_by=())
    plain = ClickHouseReports(world.clickhouse_url)
    assert await reader.summary(query) == await plain.summary(query)
    await reader.close()
    await plain.close()
