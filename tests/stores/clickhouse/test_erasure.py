"""A number that is erased is nowhere any more, and nothing else is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.records import Message
from engine.stores.clickhouse.erasure import ClickHouseErasure
from engine.stream_id import StreamId
from tests.activity.world import World, blob_of, make_row, new_world, until

ERASED, OTHER = "+4915112345678", "+491511234567"


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


async def test_an_erased_number_is_in_no_table_and_all_else_is_there(world: World) -> None:
    [(now_us,)] = await world.query("SELECT toUnixTimestamp64Micro(now64(6))")
    rows = []
    for place, to in enumerate((ERASED, OTHER)):
        kept = Message(
            id=f"019aaaaa-0000-7000-8000-{place:012x}", organisation_id=1, to=to, text="secret", sender="",
            encoding="GSM-7", segments=1, units=2, accepted_at_us=now_us, expires_at_us=now_us + 10**10,
        )  # fmt: skip
        rows.append(
            make_row(
                2, at_us=now_us, accepted_at_us=now_us, message_id=kept.id, to=to, event="sent",
                provider_message_id=f"id{place}", kept=msgspec.json.encode(kept).decode(),
                text=f"for {to} alone",
            )
        )  # fmt: skip
    await world.store.insert(
        block_of([ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))])[0], "t"
    )
    for to in (ERASED, OTHER):
        await world.query(
            "INSERT INTO receipts_unmatched (at, to, given_up_at) "
            f"VALUES (now64(6), '{to.removeprefix('+')}', now())"
        )
        await world.query(
            f"INSERT INTO inbound_messages (at, id, sender, text) VALUES (now64(6), '{to}', '{to}', 'hello')"
        )
    tables = [name for (name,) in await world.query("SHOW TABLES") if not name.startswith(("smsengine", "."))]

    async def having(number: str) -> set[str]:
        """The tables in which any value has the number."""
        found = set()
        for table in tables:
            everything = f"SELECT count() FROM (SELECT toString(tuple(*)) AS row FROM {table})"
            sql = f"{everything} WHERE match(row, '[^0-9]{number.removeprefix('+')}[^0-9]')"
            if not table.startswith(("activity_to", "report_")) and (await world.query(sql))[0][0]:
                found.add(table)
        return found

    everywhere = {"activity", "outstanding", "kept_messages", "receipts_unmatched", "inbound_messages"}
    assert await having(ERASED) == await having(OTHER) == everywhere
    before = await world.query("SELECT count(), sum(units) FROM activity")
    erasure = ClickHouseErasure(world.clickhouse_url)
    await erasure.erase(ERASED)
    await erasure.erase(ERASED)

    async def done() -> bool:
        return await erasure.under_way() == 0

    await until(done, 60)
    await erasure.close()
    # Nor is it in the statements that erased it.
    assert await world.query("SELECT command FROM system.mutations WHERE database = currentDatabase()") == []
    assert await having(ERASED) == set()
    assert await having(OTHER) == everywhere
    assert await world.query("SELECT count(), sum(units) FROM activity") == before
    assert await world.query("SELECT count() FROM outstanding") == [(2,)]
