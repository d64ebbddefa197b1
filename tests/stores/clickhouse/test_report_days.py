"""Reports of a month or more in days of UTC say the same from counts by day as from those by quarters."""

from __future__ import annotations

import math
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from engine.activity.reports import ReportQuery, ReportRow
from engine.stores import migrate
from engine.stores.clickhouse.report_fill import ClickHouseDayFill
from engine.stores.clickhouse.reports import ClickHouseReports, of_whole_days, statement
from engine.stores.clickhouse.time_classes import quantiles_of
from engine.stores.migrate import migrate_clickhouse
from tests.activity.world import World, make_row, new_world
from tests.stores.clickhouse.test_reports import DAY_S, SENT, Killed, insert

# 2026-10-24, the day of the first of the messages.
FROM_S = int(datetime(2026, 10, 24, tzinfo=UTC).timestamp())
UNTIL_S = FROM_S + 40 * DAY_S
TIMES = ("answer_ms", "sent_after_ms", "delivered_after_ms")


@pytest.fixture(scope="module")
async def upgraded(
    redis_url: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """Tables that had a third of the messages, and one of September, before there were counts by day."""
    folder, earlier = Path(migrate.__file__).parent / "clickhouse/migrations", tmp_path_factory.mktemp("sql")
    for script in folder.glob("*.sql"):
        if script.name < "0011":
            shutil.copy(script, earlier)
    async with new_world(redis_url, clickhouse_url, earlier) as world:
        await world.query("ALTER TABLE activity ADD COLUMN text String")
        september = make_row(0, accepted_at_us=(FROM_S - 40 * DAY_S) * 1_000_000)
        await insert(world, [*SENT[:200], [september]], "first")
        await migrate_clickhouse(world.clickhouse_url)
        await insert(world, SENT[200:400], "second", ms=2)
        # Twice, as after an insert that was not answered.
        for _ in range(2):
            await insert(world, SENT[400:], "third", ms=2**41)
        yield world


class Dying(ClickHouseDayFill):
    """Ends after so many statements that change something."""

    left = 0

    async def _run(self, sql: str) -> None:
        if not self.left:
            raise Killed
        self.left -= 1
        await super()._run(sql)


async def days_since(world: World) -> int | None:
    reader = ClickHouseReports(world.clickhouse_url)
    since = (await reader._filled())[1]
    await reader.close()
    return since


async def test_rows_of_before_are_counted_once_wherever_the_filling_ends_and_what_was_dropped_is_not_by_day(
    upgraded: World,
) -> None:
    await upgraded.query("ALTER TABLE activity DROP PARTITION 202609")
    fill = Dying(upgraded.clickhouse_url)
    due_ms, steps = await fill.due_ms(), 0
    assert due_ms
    while True:
        fill.left = steps
        try:
            await fill.fill(due_ms)
            break
        except Killed:
            assert await days_since(upgraded) is None
            steps += 1
    assert steps > 4
    assert not await fill.due_ms()
    await fill.close()
    sums = "SELECT sum(events), sum(segments), sum(units) FROM "
    of_days = await upgraded.query(f"{sums} report_days")
    assert of_days == await upgraded.query(f"{sums} report_quarters WHERE toYYYYMM(quarter) > 202609")
    assert await days_since(upgraded) == int(datetime(2026, 10, 1, tzinfo=UTC).timestamp())


def counts(row: ReportRow) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(row).items() if name not in TIMES}


@pytest.mark.parametrize(
    "wanted",
    [
        {"group_by": ()},
        {"group_by": ("status",)},
        {"group_by": ("day",)},
        {"group_by": ("organisation", "queue")},
        {"group_by": ("country", "provider")},
        {"group_by": ("day", "status"), "organisation_id": 2, "queue": "normal"},
        {"group_by": ("country",), "country": "CA", "provider": "a", "time_zone": "Europe/Berlin"},
    ],
)
async def test_counts_by_day_say_what_those_by_quarters_say(upgraded: World, wanted: dict[str, Any]) -> None:
    reader = ClickHouseReports(upgraded.clickhouse_url)
    query = ReportQuery(from_s=FROM_S, until_s=UNTIL_S, **wanted)
    assert " report_days " in statement(query, 0)[0]
    # A second more, in which there is nothing.
    longer = msgspec.structs.replace(query, until_s=UNTIL_S + 1)
    assert " report_quarters " in statement(longer, 0)[0]
    by_day, by_quarter = [(await reader.summary(q)).rows for q in (query, longer)]
    await reader.close()
    assert by_day
    assert [counts(row) for row in by_day] == [counts(row) for row in by_quarter]
    for one, other in zip(by_day, by_quarter, strict=True):
        for name in TIMES:
            times = [getattr(row, name) for row in (one, other)]
            if None in times or msgspec.UNSET in times:
                assert times[0] is times[1]
            else:
                assert msgspec.structs.astuple(times[0]) == pytest.approx(
                    msgspec.structs.astuple(times[1]), rel=0.1
                )


@pytest.mark.parametrize(
    ("changed", "by_day"),
    [
        ({}, True),
        ({"group_by": ("day",), "time_zone": "UTC"}, True),
        ({"group_by": ("day",), "time_zone": "Asia/Tehran"}, False),
        ({"group_by": ("hour",)}, False),
        ({"group_by": ("minute",)}, False),
        ({"group_by": ("reference",)}, False),
        ({"campaign": "spring"}, False),
        ({"from_s": FROM_S + 900}, False),
        ({"until_s": FROM_S + 27 * DAY_S}, False),
        ({"until_s": FROM_S + 28 * DAY_S}, True),
    ],
)
def test_only_long_reports_of_whole_days_are_read_by_day(changed: dict[str, Any], by_day: bool) -> None:
    query = msgspec.structs.replace(ReportQuery(from_s=FROM_S, until_s=UNTIL_S, group_by=()), **changed)
    assert of_whole_days(query) is by_day
    assert (" report_days " in statement(query, FROM_S)[0]) is (by_day and query.from_s >= FROM_S)
    assert " report_days " not in statement(query, FROM_S + 1800)[0]
    assert " report_days " not in statement(query, None)[0]


def test_quantiles_of_classes_are_off_by_less_than_a_class() -> None:
    rng, parts = Random(3), (0.5, 0.95, 0.99)
    times = sorted(int(rng.lognormvariate(10, 2)) + 1 for _ in range(5000))
    classes: dict[int, int] = {}
    for time in times:
        number = math.floor(8 * math.log2(time))
        classes[number] = classes.get(number, 0) + 1
    wanted = [times[math.ceil(part * len(times)) - 1] for part in parts]
    assert quantiles_of(classes, parts) == pytest.approx(wanted, rel=0.09)
    assert quantiles_of({40: 1}, parts) == pytest.approx([2**5] * 3, rel=0.09)
    assert all(map(math.isnan, quantiles_of({}, parts)))
