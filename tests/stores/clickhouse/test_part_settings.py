"""The settings by which small parts cost little: that tables have them, and that they cost no start."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityBlock, ActivityEntry, MessageKey
from engine.stores.clickhouse.client import connect, parse_url
from engine.stores.clickhouse.part_settings import settle_parts
from engine.stream_id import StreamId
from tests.activity.world import World, blob_of, make_row, new_world


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


async def settle(world: World, cluster: str = "") -> list[str]:
    url = f"{world.clickhouse_url}?cluster={cluster}" if cluster else world.clickhouse_url
    place = parse_url(url)
    client = await connect(parse_url(world.clickhouse_url), database=place.database, timeout_s=30)
    try:
        return await settle_parts(client, place, 30)
    finally:
        await client.close()


async def test_a_block_becomes_packed_parts_which_are_read_merged_and_erased_as_others(world: World) -> None:
    for number in range(3):
        rows = [
            make_row(
                n, organisation_id=7, message_id=f"m{number}-{n}", event="accepted", to="+989120000001",
                accepted_at_us=1_000_000,
            )
            for n in range(5)
        ]  # fmt: skip
        block = block_of([ActivityEntry(shard=0, id=StreamId(1, number), blob=blob_of(rows))])[0]
        for _ in range(2):
            await world.store.insert(block, f"t{number}")
    kinds = (
        "SELECT table, groupUniqArray(part_storage_type) FROM system.parts WHERE active AND "
        "database = currentDatabase() AND table IN ('activity', 'report_minutes') GROUP BY 1 ORDER BY 1"
    )
    packed = [("activity", ["Packed"]), ("report_minutes", ["Packed"])]
    assert await world.query(kinds) == packed
    key = MessageKey(organisation_id=7, message_id="m1-2", accepted_at_us=1_000_000)
    assert [row.message_id for row in (await world.store.rows_of([key]))[key]] == ["m1-2"]
    await world.query("OPTIMIZE TABLE activity FINAL")
    await world.query(
        "ALTER TABLE activity UPDATE to = '' WHERE message_id = 'm1-2' SETTINGS mutations_sync = 1"
    )
    assert await world.query(kinds) == packed
    assert await world.query("SELECT count(), countIf(to = ''), sum(shard = 0) FROM activity") == [
        (15, 1, 15)
    ]
    assert await world.query("SELECT sum(events) FROM report_minutes") == [(15,)]


async def test_merges_make_the_indexes_unless_a_server_does_not_know_that(world: World) -> None:
    size = (
        "SELECT sum(secondary_indices_uncompressed_bytes) > 0 FROM system.parts "
        "WHERE active AND database = currentDatabase() AND table = 'activity'"
    )

    def block(ms: int) -> ActivityBlock:
        return block_of([ActivityEntry(shard=0, id=StreamId(ms, 0), blob=blob_of([make_row(ms)]))])[0]

    await world.store.insert(block(1), "t1")
    assert await world.query(size) == [(0,)]
    await world.query("OPTIMIZE TABLE activity FINAL")
    assert await world.query(size) == [(1,)]
    await world.query("TRUNCATE TABLE activity")
    # A server of before 2025 refuses a setting that it does not know.
    client = await world.store._connected()
    del client.server_settings["materialize_skip_indexes_on_insert"]
    await world.store.insert(block(2), "t2")
    assert await world.query(size) == [(1,)]


async def test_a_start_changes_only_what_is_otherwise_and_a_cluster_has_no_packed_parts(world: World) -> None:
    assert await settle(world) == []
    await world.query("ALTER TABLE activity MODIFY SETTING min_parts_to_merge_at_once = 2")
    assert await settle(world) == ["activity"]
    assert await settle(world) == []
    await world.query("ALTER TABLE activity RESET SETTING min_bytes_for_full_part_storage")
    assert await settle(world, "three") == [], "servers of a cluster are upgraded one after another"
    assert await settle(world) == ["activity"]
