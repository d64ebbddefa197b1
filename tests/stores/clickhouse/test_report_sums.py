"""What a report finds in ClickHouse's answers is added up, with the quantiles of its times."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import defaultdict
from random import Random
from typing import Any

import msgspec
import pytest

from engine.activity.reports import SUMMED, TIMED, ReportQuery, Sums
from engine.errors import Refusal
from engine.stores.clickhouse import report_together
from engine.stores.clickhouse._report_sums import ReportSums, TooManyGroups
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
    mapFromArrays(arrayMap(i -> toUInt16(i * 4 + number % 5), range(number % 7 * 20)),
        arrayMap(i -> toUInt64(1 + i * number), range(number % 7 * 20))) AS of_answers,
    map(toUInt16(495 * (number % 2)), toUInt64(number % 4)) AS of_ages
FROM numbers(200)"""
_FORMAT = "Native"
# A count that is taken off one day as it is added to another, one that is added alone, and one taken off
# alone.
_NOWHERE = 2**32 - 1
_MOVED = f"""
SELECT ['a', 'b'][1 + number % 2] AS g0, toUInt32(if(number % 3 = 2, {_NOWHERE}, 7 + number % 5)) AS g1,
    'sent' AS g2, number AS n, 2 * number AS parts, 3 * number AS held,
    map(toUInt16(number), number) AS of_answers, map(toUInt16(80), number) AS of_ages,
    toUInt32(if(number % 3 = 1, {_NOWHERE}, 8 + number % 5)) AS off1
FROM numbers(300)"""


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


Rows = dict[tuple[Any, ...], tuple[list[int], dict[str, list[float]]]]


def rows(sums: Sums) -> Rows:
    """By group and event: how many, segments and units, and quantiles by the name of the times; those of
    which there are any."""
    numbers, times = memoryview(sums.numbers).cast("Q"), memoryview(sums.times).cast("d")
    found: Rows = {}
    for i, group in enumerate(sums.groups):
        for j, event in enumerate(SUMMED):
            at = 3 * (i * len(SUMMED) + j)
            if any(numbers[at : at + 3]):
                found[*group, event] = (list(numbers[at : at + 3]), {})
        for j, (event, of) in enumerate(TIMED):
            at = 3 * (i * len(TIMED) + j)
            if not math.isnan(times[at]):
                found[*group, event][1][of] = list(times[at : at + 3])
    return found


async def test_rows_of_a_group_are_added_up_and_so_are_their_times(world: World) -> None:
    sums = ReportSums()
    # Two answers, whose columns may have other types, as those of two tables have.
    for sql in (_ROWS, _ROWS.replace("toInt64(number", "toInt32(number").replace("toLowCardinality", "")):
        sums.add(await answer(world, sql))
    measures: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    times: dict[tuple[Any, ...], dict[str, dict[int, int]]] = defaultdict(
        lambda: {"answer_us": {}, "age_us": {}}
    )
    for *group, n, parts, held, answers, ages in 2 * [*await world.query(_ROWS)]:
        for place, more in enumerate((n, parts, held)):
            measures[*group][place] = (measures[*group][place] + more) % 2**64
        for of, more in (("answer_us", answers), ("age_us", ages)):
            for key, count in more.items():
                times[*group][of][key] = times[*group][of].get(key, 0) + count
    found = rows(sums.sums())
    assert {group: row[0] for group, row in found.items()} == measures
    for group, (_, quantiles) in found.items():
        expected = {
            of: [quantile(times[group][of], part) for part in (0.5, 0.95, 0.99)]
            for event, of in TIMED
            if event == group[-1] and any(times[group][of].values())
        }
        assert quantiles.keys() == expected.keys()
        for of in expected:
            assert quantiles[of] == pytest.approx(expected[of], rel=1e-12)


async def test_a_count_is_taken_off_one_day_as_it_is_added_to_another(world: World) -> None:
    sums = ReportSums()
    sums.add(await answer(world, _MOVED))
    measures: dict[tuple[Any, ...], int] = defaultdict(int)
    times: dict[tuple[Any, ...], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for g0, day, event, n, _, _, answers, _, off in await world.query(_MOVED):
        for sign, at in ((1, day), (-1, off)):
            if at != _NOWHERE:
                measures[g0, at, event] += sign * n
                for key, count in answers.items():
                    times[g0, at, event][key] += sign * count
    found = rows(sums.sums())
    assert _NOWHERE not in {group[1] for group in found}
    assert {group: row[0] for group, row in found.items()} == {
        group: [place * n % 2**64 for place in (1, 2, 3)] for group, n in measures.items()
    }
    # Days that are whole have their times: as many are there as are taken off, or more.
    whole = {group for group in found if min(times[group].values()) >= 0}
    for group in whole:
        expected = [quantile(times[group], part) for part in (0.5, 0.95, 0.99)]
        assert found[group][1]["answer_us"] == pytest.approx(expected, rel=1e-12)


async def test_what_is_added_and_taken_off_again_leaves_no_times(world: World) -> None:
    sums = ReportSums()
    sql = (
        "SELECT toUInt32(5) AS g0, 'sent' AS g1, toUInt64(7) AS n, map(toUInt16(80), toUInt64(7)) AS of_ages"
    )
    sums.add(await answer(world, f"{sql}, toUInt32({_NOWHERE}) AS off0"))
    assert rows(sums.sums())[5, "sent"][1] == {"age_us": pytest.approx([1069.5, 1111.7, 1115.5], rel=1e-3)}
    sums.add(await answer(world, f"{sql.replace('toUInt32(5)', 'toUInt32(6)')}, toUInt32(5) AS off0"))
    found = sums.sums()
    # Nor a group.
    assert found.groups == [(6,)]
    assert rows(found)[6, "sent"][1] == {"age_us": pytest.approx([1069.5, 1111.7, 1115.5], rel=1e-3)}


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
        [(_, quantiles)] = rows(sums.sums()).values()
        assert quantiles["answer_us"] == quantiles["age_us"]
        assert quantiles["age_us"] == pytest.approx(expected, rel=0.09)


async def test_an_answer_that_broke_off_is_refused_wherever_it_did(world: World) -> None:
    first = await answer(world, _ROWS.replace("numbers(200)", "numbers(5)"))
    # Of two blocks.
    whole = first + await answer(world, _ROWS.replace("numbers(200)", "numbers(5, 3)"))
    read = set()
    for size in range(1, len(whole) + 1):
        sums = ReportSums()
        try:
            sums.add(whole[:size])
        except ValueError:
            continue
        read.add(size)
    # Between two blocks nothing tells.
    assert read == {len(first), len(whole)}
    # Nothing, as of a statement that reads nothing.
    sums = ReportSums()
    sums.add(b"")
    assert sums.sums().groups == []


async def test_an_answer_of_any_octets_is_read_or_refused(world: World) -> None:
    whole, rng = await answer(world, _ROWS.replace("numbers(200)", "numbers(9)")), Random(4)
    for _ in range(3000):
        octets = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            octets[rng.randrange(len(octets))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        sums = ReportSums()
        # A name may become one of a column, of an event or of a type that there is not.
        with contextlib.suppress(ValueError):
            sums.add(bytes(octets))
            sums.sums()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'sent' AS g0, toNullable(toUInt64(1)) AS n",
        "SELECT 'sent' AS g0, toUInt64(1) AS of_ages",
        "SELECT map(toUInt16(1), toUInt64(1)) AS g0, toUInt64(1) AS n",
        "SELECT 'sent' AS g0, 'sent' AS n",
    ],
)
async def test_a_column_of_another_type_is_refused(world: World, sql: str) -> None:
    found = await answer(world, sql)
    with pytest.raises(ValueError, match=r"^The column \w+ has the type .+\.$"):
        ReportSums().add(found)


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("SELECT toUInt64(1) AS n, 'sent' AS g0", "The column g0 stands behind others."),
        ("SELECT toUInt64(1) AS n", "The answer has no column of events."),
        ("SELECT 'lost' AS g0", "The answer has an event that is not counted."),
        ("SELECT 'a' AS g0, 'sent' AS g1, toUInt32(1) AS off0", "The answer takes off what is no time."),
        ("SELECT repeat('a', 5000) AS g0, 'sent' AS g1", "The answer has a group with a long name."),
        (
            "SELECT 'sent' AS g0, toUInt64(1) AS counted99999999999999",
            "The column counted99999999999999 is of no series and no group.",
        ),
        (
            "SELECT toUInt32(1) AS g0, 'sent' AS g1, toUInt32(1) AS off99999999999999",
            "The column off99999999999999 is of no series and no group.",
        ),
        # Of half a million years; times are shown as whole microseconds.
        (
            "SELECT 'sent' AS g0, map(toUInt16(496), toUInt64(1)) AS of_ages",
            "The answer has times of a class that there is not.",
        ),
    ],
)
async def test_columns_that_do_not_fit_are_refused(world: World, sql: str, what: str) -> None:
    found = await answer(world, sql)
    with pytest.raises(ValueError) as refused:
        ReportSums().add(found)
    assert str(refused.value) == what


async def test_blocks_of_an_answer_whose_groups_have_other_types_are_refused(world: World) -> None:
    # The same octets: 1 and 2, and 513.
    first = await answer(world, "SELECT toUInt8(1) AS g0, toUInt8(2) AS g1, 'sent' AS g2, toUInt64(1) AS n")
    other = await answer(world, "SELECT toUInt16(513) AS g0, 'sent' AS g1, toUInt64(1) AS n")
    with pytest.raises(ValueError, match="groups of several types"):
        ReportSums().add(first + other)
    ReportSums().add(first + first)


async def test_what_is_left_of_an_answer_that_was_refused_is_not_read(world: World) -> None:
    sql = (
        "SELECT toUInt8(number) AS g0, 'sent' AS g1, toUInt64(1) AS n, "
        "map(toUInt16(80), toUInt64(1)) AS of_ages FROM numbers(2)"
    )
    whole = await answer(world, sql)
    # Where the maps of the two rows end: 1 and 2. The first would end behind the answer, or behind the last.
    ends = (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
    assert whole.count(ends) == 1
    for first in (3, 400, 60_000):
        sums = ReportSums()
        with pytest.raises(ValueError, match="more classes than there are"):
            sums.add(whole.replace(ends, first.to_bytes(8, "little") + ends[8:]))
        for _ in range(2):
            with pytest.raises(ValueError, match="not read to its end"):
                sums.sums()
            with pytest.raises(ValueError, match="not read to its end"):
                sums.add(whole)


async def test_groups_that_are_too_many_are_refused_before_they_are_all_made(world: World) -> None:
    sql = "SELECT number % {} AS g0, 'sent' AS g1, toUInt64(1) AS n FROM numbers(500)"
    few, many = [await answer(world, sql.format(groups)) for groups in (100, 101)]
    sums = ReportSums(100)
    sums.add(few)
    # Those of another answer count beside them if they are others.
    sums.add(few)
    assert len(sums.sums().groups) == 100
    for first in (b"", few):
        sums = ReportSums(100)
        sums.add(first)
        with pytest.raises(TooManyGroups):
            sums.add(many)
        with pytest.raises(ValueError):
            sums.sums()


async def test_rows_without_an_event_say_how_far_series_are_counted(world: World) -> None:
    sql = (
        "SELECT 1 AS g0, ['', 'sent', ''][number + 1] AS g1, toUInt64(1) AS n, toUInt64(1) AS parts, "
        "toUInt64(1) AS held, number = {lost} AS lost, (number + 1) * 1000000000000 AS counted0, "
        "5 * (number = 0) AS counted1 FROM numbers(3)"
    )
    for lost in (1, 7):
        sums = ReportSums()
        sums.add(await answer(world, sql.format(lost=lost)))
        assert rows(sums.sums()) == {(1, "sent"): ([1, 1, 1], {})}
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


async def test_quarters_of_an_hour_of_one_country_are_not_added_up_unless_they_are_many_and_say_the_same(
    world: World, archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity, reader = Activity(world, 44), Counting(world.clickhouse_url)
    activity.accept(1500, 20)
    begun_ms = archiver.now_ms - 60_000
    await activity.archive(begun_ms - 20 * DAY_S * 1000, begun_ms, 0.7)
    await archiver.rounds.make()
    await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.5)
    of_hours = ReportQuery(
        from_s=NOW_S // 900 * 900 - 15 * DAY_S, until_s=NOW_S // 900 * 900, group_by=("hour", "provider")
    )
    # Of one provider or queue there may be nearly all.
    for filters, are_added_up in (
        ({"country": "DE"}, False),
        ({"country": "CA", "queue": "normal"}, False),
        ({"queue": "normal"}, True),
    ):
        query = msgspec.structs.replace(of_hours, **filters)
        found = {}
        for most in (100_000, 3):
            monkeypatch.setattr(report_together, "_OF_COUNTRY_MAX", most)
            reader.asked.clear()
            rows = (await reader.summary(query)).rows
            assert counts(rows) == counts(activity.report(query))
            of_series = [sql for sql in reader.asked if "FROM report_series" in sql and "begun0" in sql]
            found[most] = [("GROUP BY" in sql) for sql in of_series], rows
        assert found[100_000][0] == [are_added_up]
        assert found[3][0] == ([True] if are_added_up else [False, True])
        assert found[100_000][1] == found[3][1]
    await reader.close()


async def test_what_came_later_is_asked_once_and_again_after_the_series_went_on(
    world: World, archiver: Archiver
) -> None:
    activity, reader = await few(world, archiver, 45), Counting(world.clickhouse_url)
    await archiver.rounds.make()
    query = ReportQuery(
        from_s=NOW_S // 900 * 900 - 60 * DAY_S, until_s=NOW_S // 900 * 900, group_by=("queue",)
    )

    async def later() -> list[int]:
        reader.later_ms.clear()
        assert counts((await reader.summary(query)).rows) == counts(activity.report(query))
        return list(reader.later_ms)

    [utc] = await archiver.periods.series()
    for _ in range(2):
        assert await later() == [utc.until_ms]
        before = utc
        activity.accept(60, 3)
        await activity.archive(archiver.now_ms, archiver.now_ms + 40_000, 0.7)
        archiver.now_ms += 100_000
        await archiver.rounds.make()
        [utc] = await archiver.periods.series()
        assert utc.until_ms > before.until_ms
        assert await later() == [before.until_ms, utc.until_ms]
    assert sum("max(filled)" in sql for sql in reader.asked) == 1
    await reader.close()


async def test_nothing_is_left_under_way_of_a_report_that_is_refused_or_that_nobody_waits_for(
    world: World, archiver: Archiver
) -> None:
    activity, reader = await few(world, archiver, 46), Counting(world.clickhouse_url)
    await archiver.rounds.make()
    query = ReportQuery(
        from_s=NOW_S // 900 * 900 - 60 * DAY_S, until_s=NOW_S // 900 * 900, group_by=("queue",)
    )
    expected = counts(activity.report(query))
    assert counts((await reader.summary(query)).rows) == expected
    others = asyncio.all_tasks()
    reader._counts_max = 1
    with pytest.raises(Refusal, match="it reads too much"):
        await reader.summary(query)
    reader._counts_max = 400_000
    assert asyncio.all_tasks() == others
    asked = len(reader.asked)
    waiting = asyncio.create_task(reader.summary(query))
    # Both statements are under way after a few turns of the loop.
    for _ in range(9):
        await asyncio.sleep(0)
    assert len(reader.asked) == asked + 2
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()
    assert asyncio.all_tasks() == others
    # And the next one is answered.
    assert counts((await reader.summary(query)).rows) == expected
    await reader.close()
