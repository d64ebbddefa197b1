"""Receipts find their attempts in whatever division these are, and what is erased is in none."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec

from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.inbound.records import InboundMessage
from engine.receipts.ids import normal
from engine.records import ActivityRow, Message
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.clickhouse.divided.attempts import DividedAttempts
from engine.stores.clickhouse.divided.erasure import DividedErasure
from engine.stores.clickhouse.divided.inbound import DividedInbound
from engine.stores.clickhouse.inbound import ClickHouseInbound
from engine.stream_id import StreamId
from tests.activity.world import World, blob_of, make_row, until
from tests.receipts.world import carrier_id, message_id, now_us, receipt
from tests.stores.clickhouse.divided.conftest import asked

ERASED = "+4915112345678"
COUNT = 40


def sent(number: int, at_us: int) -> ActivityRow:
    """What provider "one" took. Every tenth has the id of the one before it, of another organisation."""
    kept = Message(
        id=message_id(number), organisation_id=number % 4, to=ERASED, text="t", sender="", encoding="GSM-7",
        segments=1, units=2, accepted_at_us=at_us, expires_at_us=at_us + 10**10,
    )  # fmt: skip
    return make_row(
        0, at_us=at_us, organisation_id=number % 4, message_id=message_id(number), accepted_at_us=at_us,
        event="sent", to=ERASED, provider="one", attempt=1,
        provider_message_id=carrier_id(number - (number % 10 == 9)),
        kept=msgspec.json.encode(kept).decode() if number % 3 == 0 else "",
    )  # fmt: skip


async def archive(world: World, url: str) -> None:
    rows, store = [sent(number, now_us()) for number in range(COUNT)], DividedActivityStore(url)
    for one in (store, world.store):
        await one.insert(block_of([ActivityEntry(shard=0, id=StreamId(1, 0), blob=blob_of(rows))])[0], "one")
    await store.close()


async def test_attempts_and_kept_messages_are_those_of_one_database(world: World, url: str) -> None:
    await archive(world, url)
    stores = ClickHouseAttempts(world.clickhouse_url), DividedAttempts(url)
    keys = [("one", normal(carrier_id(number))) for number in range(COUNT + 3)]
    ids = [message_id(number) for number in range(COUNT + 3)]

    def in_order(found: dict[object, list[object]]) -> object:
        return {key: sorted(records, key=repr) for key, records in found.items()}

    by_id = [in_order(await of.filed(keys)) for of in stores]  # type: ignore[arg-type]
    assert by_id[0] == by_id[1]
    twice = [key for key, records in by_id[0].items() if len(records) == 2]  # type: ignore[attr-defined]
    assert len(twice) == COUNT // 10, "attempts in two divisions that share an id are found together"
    by_message = [in_order(await of.filed_by_message(ids)) for of in stores]  # type: ignore[arg-type]
    assert by_message[0] == by_message[1]
    assert len(by_message[0]) == COUNT  # type: ignore[arg-type]
    assert await stores[1].filed_by_message([]) == await stores[1].filed([]) == {}
    kept = [await of.kept([(one, 1) for one in ids]) for of in stores]
    assert kept[0] == kept[1]
    assert len(kept[0]) == (COUNT + 2) // 3
    at_us = now_us()
    for of in stores:
        await of.give_up([(receipt(COUNT + 5), "unknown")], at_us)
        assert await of.unmatched(at_us // 1_000_000 - 10) == 1
        await of.close()


async def test_an_erased_number_is_in_no_division(world: World, url: str) -> None:
    await archive(world, url)
    erasure = DividedErasure(url)
    has = f"SELECT countIf(to = '{ERASED}'), count() FROM activity"
    assert all(rows[0][0] for rows in await asked(url, has))
    await erasure.erase(ERASED)

    async def done() -> bool:
        return await erasure.under_way() == 0

    await until(done)
    assert sum(rows[0][1] for rows in await asked(url, has)) == COUNT  # type: ignore[misc]
    for table in ("activity", "outstanding", "kept_messages"):
        left = f"SELECT count() FROM {table} WHERE position(toString(tuple(*)), '{ERASED}') > 0"
        assert await asked(url, left) == [[(0,)], [(0,)]], table
    await erasure.close()


async def test_inbound_messages_are_paged_as_in_one_database(world: World, url: str) -> None:
    stores = ClickHouseInbound(world.clickhouse_url), DividedInbound(url)
    messages = [
        InboundMessage(
            organisation_id=number % 3, at=datetime(2026, 11, 1, 0, number, tzinfo=UTC), id=f"i{number:03}",
            provider="one", sender=ERASED, recipient="12345", text="hello", keyword="", action="",
            missing_parts=0,
        )
        for number in range(30)
    ]  # fmt: skip
    await asyncio.gather(*[of.add(messages) for of in stores])
    for organisation in range(4):
        pages = [await of.page(organisation, (2**60, "~"), 7) for of in stores]
        assert pages[0] == pages[1]
        assert len(pages[0]) == (7 if organisation < 3 else 0)
    both = await asked(url, "SELECT count() FROM inbound_messages")
    assert all(rows[0][0] for rows in both), "each division has some"
    for of in stores:
        await of.close()
