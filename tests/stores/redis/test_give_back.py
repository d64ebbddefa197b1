"""What is given back unsent is read before all that came after it, and nothing else changes its place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine import message_format
from engine import redis_keys as keys
from engine.delivery.ports import Recall
from engine.delivery.settlement import put_back, put_off_in, unroutable
from engine.limits.records import LimitRow
from engine.organisations import Limits
from engine.records import Entry, Message, Settlement
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.queue import QueueStreams
from tests.stores.redis.test_put_off import SHARD, WAY, PutOffKit, ids, of
from tests.stores.redis.test_put_off import kit as kit

MARK = 40


async def let_in(kit: PutOffKit, *messages: Message, bundle: int = 5, mark: int = MARK) -> None:
    """Messages come by the door of the line, in bundles."""
    due = keys.due_key(SHARD, "normal")
    await kit.link.batch([("ZADD", due, n, message_format.packed(m)) for n, m in enumerate(messages, 1)])
    await kit.link.batch(
        [wire.promote("normal", SHARD, 1 << 50, len(messages), wire.Room(mark, bundle, None))]
    )


async def read_all(reader: QueueStreams) -> list[Entry]:
    """Read and settle until nothing is left, in the order in which it is read."""
    reader.ready_max = MARK
    found: list[Entry] = []
    while more := await reader.read(7, 50):
        found += more
        await reader.settle([_sent(entry) for entry in more])
    return found


def _sent(entry: Entry) -> Settlement:
    return unroutable(entry, 1)


def of_one(entries: Sequence[Entry], organisation_id: int) -> list[str]:
    return [i for i in ids(entries) if i.startswith(f"{organisation_id}-")]


async def bundled(kit: PutOffKit) -> int:
    return int((await kit.fields()).get(b"bundled", 0))


@pytest.mark.parametrize("count", [20, 200])
@pytest.mark.parametrize("bundle", [1, 5, 10])
async def test_what_is_given_back_comes_before_what_lies_unread(
    kit: PutOffKit, count: int, bundle: int
) -> None:
    reader = await kit.reader("w")
    await let_in(kit, *of(7, count), bundle=bundle)
    hand = await reader.read(11, 50)
    await reader.settle([put_back(entry) for entry in hand])
    assert ids(await read_all(reader)) == [f"7-{n:05}" for n in range(count)]
    assert (await kit.waiting(), await kit.pending(), await bundled(kit)) == (0, 0, 0)


async def test_what_is_given_back_in_parts_and_in_any_order_comes_in_order(kit: PutOffKit) -> None:
    one, other = await kit.reader("w"), await kit.reader("other")
    await let_in(kit, *of(7, 100))
    hands = [(r, e) for r in (one, other, one, other) for e in await r.read(5, 50)]
    for reader, entry in reversed(hands):
        await reader.settle([put_back(entry)])
    assert ids(await read_all(one)) == [f"7-{n:05}" for n in range(100)]


@pytest.mark.parametrize("bundle", [1, 5, 10])
async def test_messages_of_others_keep_their_order(kit: PutOffKit, bundle: int) -> None:
    reader = await kit.reader("w")
    mixed = [m for some in zip(*(of(o, 60) for o in (7, 8, 9)), strict=True) for m in some]
    await let_in(kit, *mixed, bundle=bundle)
    hand = await reader.read(9, 50)
    sevens = [entry for entry in hand if entry.message.organisation_id == 7]
    await reader.settle([put_back(entry) for entry in sevens])
    await reader.settle([_sent(entry) for entry in hand if entry not in sevens])
    found = [entry for entry in hand if entry not in sevens] + await read_all(reader)
    for organisation in (7, 8, 9):
        assert of_one(found, organisation) == [f"{organisation}-{n:05}" for n in range(60)]
    assert len(found) == 180


async def test_what_others_have_that_are_paused_is_not_sent_for_it(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    mixed = [m for some in zip(*(of(o, 15) for o in (7, 8, 9)), strict=True) for m in some]
    await let_in(kit, *mixed)
    hand = await reader.read(5, 50)
    await kit.limit(LimitRow(8, Limits(), True))
    await reader.settle([put_back(entry) for entry in hand if entry.message.organisation_id == 7])
    await reader.settle([_sent(entry) for entry in hand if entry.message.organisation_id != 7])
    # An entry of it that is read became ready before the pause, and its worker gives it back.
    [_, paused] = (await kit.link.call("HGET", keys.limits_key(SHARD), "paused")).split(b":")[1:]
    found = await read_all(reader)
    late = [e for e in found if e.message.organisation_id == 8]
    assert all(tuple(map(int, e.entry_id.split(b"-"))) <= tuple(map(int, paused.split(b"-"))) for e in late)
    assert of_one(found, 7) == [f"7-{n:05}" for n in range(15)]
    await kit.limit(LimitRow(8, Limits(), False))
    rest = of_one([*hand, *late, *await read_all(reader)], 8)
    assert sorted(rest) == [f"8-{n:05}" for n in range(15)]


async def test_what_was_in_the_hand_of_a_worker_that_died_says_so_still(kit: PutOffKit) -> None:
    dead, reader = await kit.reader("dead"), await kit.reader("w")
    await let_in(kit, *of(7, 5), *of(8, 30))
    assert ids(await dead.read(5, 50)) == [f"7-{n:05}" for n in range(5)]
    hand = await reader.read(5, 50)
    await kit.fence("dead")
    await reader.take_over(0, 10)
    await reader.settle([put_back(entry) for entry in hand])
    found = await read_all(reader)
    assert of_one(found, 8) == [f"8-{n:05}" for n in range(30)]
    assert {(e.message.id, e.deliveries, bool(e.first_id)) for e in found if e.deliveries > 1} == {
        (f"7-{n:05}", 2, True) for n in range(5)
    }


async def test_what_was_recalled_and_is_given_back_comes_before_what_was_recalled_after_it(
    kit: PutOffKit,
) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 60))
    await reader.promote(0, 10)
    hand = await kit.recalled(reader, 5)
    await let_in(kit, *of(8, 10))
    # These are unread.
    asks = await recall(reader, 5)
    assert asks == 5
    await reader.settle([put_back(entry) for entry in hand])
    assert [m.id for m in await kit.put_off_messages()] == [f"7-{n:05}" for n in range(60)]
    assert of_one(await read_all(reader), 8) == [f"8-{n:05}" for n in range(10)]
    found = ids(await kit.recalled(reader, 60))
    assert found == [f"7-{n:05}" for n in range(60)]


async def recall(reader: QueueStreams, count: int) -> int:
    """Recall messages, and do not read them."""
    await reader.promote(0, 10)
    asks = [Recall(w.shard, w.number, w.way, count, 1 << 30) for w in reader.put_off.waiting]
    return sum(messages for messages, _ in await reader.put_off.recall(asks))


async def test_the_last_that_is_recalled_comes_before_what_was_admitted_after_it(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await kit.put_off(reader, *of(7, 20))
    await let_in(kit, *of(7, 10, 20), *of(8, 10))
    assert await recall(reader, 100) == 20
    found = await read_all(reader)
    assert of_one(found, 7) == [f"7-{n:05}" for n in range(30)]
    assert {e.way for e in found[:10] if e.message.organisation_id == 7} <= {WAY}


async def test_what_came_before_what_is_put_off_goes_before_it(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await let_in(kit, *of(7, 5))
    hand = await reader.read(5, 50)
    await kit.put_off(reader, *of(7, 20, 5))
    await reader.settle([put_off_in(entry, WAY, front=True) for entry in hand])
    assert ids(await kit.recalled(reader, 100)) == [f"7-{n:05}" for n in range(25)]


async def test_a_give_back_that_is_repeated_does_nothing(kit: PutOffKit) -> None:
    reader = await kit.reader("w")
    await let_in(kit, *of(7, 100))
    hand = await reader.read(20, 50)
    back = [put_back(entry) for entry in hand]
    assert await reader.settle(back) == len(hand)
    before = await kit.fields()
    assert await reader.settle(back) == 0
    assert await kit.fields() == before
    assert ids(await read_all(reader)) == [f"7-{n:05}" for n in range(100)]
