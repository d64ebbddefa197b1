"""Numbers that are stored as keyed hashes: nowhere to be read, and all that is done with numbers still is
done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

from engine.activity.blocks import block_of
from engine.activity.countries import _AREAS
from engine.activity.numbers import PLAIN, Numbers
from engine.activity.records import ActivityEntry, MessageFilter
from engine.receipts.batch import Search, Unseen
from engine.receipts.records import Receipt
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.clickhouse.erasure import ClickHouseErasure
from engine.stores.clickhouse.message_list import ClickHouseMessageList
from engine.stream_id import StreamId
from tests.activity.world import World, blob_of, make_row, new_world, until

KEY = b"a key that only tests have"
HASHED, OFF = Numbers(KEY, hashed=True), Numbers(KEY)
NUMBER, OTHER = "+4915112345678", "+4915112345679"
PLAIN_ORGANISATION, HASHED_ORGANISATION = 1, 2
COUNTRIES = [
    *(f"+{code}12345678"[:12] for code in COUNTRY_CODE_TO_REGION_CODE),
    *(f"+1{area}5550123" for areas in _AREAS.values() for area in areas.split()),
    "+12125550123", "+76012345678", "+77012345678", "+79012345678",
]  # fmt: skip


@pytest.fixture(scope="module")
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


async def store(world: World, numbers: Numbers, organisation: int, to: Sequence[str], ms: int) -> list[str]:
    """Store that a provider took a message to each number, under ids that the index says; their ids."""
    [(now_us,)] = await world.query("SELECT toUnixTimestamp64Micro(now64(6))")
    rows = [
        make_row(
            0, organisation_id=organisation, at_us=now_us, accepted_at_us=now_us, to=number, event=event,
            message_id=f"019aaaaa-0000-7000-{organisation:04x}-{ms:04x}{place:08x}", attempt=1, provider="p",
            provider_message_id=f"{ms:x}a{place}" if event == "sent" else "",
        )
        for place, number in enumerate(to)
        for event in ("accepted", "sent")
    ]  # fmt: skip
    entry = ActivityEntry(shard=0, id=StreamId(ms, organisation), blob=blob_of(rows))
    await world.store.insert(block_of([entry], numbers)[0], f"{organisation} {ms}")
    return list(dict.fromkeys(row.message_id for row in rows))


async def listed(world: World, numbers: Numbers, organisation: int, to: str) -> list[str]:
    lists = ClickHouseMessageList(world.store, numbers)
    return await lists.matching(organisation, MessageFilter(to=to), ("accepted",), "", 100)


async def test_countries_are_those_of_the_numbers_and_no_digit_more_is_to_be_seen(world: World) -> None:
    await store(world, PLAIN, PLAIN_ORGANISATION, COUNTRIES, 1)
    await store(world, HASHED, HASHED_ORGANISATION, COUNTRIES, 1)
    counted = (
        "SELECT country, sum(events) FROM report_minutes WHERE organisation_id = {} GROUP BY 1 ORDER BY 1"
    )
    plain = await world.query(counted.format(PLAIN_ORGANISATION))
    assert plain == await world.query(counted.format(HASHED_ORGANISATION))
    assert len(plain) > 200
    found = await world.query(
        "SELECT DISTINCT substring(to, 1, 5) FROM activity "
        f"WHERE organisation_id = {HASHED_ORGANISATION} ORDER BY 1"
    )
    assert len(found) == len(plain), "one beginning for each country"
    for number in COUNTRIES[:3]:
        named = f"SELECT count() FROM outstanding WHERE position(row, '\"{number}\"') > 0"
        assert await world.query(named) == [(1,)], "of the organisation whose numbers are plain"


@pytest.mark.parametrize(
    ("written", "agrees"),
    [("4915112345678", True), ("015112345678", True), ("0004915112345678", True), ("12345678", True),
     ("4915112345679", False), ("5112345679", False), ("345678", False), ("", None), ("1234", None)],
)  # fmt: skip
def test_a_receipt_s_number_agrees_as_with_a_plain_one(written: str, agrees: bool | None) -> None:
    stored = HASHED.stored(NUMBER.encode()).decode()
    assert HASHED.agree(written, stored) is agrees
    if written != "345678":
        assert PLAIN.agree(written, NUMBER) is agrees


async def test_look_ups_receipts_and_erasures_find_what_is_stored_in_either_way(world: World) -> None:
    before = await store(world, PLAIN, 7, [NUMBER, OTHER], 2)
    hashed = await store(world, HASHED, 7, [NUMBER, OTHER], 3)
    # Switched off, with the key.
    after = await store(world, OFF, 7, [NUMBER, OTHER], 4)
    for numbers in (HASHED, OFF):
        assert sorted(await listed(world, numbers, 7, NUMBER)) == [before[0], hashed[0], after[0]]

    attempts = ClickHouseAttempts(world.clickhouse_url, numbers=HASHED)
    [(now_us,)] = await world.query("SELECT toUnixTimestamp64Micro(now64(6))")

    def receipt(ms: int, to: str) -> Receipt:
        return Receipt(
            provider="p", provider_message_id=f"{ms:x}A0", state="delivered", code="0", to=to, at_us=now_us
        )

    async def rows(*receipts: Receipt) -> list[Any]:
        search = Search(receipts, {}, now_us + 1, numbers=HASHED)
        search.learn(await attempts.filed(search.first_keys()))
        return [[(row.message_id, row.to) for row in found] for found in search.rows(Unseen())]

    whole, national = NUMBER[1:], NUMBER.replace("+49", "0")
    name = HASHED.stored(NUMBER.encode()).decode()
    assert await rows(receipt(2, whole)) == [[(before[0], NUMBER)]]
    assert await rows(receipt(3, whole)) == [[(hashed[0], NUMBER)]], "webhooks tell the number"
    assert await rows(receipt(3, national)) == [[(hashed[0], name)]]
    assert await rows(receipt(3, OTHER[1:]), receipt(2, OTHER[1:])) == []
    await attempts.give_up([(receipt(9, whole), "unknown")], now_us)
    await attempts.close()
    assert await world.query("SELECT to FROM receipts_unmatched") == [(name,)]

    def in_row(number: str) -> str:
        return f"SELECT count() FROM outstanding WHERE position(row, '\"{number}\"') > 0"

    assert await world.query(in_row(name)) == [(1,)]
    erasure = ClickHouseErasure(world.clickhouse_url, numbers=HASHED)
    await erasure.erase(NUMBER)

    async def done() -> bool:
        return await erasure.under_way() == 0

    await until(done, 60)
    await erasure.close()
    assert await listed(world, HASHED, 7, NUMBER) == []
    assert sorted(await listed(world, HASHED, 7, OTHER)) == [before[1], hashed[1], after[1]]
    for form in HASHED.forms(NUMBER):
        assert await world.query(in_row(form)) == [(0,)]
    assert await world.query("SELECT count() FROM receipts_unmatched") == [(0,)]
    assert await world.query('SELECT count() FROM outstanding WHERE match(row, \'","","ACME\')') != [(0,)]


def test_what_is_no_number_stays_and_no_key_gives_another_s_hash() -> None:
    for octets in (b"", b"+", b"+12", b"+49 151", "+٤٩١٥١١٢٣".encode(), b"#4900abc", b"ACME"):
        assert HASHED.stored(octets) == octets
    stored = HASHED.stored(NUMBER.encode())
    assert stored == Numbers(KEY, hashed=True).stored(NUMBER.encode())
    assert stored != Numbers(KEY + b"!", hashed=True).stored(NUMBER.encode())
    assert (len(stored), OFF.stored(NUMBER.encode())) == (25, NUMBER.encode())
    assert not Numbers(KEY + b"!").agree(NUMBER[1:], stored.decode())
    assert not PLAIN.agree(NUMBER[1:], stored.decode())
