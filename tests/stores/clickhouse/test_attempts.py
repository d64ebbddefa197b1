"""Attempts are found by the ids that carriers gave them, in whatever style and however many there are."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from engine.activity.blocks import block_of
from engine.activity.records import ActivityBlock, ActivityEntry
from engine.errors import Unavailable
from engine.receipts.ids import normal
from engine.records import NO_RECEIPTS, RECEIPTS_BY_ANY_ID, RECEIPTS_BY_THEIR_ID, ActivityRow, Message
from engine.stores.clickhouse.attempts import ClickHouseAttempts, key_of
from tests.activity.world import blob_of
from tests.receipts.world import ReceiptWorld, message_id, new_receipt_world, now_us, receipt


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[ReceiptWorld]:
    async with new_receipt_world(redis_url, clickhouse_url) as world:
        yield world


def block(rows: list[ActivityRow], ms: int = 1) -> ActivityBlock:
    return block_of([ActivityEntry(shard=0, id=(ms, 0), blob=blob_of(rows))])[0]


async def counts(world: ReceiptWorld) -> tuple[int, ...]:
    tables = ("activity", "outstanding", "outstanding_messages", "kept_messages")
    return tuple([(await world.activity.query(f"SELECT count() FROM {t}"))[0][0] for t in tables])


def message(number: int, expires_at_us: int) -> Message:
    return Message(
        id=message_id(number), organisation_id=7, to="+989121234567", text="Grüße\n", sender="",
        encoding="GSM-7", segments=1, units=2, accepted_at_us=1, expires_at_us=expires_at_us,
    )  # fmt: skip


async def test_an_attempt_is_found_with_all_that_a_row_about_it_needs(world: ReceiptWorld) -> None:
    odd = {
        "sender": "Ünï\t'\"\\\n",
        "reference": "réf \x01",
        "code": 'a"b',
        "segments": 3,
        "units": 2**32 - 1,
    }
    row = world.row(1, organisation_id=2**62 + 1, **odd)
    await world.activity.store.insert(block([row]), "t")
    [[found]] = (await world.store.filed([("one", normal(row.provider_message_id))])).values()
    shared = set(found.__struct_fields__) & set(row.__struct_fields__)
    assert shared == set(found.__struct_fields__)
    assert {name: getattr(found, name) for name in shared} == {name: getattr(row, name) for name in shared}


async def test_the_views_write_ids_as_the_rule_does(world: ReceiptWorld) -> None:
    rng = random.Random(20261122)
    alphabet = "00aAfFzZ9,- xéÄİǄß\U0001f600%\x01\t"
    drawn = ["".join(rng.choices(alphabet, k=rng.randint(1, 12))) for _ in range(300)]
    given = list(dict.fromkeys(["00AB", "000", "0", "0x1F", "x,y", *drawn]))
    # As an adapter writes one id.
    ids = [i.replace(",", "%2C") for i in given]
    rows = [world.row(n, provider_message_id=i, provider="p:q") for n, i in enumerate(ids)]
    await world.activity.store.insert(block(rows), "t")
    filed = await world.store.filed([("p:q", normal(i)) for i in given])
    assert sorted(f.provider_message_id for found in filed.values() for f in found) == sorted(ids)
    keys = await world.activity.query("SELECT key FROM outstanding")
    assert {key for (key,) in keys} == {key_of("p:q", normal(i)) for i in ids}


async def test_each_segments_id_leads_to_the_attempt_and_to_what_receipts_made_of_it(
    world: ReceiptWorld,
) -> None:
    ids = {"provider_message_id": "A1,0A2,x%2Cy"}
    rows = [world.row(1, **ids), world.row(1, event="receipt", segment=2, code="C", **ids),
            world.row(1, event="undelivered", **ids), world.row(1, event="retrying", **ids),
            world.row(1, event="delivered", **ids)]  # fmt: skip
    await world.activity.store.insert(block(rows), "t")
    for given in ("A1", "a2", "X,Y"):
        [filed] = (await world.store.filed([("one", normal(given))])).values()
        assert sorted((f.event, f.segment) for f in filed) == [
            ("delivered", 0), ("receipt", 2), ("retrying", 0), ("sent", 0), ("undelivered", 0),
        ]  # fmt: skip
        assert [f.event for f in filed if f.organisation_id] == ["sent"]


async def test_other_events_are_not_filed_but_attempts_of_unknown_outcome_are(world: ReceiptWorld) -> None:
    rows = [
        world.row(1, event="accepted", provider="", provider_message_id=""),
        world.row(1, event="retrying", provider_message_id=""),
        world.row(1, event="failed", provider_message_id=""),
        world.row(1, event="retrying", provider_message_id="", outcome_unknown=True, attempt=4),
    ]
    await world.activity.store.insert(block(rows), "t")
    assert await counts(world) == (4, 1, 0, 0)
    [[found]] = (await world.store.filed([("one", normal(message_id(1)))])).values()
    assert (found.event, found.attempt, found.organisation_id) == ("retrying", 4, rows[0].organisation_id)


async def test_an_attempt_is_found_by_our_own_id_of_the_message(world: ReceiptWorld) -> None:
    rows = [world.row(1), world.row(2, provider_message_id=""), world.row(3, provider_message_id="A,B")]
    await world.activity.store.insert(block(rows), "t")
    found = await world.store.filed_by_message([message_id(n) for n in (1, 2, 3, 4)])
    assert {name: [f.message_id for f in filed] for name, filed in found.items()} == {
        message_id(n): [message_id(n)] for n in (1, 3)
    }
    # Without an id of the carrier's it is filed under ours.
    assert await world.store.filed([("one", normal(message_id(2)))])


async def test_only_what_receipts_can_ask_for_is_filed(world: ReceiptWorld) -> None:
    ways = enumerate((RECEIPTS_BY_ANY_ID, RECEIPTS_BY_THEIR_ID, NO_RECEIPTS))
    rows = [world.row(n, receipts_by=way) for n, way in ways]
    rows += [world.row(5, outcome_unknown=True, provider_message_id="", receipts_by=NO_RECEIPTS)]
    # What a receipt made of an attempt is filed beside it, and does not say how receipts name it.
    rows += [world.row(1, event="delivered")]
    await world.activity.store.insert(block(rows), "t")
    assert await counts(world) == (5, 3, 1, 0)
    [[first]] = (await world.store.filed([("one", normal(rows[0].provider_message_id))])).values()
    [second] = (await world.store.filed([("one", normal(rows[1].provider_message_id))])).values()
    assert (first.message_id, {f.event for f in second}) == (message_id(0), {"sent", "delivered"})
    assert list(await world.store.filed_by_message([message_id(n) for n in range(6)])) == [message_id(0)]


async def test_a_block_sent_again_files_nothing_twice(world: ReceiptWorld) -> None:
    kept = msgspec.json.encode(message(0, now_us() + 10**9)).decode()
    rows = [world.row(n, provider_message_id=f"{n}a,{n}b", kept=kept if n == 0 else "") for n in range(60)]
    for _ in range(3):
        await world.activity.store.insert(block(rows), "same")
    assert await counts(world) == (60, 120, 60, 1)


@pytest.mark.parametrize("view", ["activity_to_outstanding", "activity_to_outstanding_messages"])
async def test_a_block_that_never_reached_a_view_reaches_it_when_sent_again(
    world: ReceiptWorld, view: str
) -> None:
    """What a server killed between the table and its view leaves behind."""
    rows = [world.row(n) for n in range(10)]
    await world.activity.query(f"DETACH TABLE {view}")
    await world.activity.store.insert(block(rows), "t")
    await world.activity.query(f"ATTACH TABLE {view}")
    await world.activity.store.insert(block(rows), "t")
    assert await counts(world) == (10, 10, 10, 0)


async def test_a_message_to_be_sent_again_is_kept_apart_from_the_activity(world: ReceiptWorld) -> None:
    kept = [message(n, now_us() + 3_600_000_000) for n in range(3)]
    rows = [world.row(n, kept=msgspec.json.encode(m).decode(), attempt=n + 1) for n, m in enumerate(kept)]
    rows += [world.row(8), world.row(9, kept="junk")]
    await world.activity.store.insert(block(rows), "t")
    asked = [(message_id(n), n + 1) for n in range(3)] + [(message_id(0), 2), (message_id(9), 1)]
    assert await world.store.kept(asked) == {(message_id(n), n + 1): kept[n] for n in range(3)}
    assert await world.store.kept([]) == {}
    assert await counts(world) == (5, 5, 5, 3)
    columns = await world.activity.query("SELECT name FROM system.columns WHERE table = 'activity'")
    assert ("kept",) not in columns
    [stored] = await world.activity.stored(rows[0].organisation_id, message_id(0), rows[0].accepted_at_us)
    assert stored == msgspec.structs.replace(rows[0], kept="")


async def test_a_batch_of_keys_is_found_without_reading_the_table(world: ReceiptWorld) -> None:
    for first in range(0, 60_000, 20_000):
        rows = [world.row(n) for n in range(first, first + 20_000)]
        await world.activity.store.insert(block(rows, ms=first + 1), f"t{first}")
    wanted = range(0, 60_000, 1000)
    filed = await world.store.filed([("one", normal(world.row(n).provider_message_id)) for n in wanted])
    assert sorted(f.message_id for found in filed.values() for f in found) == [message_id(n) for n in wanted]
    keys = ", ".join(str(key_of("one", normal(world.row(n).provider_message_id))) for n in wanted)
    plan = await world.activity.query(
        f"EXPLAIN indexes = 1 SELECT row FROM outstanding PREWHERE key IN ({keys})"
    )
    granules = [line for (line,) in plan if "Granules" in line]
    read, _, of = granules[-1].rpartition(" ")[2].partition("/")
    # One granule a key and part at most, of 64 rows.
    assert int(read) <= 3 * len(wanted) < int(of)


async def test_a_receipt_given_up_twice_is_kept_once(world: ReceiptWorld) -> None:
    lost = [receipt(1), receipt(2, "undelivered", to="", message_id=message_id(2))]
    for _ in range(2):
        await world.store.give_up([(lost[0], "unknown"), (lost[1], "ambiguous")], now_us())
    found = await world.activity.query(
        "SELECT provider, provider_message_id, message_id, state, code, to, reason,"
        " toUnixTimestamp64Micro(at) FROM receipts_unmatched FINAL ORDER BY provider_message_id"
    )
    assert found == [
        (r.provider, r.provider_message_id, r.message_id, r.state, r.code, r.to, reason, r.at_us)
        for r, reason in zip(lost, ("unknown", "ambiguous"), strict=True)
    ]
    now_s = now_us() // 1_000_000
    assert (await world.store.unmatched(now_s - 60), await world.store.unmatched(now_s + 60)) == (2, 0)


async def test_a_store_that_is_away_is_unavailable() -> None:
    away = ClickHouseAttempts("http://u:p@127.0.0.1:1/db", timeout_s=1.0)
    with pytest.raises(Unavailable, match="ClickHouse at"):
        await away.filed([("one", "a")])
    assert await away.filed_by_message([]) == {}
    await away.close()
