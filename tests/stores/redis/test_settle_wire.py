"""What is settled together goes to Redis whole, and comes to the same as one by one."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from engine.delivery.sent import SentEntries
from engine.records import Entry
from engine.stores.redis import settle_wire
from engine.stores.redis.in_hand import HeldEntries
from engine.stores.redis.link import Command
from engine.stores.redis.queue_wire import Room
from engine.stores.redis.settle_wire import Settled
from tests.stores.redis.kit import message

ROOM = Room(64)


def bundle(name: str, size: int, shard: int = 0) -> list[Entry]:
    entry_id = f"{name}-{size}".encode()
    return [
        Entry(
            shard=shard, queue="normal", entry_id=entry_id, place=place, bundle=size,
            message=message(f"{name}{place}", organisation_id=1 + place % 3, units=1 + place),
        )
        for place in range(size)
    ]  # fmt: skip


def row_of(entry: Entry) -> bytes:
    return entry.message.id.encode()


def what_it_says(command: Command) -> object:
    """The parts of a `settle` that Redis acts on, the order of entries aside."""
    keys = int(command[2])
    arguments = command[3 + keys :]
    wholes, bundles, in_wholes, parts, in_parts = arguments[4:9]
    details = msgspec.msgpack.decode(arguments[14])
    rows, at, by_entry = bytes(arguments[11 + 1]), 0, []
    ids = [*arguments[15 : 15 + int(wholes)], *arguments[15 + int(wholes) :: 3]][: int(wholes) + int(parts)]
    for number, (entry_id, flat) in enumerate(zip(ids, details, strict=True)):
        own = []
        for n in range(0, len(flat), 6):
            own.append((flat[n : n + 4], rows[at : at + flat[n + 4]]))
            at += flat[n + 4]
        by_entry.append((entry_id, number < int(bundles), number < int(wholes), sorted(own)))
    flat = msgspec.msgpack.decode(arguments[13])
    units = {flat[n]: flat[n + 1 : n + 3] for n in range(0, len(flat), 3)}
    return (wholes, bundles, in_wholes, parts, in_parts, sorted(by_entry), units)


@pytest.mark.parametrize("seed", range(8))
def test_messages_accepted_together_are_settled_as_one_by_one(seed: int) -> None:
    rng = Random(seed)
    runs = [bundle(f"{n}", rng.choice((1, 1, 2, 5, 50))) for n in range(8)]
    if seed % 2:
        # Some of each are settled, in any order.
        runs = [rng.sample(run, rng.randint(1, len(run))) for run in runs]
    entries = [entry for run in runs for entry in run]
    if seed % 4 == 3:
        rng.shuffle(entries)
    at = rng.randrange(len(entries))
    by_shard: dict[int, settle_wire.ShardSettlements] = {}
    for some in (entries[:at], entries[at:]):
        settle_wire.add_sent(by_shard, SentEntries(some, [row_of(entry) for entry in some], 5))
    of = by_shard[0]
    alone = [
        Settled(
            e.entry_id, e.place, e.bundle, "captured", e.message.organisation_id, e.message.units, row_of(e)
        )
        for e in entries
    ]
    together = settle_wire.settle("normal", "w", 0, ROOM, of.some, of.bundles, of.alone)
    assert what_it_says(together) == what_it_says(settle_wire.settle("normal", "w", 0, ROOM, alone))
    if seed % 2 == 0:
        # Of large ones, no more than that in which the two batches meet is settled message by message.
        assert len(of.some) <= 50


def test_messages_of_entries_with_the_same_id_in_two_shards_are_not_taken_for_one_bundle() -> None:
    first, second = bundle("1", 2), bundle("1", 2, shard=1)
    by_shard: dict[int, settle_wire.ShardSettlements] = {}
    mixed = [first[0], second[1], second[0], first[1]]
    settle_wire.add_sent(by_shard, SentEntries(mixed, [row_of(e) for e in mixed], 5))
    assert [len(by_shard[shard].some) for shard in (0, 1)] == [2, 2]


def test_a_bundle_is_in_hand_until_its_last_message_is_let_go() -> None:
    hand, run = HeldEntries(1), bundle("1", 5)
    assert hand.take(run) == run
    # Redis gives it again, and what is in hand is not taken twice.
    again = bundle("1", 5)
    assert hand.take(again) == []
    hand.let_go(run[1:3])
    assert hand.holds(0, run[0].entry_id)
    assert hand.take(again) == again[1:3]
    hand.let_go(run)
    assert not hand.holds(0, run[0].entry_id)
    hand.take(run)
    hand.drop(run[:1])
    assert not hand.holds(0, run[0].entry_id)
    assert [entry.place for entry in hand.take(bundle("1", 5))] == [0]
    assert hand.holds(0, run[0].entry_id)
