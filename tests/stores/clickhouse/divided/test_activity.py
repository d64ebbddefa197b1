"""What is archived is in the division of its organisation, once, and found there as in one database."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime

import pytest

from engine.activity.archiver import Archiver
from engine.activity.blocks import block_of
from engine.activity.lookups import DividedLookups, Lookups
from engine.activity.records import ActivityEntry, MessageFilter, MessageKey
from engine.errors import ConfigError, Unavailable
from engine.shards import shard_of
from engine.stores.clickhouse import activity_log
from engine.stores.clickhouse.activity_log import ClickHouseActivityLog
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.clickhouse.divided.activity_log import DividedActivityLog
from engine.stores.clickhouse.divided.export import DividedExport
from engine.stores.clickhouse.divided.message_list import DividedMessageList
from engine.stores.clickhouse.export import ClickHouseExport, ExportFormat, ExportQuery, ExportRows
from engine.stores.clickhouse.lost_time import LostTime
from engine.stores.clickhouse.message_list import ClickHouseMessageList
from engine.stream_id import StreamId
from tests.activity.world import QUICK, SHARDS, T0, World, blob_of, make_row, until
from tests.stores.clickhouse.divided.conftest import asked

COUNT = 300
ORGANISATIONS = range(1000, 1005)


def entries() -> list[ActivityEntry]:
    """Rows of five organisations, six to an entry, of two shards."""
    return [
        ActivityEntry(
            shard=n % 2,
            id=StreamId(T0 // 1000, n),
            blob=blob_of([make_row(6 * n + i, callback_url="http://x" if i % 2 else "") for i in range(6)]),
        )
        for n in range(COUNT // 6)
    ]


async def assert_each_once(url: str) -> None:
    expected: list[Counter[object]] = [Counter(), Counter()]
    for number in range(COUNT):
        organisation = make_row(number).organisation_id
        expected[shard_of(organisation, 2)][organisation] += 1
    assert all(expected)
    found = await asked(url, "SELECT organisation_id, count() FROM activity GROUP BY 1")
    assert [dict(rows) for rows in found] == expected
    # As docs/operations.md says it.
    number = "bitShiftRight(toUInt64(organisation_id) * 11400714819323198485, 32) % 2"
    assert await asked(url, f"SELECT DISTINCT {number} FROM activity") == [[(0,)], [(1,)]]
    counted = await asked(url, "SELECT organisation_id, sum(events) FROM report_minutes GROUP BY 1")
    assert [dict(rows) for rows in counted] == expected


async def test_a_block_that_only_one_division_took_is_there_once_when_it_comes_again(url: str) -> None:
    block = block_of(entries())[0]
    away = DividedActivityStore(f"{url.split()[0]} http://127.0.0.1:9/none", timeout_s=10)
    with pytest.raises(Unavailable, match="nothing listens there"):
        await away.insert(block, "one")
    [first, second] = await asked(url, "SELECT count() FROM activity")
    assert first[0][0] > 0
    assert second == [(0,)]
    store = DividedActivityStore(url)
    for _ in range(2):
        await store.insert(block, "one")
    await assert_each_once(url)
    await store.close()
    await away.close()


async def test_while_a_division_is_away_no_block_is_stored_that_has_rows_for_the_others_alone(
    url: str,
) -> None:
    first, second = url.split()
    alone = [
        ActivityEntry(shard=0, id=StreamId(1, n), blob=blob_of([make_row(n, organisation_id=organisation)]))
        for n, organisation in enumerate((0, 1))
    ]
    blocks = [block_of([entry])[0] for entry in alone]
    count = "SELECT count() FROM activity"
    for place, block in ((f"{first} http://127.0.0.1:9/none", blocks[0]),
                         (f"http://127.0.0.1:9/none {second}", blocks[1])):  # fmt: skip
        away = DividedActivityStore(place, timeout_s=10)
        with pytest.raises(Unavailable, match="nothing listens there"):
            await away.insert(block, "one")
        await away.close()
    assert await asked(url, count) == [[(0,)], [(0,)]]
    # A division that refuses all inserts, and then takes them again.
    await asked(second, "RENAME TABLE activity TO activity_gone")
    store = DividedActivityStore(url)
    with pytest.raises(ConfigError, match="a table is missing"):
        await store.insert(blocks[0], "two")
    assert await asked(first, count) == [[(0,)]]
    await asked(second, "RENAME TABLE activity_gone TO activity")
    await store.insert(blocks[0], "two")
    await store.insert(blocks[1], "three")
    assert await asked(url, count) == [[(1,)], [(1,)]]
    await store.close()


async def test_a_part_that_was_taken_is_not_stored_again_although_its_token_is_forgotten(url: str) -> None:
    first, second = url.split()
    block, store = block_of(entries())[0], DividedActivityStore(url)
    await asked(second, "RENAME TABLE activity TO activity_gone")
    with pytest.raises(ConfigError, match="a table is missing"):
        await store.insert(block, "one")
    for table in ("activity", "report_minutes"):
        await asked(first, f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 1")
    # Another archiver's blocks: the first division alone has them, and forgets.
    other = DividedActivityStore(first)
    for n in range(3):
        row = make_row(0, organisation_id=0, message_id=f"other{n}")
        await other.insert(
            block_of([ActivityEntry(shard=0, id=StreamId(2, n), blob=blob_of([row]))])[0], f"other{n}"
        )
    await asked(second, "RENAME TABLE activity_gone TO activity")
    await store.insert(block, "one")
    await asked(
        first, "ALTER TABLE activity DELETE WHERE message_id LIKE 'other%' SETTINGS mutations_sync = 1"
    )
    [mine, others] = await asked(url, "SELECT count() FROM activity")
    assert mine[0][0] + others[0][0] == COUNT  # type: ignore[operator]
    await store.close()
    await other.close()


async def test_an_archiver_stores_each_row_once_in_its_division(world: World, url: str) -> None:
    store = DividedActivityStore(url)
    archiver, draining = Archiver(world.stream, store, "one", QUICK), asyncio.Event()
    await world.put(COUNT // 5)
    running = asyncio.create_task(archiver.run(draining))

    async def empty() -> bool:
        return await world.waiting() == 0

    await until(empty)
    draining.set()
    await running
    await assert_each_once(url)
    await store.close()


async def test_events_lists_and_sums_are_those_of_one_database(world: World, url: str) -> None:
    block, store = block_of(entries())[0], DividedActivityStore(url)
    for one in (store, world.store):
        await one.insert(block, "one")
    await store.ping(10)
    rows = [make_row(number) for number in range(COUNT)]
    keys = [*{MessageKey(row.organisation_id, row.message_id, T0) for row in rows}]
    keys.append(MessageKey(7, "none", T0))
    plain, divided = await world.store.rows_of(keys), await store.rows_of(keys)
    assert sum(map(len, plain.values())) == COUNT

    def by_time(found: dict[MessageKey, list[object]]) -> object:
        return {key: sorted(rows, key=repr) for key, rows in found.items()}

    assert by_time(divided) == by_time(plain)  # type: ignore[arg-type]
    lists = ClickHouseMessageList(world.store), DividedMessageList(store)
    for organisation in (*ORGANISATIONS, 7):
        pages = [
            await of.matching(organisation, MessageFilter(queue="normal"), ["sent"], "", 9) for of in lists
        ]
        assert pages[0] == pages[1]
        assert bool(pages[0]) == (organisation != 7)
    assert by_time(await lists[1].rows_of(keys)) == by_time(plain)  # type: ignore[arg-type]
    first, end = StreamId(0, 0), StreamId(T0 // 1000, COUNT)
    for shard in range(3):
        sums = [await of.units_between(shard, first, end, 20) for of in (world.store, store)]
        assert sums[0] == sums[1]
        assert (sums[0][1] > 0) == (shard < 2)
        lost = [LostTime(of) for of in (world.store, store)]
        args = (shard, 0, T0 // 1000 + 1, 20)
        assert await lost[0].recorded(*args) == await lost[1].recorded(*args)
        assert await lost[0].lost(*args) == await lost[1].lost(*args)
        assert await lost[0].has_any(*args) is await lost[1].has_any(*args) is (shard < 2)
    await store.close()


async def test_events_are_complete_from_when_they_are_in_every_division(url: str) -> None:
    months = [int(datetime(2026, month, 5, tzinfo=UTC).timestamp()) * 1_000_000 for month in (8, 9, 10)]
    rows = [
        make_row(0, organisation_id=of, message_id=f"m{of}{at}", at_us=at, accepted_at_us=at)
        for at in months
        for of in (0, 1)
    ]
    store = DividedActivityStore(url)
    await store.insert(block_of([ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))])[0], "one")
    lost = LostTime(store)
    assert await lost.complete_from_ms(20) == 0
    first, second = url.split()
    await asked(first, "ALTER TABLE activity DROP PARTITION 202608")
    august = await lost.complete_from_ms(20)
    for month in (202608, 202609):
        await asked(second, f"ALTER TABLE activity DROP PARTITION {month}")
    assert august > months[0] // 1000
    assert await lost.complete_from_ms(20) - august == 30 * 86_400_000
    await store.close()


@pytest.mark.parametrize("rows_max", [1, 7, 2000])
async def test_the_log_has_every_event_in_the_order_of_its_stream_however_short_its_answers_are(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch, rows_max: int
) -> None:
    store, alone = DividedActivityStore(url), []
    # Entries of one organisation each: four in one division, then one in the other, and so on.
    for n in range(COUNT // 6):
        row = make_row(n, organisation_id=n % 5 // 4, event="sent", callback_url="http://x")
        alone.append(ActivityEntry(shard=0, id=StreamId(T0 // 1000, n), blob=blob_of([row])))
    for one in (store, world.store):
        await one.insert(block_of(alone)[0], "one")
    monkeypatch.setattr(activity_log, "_ROWS_MAX", rows_max)
    short = activity_log._BETWEEN.replace("LIMIT 2000", f"LIMIT {rows_max}")
    monkeypatch.setattr(activity_log, "_BETWEEN", short)
    read = []
    for log in (ClickHouseActivityLog(world.store), DividedActivityLog(store, 1)):
        found, after = [], StreamId(0, 0)
        while True:
            rows, more = await log.rows_between(0, after, StreamId(T0, 0), [1001])
            found += [(at, repr(row)) for at, row in rows]
            assert [at for at, _ in rows] == sorted(at for at, _ in rows)
            if more is None:
                break
            assert more > after
            after = more
        read.append(found)
    assert sorted(read[0]) == sorted(read[1])
    assert len(read[0]) == COUNT // 6
    await store.close()


async def test_the_log_of_a_shard_is_read_in_the_divisions_alone_that_can_have_its_organisations(
    url: str,
) -> None:
    first, _ = url.split()
    store, whole = DividedActivityStore(f"{first} http://127.0.0.1:9/none", 10), DividedActivityStore(url)
    entry = ActivityEntry(
        shard=0, id=StreamId(1, 0),
        blob=blob_of([make_row(0, organisation_id=0, event="sent", callback_url="http://x")]),
    )  # fmt: skip
    await whole.insert(block_of([entry])[0], "one")
    bounds = StreamId(0, 0), StreamId(9, 0)
    for shards in (2, 4, 6):
        log = DividedActivityLog(store, shards)
        for shard in range(shards):
            if shard % 2:
                with pytest.raises(Unavailable, match="nothing listens there"):
                    await log.rows_between(shard, *bounds, [])
            else:
                rows, _ = await log.rows_between(shard, *bounds, [])
                assert len(rows) == (shard == 0)
    for shard in range(3):
        with pytest.raises(Unavailable, match="nothing listens there"):
            await DividedActivityLog(store, 3).rows_between(shard, *bounds, [])
    await store.close()
    await whole.close()


@pytest.mark.parametrize("wrong", ["away", "no table"])
async def test_a_look_up_fails_only_for_messages_of_the_division_that_fails(
    world: World, named: list[str], url: str, wrong: str
) -> None:
    store = DividedActivityStore(url)
    await store.insert(block_of(entries())[0], "one")
    first, _ = url.split()
    gone = "http://127.0.0.1:9/none" if wrong == "away" else named[2]
    if wrong != "away":
        await asked(first, f"CREATE DATABASE {gone.rpartition('/')[2]}")
    half = DividedActivityStore(f"{first} {gone}", timeout_s=10)
    lookups = DividedLookups([Lookups(world.stream, division, SHARDS, 10) for division in half.divisions])
    rows = [make_row(number) for number in range(COUNT)]
    keys = [*{MessageKey(row.organisation_id, row.message_id, row.accepted_at_us) for row in rows}]
    found = await asyncio.gather(*map(lookups.rows_of, keys), return_exceptions=True)
    seen = Counter[int]()
    for key, of in zip(keys, found, strict=True):
        division = shard_of(key.organisation_id, 2)
        seen[division] += 1
        if division == 0:
            assert not isinstance(of, BaseException)
            assert (of.complete, of.missing) == (True, None)
            assert of.rows
        else:
            # A division that refuses is to callers as one that is away.
            assert not isinstance(of, BaseException)
            assert isinstance(of.missing, Unavailable)
    assert len(seen) == 2
    await lookups.close()
    await store.close()
    await half.close()


async def test_an_export_is_that_of_one_database(world: World, url: str) -> None:
    store, exports = DividedActivityStore(url), (ClickHouseExport(world.clickhouse_url), DividedExport(url))
    for one in (store, world.store):
        await one.insert(block_of(entries())[0], "one")
    kinds: list[tuple[ExportRows, ExportFormat]] = [("messages", "csv"), ("events", "jsonl")]
    for organisation in ORGANISATIONS:
        for rows, form in kinds:
            query = ExportQuery(
                organisation_id=organisation, from_s=T0 // 1_000_000 - 60, until_s=T0 // 1_000_000 + 60,
                format=form, rows=rows,
            )  # fmt: skip
            files = []
            for export in exports:
                async with export.messages(query) as parts:
                    files.append(sorted(b"".join([part async for part in parts]).splitlines()))
            assert files[0] == files[1]
            assert len(files[0]) > 10
    for one in (store, *exports):
        await one.close()
