"""What a report finds in ClickHouse's answers is added up, with the quantiles of its times."""

from __future__ import annotations

import math
from collections import defaultdict
from random import Random
from typing import Any

import msgspec
import pytest

from engine.stores.clickhouse import report_together
from engine.stores.clickhouse._report_sums import ReportSums
from engine.stores.clickhouse.reports import ClickHouseReports
from engine.stores.clickhouse.time_classes import class_sql
from tests.activity.world import World
from tests.stores.clickhouse.report_scene import (
    DAY_S,
    NOW_S,
    QUERIES,
    ZONES,
    Activity,
    Archiver,
    Reader,
    assert_all_agree,
    counts,
    few,
)

# Groups of every type, of numbers and texts of all sizes, with maps of no time, of one and of many.
_ROWS = """
SELECT toInt64(number % 3) - 1 AS g0, toUInt16(number % 2 * 40000) AS g1,
    toLowCardinality(repeat('é', number % 2 * 100)) AS g2, ['sent', 'delivered'][1 + number % 2] AS g3,
    number + 18446744073709551000 AS n, number AS parts, toUInt64(1) AS held,
    mapFromArrays(arrayMap(i -> toUInt16(i * 59 + number % 5), range(number % 7 * 20)),
        arrayMap(i -> toUInt64(1 + i * number), range(number % 7 * 20))) AS of_answers,
    map(toUInt16(8000 * (number % 2)), toUInt64(number % 4)) AS of_ages
FROM numbers(200)"""
_FORMAT = "Native"


async def answer(world: World, sql: str) -> bytes:
    client = await world.store._connected()
    found: bytes = await client.raw_query(sql, fmt=_FORMAT)
    return found


def quantile(times: dict[int, int], part: float) -> float:
    """Of times by class: as if those of each were spread evenly by their logarithm."""
    wanted, below = part * sum(times.values()), 0
    for place in sorted(times):
        below += times[place]
        if times[place] and below >= wanted:
            return float(2 ** ((place + 1 - (below - wanted) / times[place]) / 8))
    return math.nan


async def test_rows_of_a_group_are_added_up_and_so_are_their_times(world: World) -> None:
    sums = ReportSums()
    # Two answers, whose columns may have other types, as those of two tables have.
    for sql in (_ROWS, _ROWS.replace("toInt64(number", "toInt32(number").replace("toLowCardinality", "")):
        sums.add(await answer(world, sql))
    measures: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    times: dict[tuple[Any, ...], list[dict[int, int]]] = defaultdict(lambda: [{}, {}])
    for *group, n, parts, held, answers, ages in 2 * [*await world.query(_ROWS)]:
        for place, more in enumerate((n, parts, held)):
            measures[*group][place] = (measures[*group][place] + more) % 2**64
        for of, more in zip(times[*group], (answers, ages), strict=True):
            for key, count in more.items():
                of[key] = of.get(key, 0) + count
    found = {row[:4]: row[4:] for row in sums.rows()}
    assert {group: [*row[:3]] for group, row in found.items()} == measures
    for group, row in found.items():
        for quantiles, of in zip(row[3:], times[group], strict=True):
            expected = [quantile(of, part) for part in (0.5, 0.95, 0.99)] if any(of.values()) else []
            assert list(quantiles) == pytest.approx(expected, rel=1e-12)


async def test_quantiles_of_classes_are_off_by_less_than_a_class(world: World) -> None:
    rng = Random(3)
    times = sorted(int(rng.lognormvariate(10, 2)) + 1 for _ in range(5000))
    wanted = [times[math.ceil(part * len(times)) - 1] for part in (0.5, 0.95, 0.99)]
    for found, expected in ((times, wanted), ([1000], [1000] * 3)):
        one = f"map({class_sql('t')}, toUInt64(1))"
        sums = ReportSums()
        sums.add(
            await answer(
                world,
                f"SELECT 'sent' AS g0, toUInt64(1) AS n, toUInt64(1) AS parts, toUInt64(1) AS held, "
                f"{one} AS of_answers, {one} AS of_ages FROM (SELECT arrayJoin({found}::Array(UInt32)) AS t)",
            )
        )
        [(*_, answers, ages)] = sums.rows()
        assert answers == ages
        assert list(answers) == pytest.approx(expected, rel=0.09)


async def test_an_answer_that_broke_off_is_refused_wherever_it_did(world: World) -> None:
    whole = await answer(world, _ROWS.replace("numbers(200)", "numbers(5)"))
    rows = {len(whole)}
    for size in range(1, len(whole)):
        sums = ReportSums()
        try:
            sums.add(whole[:size])
        except ValueError:
            continue
        # Between two rows nothing tells.
        rows.add(size)
    assert len(rows) == 6
    # Nothing, as of a statement that reads nothing.
    sums = ReportSums()
    sums.add(b"")
    assert sums.rows() == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'sent' AS g0, toNullable(toUInt64(1)) AS n",
        "SELECT 'sent' AS g0, toUInt64(1) AS of_ages",
        "SELECT map(toUInt16(1), toUInt64(1)) AS g0, toUInt64(1) AS n",
    ],
)
async def test_a_column_of_another_type_is_refused(world: World, sql: str) -> None:
    found = await answer(world, sql)
    with pytest.raises(ValueError, match=r"^The column \w+ has the type .+\.$"):
        ReportSums().add(found)


async def test_rows_without_an_event_say_how_far_series_are_counted(world: World) -> None:
    sql = (
        "SELECT 1 AS g0, ['', 'sent', ''][number + 1] AS g1, toUInt64(1) AS n, toUInt64(1) AS parts, "
        "toUInt64(1) AS held, number = {lost} AS lost, (number + 1) * 1000000000000 AS counted0, "
        "5 * (number = 0) AS counted1 FROM numbers(3)"
    )
    for lost in (1, 7):
        sums = ReportSums()
        sums.add(await answer(world, sql.format(lost=lost)))
        assert sums.rows() == [(1, "sent", 1, 1, 1, (), ())]
        assert (sums.counted, sums.lost) == ([3_000_000_000_000, 5], lost < 3)


class Counting(Reader):
    """Notes what is asked."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[str] = []
        # From where on rows were read, milliseconds since 1970.
        self.later_ms: list[int] = []

    async def _query(self, sql: str, parameters: dict[str, Any]) -> Any:
        self.asked.append(sql)
        return await super()._query(sql, parameters)

    async def _answer(self, sql: str, parameters: dict[str, Any]) -> bytes:
        self.asked.append(sql)
        if "until" in parameters:
            self.later_ms.append(parameters["until"])
        return await super()._answer(sql, parameters)


async def test_which_series_there_are_is_not_asked_for_each_report_and_their_counts_are_right_as_they_go_on(
    world: World, archiver: Archiver
) -> None:
    activity, reader = await few(world, archiver, 41), Counting(world.clickhouse_url)
    await archiver.rounds.make()
    for round_ in range(4):
        reader.asked.clear()
        await assert_all_agree(reader, activity, 3, ZONES[:2])
        assert sum("max(filled)" in sql for sql in reader.asked) == (round_ == 0)
        activity.accept(40, 3)
        await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.5)
        archiver.now_ms += 100_000
        await archiver.rounds.make()
    await reader.close()


async def test_a_series_that_was_dropped_or_lost_its_narrow_counts_is_found_out_by_what_is_read(
    world: World, archiver: Archiver
) -> None:
    activity, reader = await few(world, archiver, 42), Counting(world.clickhouse_url)
    await archiver.rounds.make()
    await assert_all_agree(reader, activity, 5, ZONES[:2])
    [utc] = await archiver.periods.series()
    # A process of an earlier version counts on without narrow counts.
    activity.accept(40, 3)
    await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 1)
    archiver.now_ms += 100_000
    await archiver.periods.roll(msgspec.structs.replace(utc, narrow=False), archiver.now_ms - 40_000)
    await assert_all_agree(reader, activity, 5, ZONES[:2])
    # First its windows go, then the rest.
    await world.query(f"ALTER TABLE report_series DROP PARTITION ('UTC', {utc.from_ms}, 0)")
    await assert_all_agree(reader, activity, 5, ZONES[:2])
    await archiver.periods.drop(utc)
    await assert_all_agree(reader, activity, 5, ZONES[:2])
    await archiver.rounds.make()
    await assert_all_agree(reader, activity, 5, ZONES[:2])
    # Rows of long ago may be removed: what was counted of them is not read from them.
    assert min(reader.later_ms) >= utc.until_ms
    await reader.close()


async def test_counts_that_are_too_many_to_be_read_as_they_are_are_added_up_and_say_the_same(
    world: World, archiver: Archiver, reader: ClickHouseReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity = Activity(world, 43)
    activity.accept(1500, 60)
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - 60 * DAY_S * 1000, begun_ms, 0.7)
    await archiver.rounds.make()
    await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.5)
    queries = [
        msgspec.structs.replace(query, from_s=NOW_S // 900 * 900 - 50 * DAY_S, until_s=NOW_S // 900 * 900)
        for query in QUERIES
        if query.time_zone == "UTC" and query.group_by in (("day",), ("provider", "day", "queue"))
    ]
    assert len({query.group_by for query in queries}) == 2
    as_they_are = [(await reader.summary(query)).rows for query in queries]
    monkeypatch.setattr(report_together, "_AS_THEY_ARE_MAX", 1)
    added_up = [(await reader.summary(query)).rows for query in queries]
    assert added_up == as_they_are
    assert [counts(rows) for rows in added_up] == [counts(activity.report(query)) for query in queries]
    assert any(row.sent_after_ms for rows in added_up for row in rows)
