"""The command `settle` of functions/queue. No I/O.

Settlements of one bundle go together. What Redis does when all of them count, which is nearly always, is
added up here; for the other cases it is told what each settlement alone would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from engine import message_format
from engine.delivery.sent import SentEntries
from engine.lifecycle import SettlementOutcome
from engine.records import Entry, Queue, Settlement
from engine.redis_keys import (
    activity_key,
    dead_key,
    due_key,
    held_by_key,
    held_key,
    line_keys,
    moved_key,
    usage_head_key,
    usage_key,
    ways_key,
)
from engine.stores.redis._entries import add_captured, captured_alone
from engine.stores.redis.link import Argument, Command
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.queue_wire import Room, Undecodable
from engine.stores.redis.whole_entries import end_of

_SETTLE = versioned("settle")
_SETTLE_UNREAD = versioned("settle_unread")
_encode = msgspec.msgpack.Encoder().encode


class Settled(msgspec.Struct, frozen=True):
    """What one settlement does."""

    entry_id: bytes
    place: int
    bundle: int
    outcome: SettlementOutcome
    organisation_id: int = 0
    units: int = 0
    # The row to record, MessagePack; b"": none.
    row: bytes = b""
    # For `retry` and `dead`: when it is due again, or to which way it is put off; the message as it is kept.
    due_at_us: int = 0
    payload: bytes = b""
    way: str = ""
    # Where there: "@", at the end; "<", at the front, because it was tried; "^", at the front, because it was
    # put off before or given back, and what of the same list was recalled and not read goes with it.
    place_there: str = "@"
    # The way from which it was recalled; "": none.
    recalled: str = ""

    @property
    def due(self) -> Argument:
        """When it is due again, as for `settle` in functions/queue."""
        if not self.way:
            return self.due_at_us
        return f"@{self.way}" if self.place_there == "@" else f"{self.place_there}{self.way}\0{self.recalled}"


def settled(settlement: Settlement) -> Settled:
    """What a settlement does."""
    entry, outcome = settlement.entry, settlement.outcome
    message, kept = entry.message, settlement.message
    return Settled(
        entry.entry_id,
        entry.place,
        entry.bundle,
        outcome,
        message.organisation_id,
        message.units,
        b"" if settlement.row is None else _encode(settlement.row),
        settlement.due_at_us,
        message_format.packed(kept or message) if outcome in ("retry", "dead") else b"",
        settlement.way,
        "^" if settlement.front or entry.way else "<" if message.attempts else "@",
        entry.way,
    )


class SentMessages(NamedTuple):
    """Messages that a provider accepted, and the row of each, packed: all those of a bundle, in the order of
    their places; or messages that are each alone in an entry."""

    entries: Sequence[Entry]
    rows: Sequence[bytes]


_NONE = SentMessages((), ())


class ShardSettlements:
    """What is settled of one shard together."""

    __slots__ = ("_alone", "_rows", "bundles", "some")

    def __init__(self) -> None:
        self.bundles: list[SentMessages] = []
        self.some: list[Settled] = []
        self._alone: list[Entry] = []
        self._rows: list[bytes] = []

    def add_alone(self, entry: Entry, row: bytes) -> None:
        """Add a message that a provider accepted and that was alone in its entry."""
        self._alone.append(entry)
        self._rows.append(row)

    @property
    def alone(self) -> SentMessages:
        """Messages that a provider accepted, each alone in its entry."""
        return SentMessages(self._alone, self._rows)


def of_shard(by_shard: dict[int, ShardSettlements], shard: int) -> ShardSettlements:
    """Those of `shard`, made when there are none yet."""
    found = by_shard.get(shard)
    if found is None:
        found = by_shard[shard] = ShardSettlements()
    return found


def add_sent(by_shard: dict[int, ShardSettlements], batch: SentEntries) -> None:
    """Add messages that a provider accepted."""
    entries, rows = batch.entries, batch.rows
    at, count = 0, len(entries)
    while at < count:
        entry = entries[at]
        of = by_shard.get(entry.shard) or of_shard(by_shard, entry.shard)
        if entry.bundle == 1:
            of.add_alone(entry, rows[at])
        elif (end := end_of(entries, at)) > at + 1:
            of.bundles.append(SentMessages(entries[at:end], rows[at:end]))
            at = end
            continue
        else:
            message = entry.message
            of.some.append(
                Settled(
                    entry.entry_id, entry.place, entry.bundle, "captured", message.organisation_id,
                    message.units, rows[at],
                )
            )  # fmt: skip
        at += 1


def by_shard(settlements: Sequence[Settlement], sent: Sequence[SentEntries]) -> dict[int, ShardSettlements]:
    """What settlements and accepted messages do, by their shards."""
    found: dict[int, ShardSettlements] = {}
    for settlement in settlements:
        of_shard(found, settlement.entry.shard).some.append(settled(settlement))
    for batch in sent:
        add_sent(found, batch)
    return found


def left_for_others(entry: Undecodable, due_at_us: int) -> Settled:
    """Put a message on the due set as it is, until then; its units stay held."""
    return Settled(
        entry.entry_id, entry.place, entry.bundle, "retry", due_at_us=due_at_us, payload=entry.payload
    )


def settle(
    queue: Queue,
    name: str,
    shard: int,
    room: Room,
    some: Sequence[Settled],
    sent: Sequence[SentMessages] = (),
    alone: SentMessages = _NONE,
    *,
    unread: bool = False,
) -> Command:
    """Settle messages of one shard in one call; reply [how many counted, the weight that waits behind the
    stream now] (see `settle` and `finish` in functions/queue). Of several settlements of one message the
    first counts.

    `sent`: bundles, `alone`: entries of one message, none of them in `some`. `unread`: messages that no
    worker has been given, instead of those that one has been given.
    """
    bundles, singles, parts, retries = _by_entry(some)
    sums = _Sums(retries)
    details = [*map(sums.add_sent, sent), *map(sums.add, bundles), *sums.add_alone(alone)]
    details += map(sums.add, singles + parts)
    keys, whole, ones = _keys(queue, shard), len(sent) + len(bundles), len(alone.entries)
    return (
        "FCALL",
        _SETTLE_UNREAD if unread else _SETTLE,
        len(keys),
        *keys,
        name,
        *room.arguments(),
        whole + ones + len(singles),
        whole,
        sum(len(bundle.entries) for bundle in sent) + ones + sum(map(len, bundles + singles)),
        len(parts),
        sum(map(len, parts)),
        len(sums.due) // 2,
        len(sums.dead),
        len(sums.rows),
        b"".join(sums.rows),
        _encode([unit for of in sums.units.items() for unit in (of[0], *of[1])]),
        _encode(details),
        *[bundle.entries[0].entry_id for bundle in sent],
        *_ids(bundles),
        *[entry.entry_id for entry in alone.entries],
        *_ids(singles),
        *[argument for messages in parts for argument in _part(messages)],
        *sums.due,
        *sums.dead,
    )


def _keys(queue: Queue, shard: int) -> tuple[bytes, ...]:
    return (
        *line_keys(shard, queue),
        due_key(shard, queue),
        dead_key(shard, queue),
        activity_key(shard),
        usage_key(shard),
        usage_head_key(shard),
        held_key(shard),
        held_by_key(shard),
        ways_key(shard, queue),
        moved_key(shard),
    )


# Settlements of messages of one entry, by their places.
_Messages = dict[int, Settled]


def _by_entry(
    some: Sequence[Settled],
) -> tuple[list[_Messages], list[_Messages], list[_Messages], list[Settled]]:
    """(whole bundles, entries of one message, parts of bundles, and those of all these that are due again, in
    the order of `some`). Of a message that is settled twice, the first counts."""
    by_entry: dict[bytes, _Messages] = {}
    retries = []
    for of in some:
        messages = by_entry.setdefault(of.entry_id, {})
        if of.place not in messages:
            messages[of.place] = of
            if of.outcome == "retry":
                retries.append(of)
    whole_bundles: list[_Messages] = []
    singles: list[_Messages] = []
    parts: list[_Messages] = []
    for messages in by_entry.values():
        size = next(iter(messages.values())).bundle
        if len(messages) == size:
            (whole_bundles if size > 1 else singles).append(messages)
        else:
            parts.append(messages)
    return whole_bundles, singles, parts, retries


def _ids(entries: Sequence[_Messages]) -> list[bytes]:
    return [_first(messages).entry_id for messages in entries]


def _first(messages: _Messages) -> Settled:
    return next(iter(messages.values()))


def _part(messages: dict[int, Settled]) -> tuple[Argument, Argument, Argument]:
    first = _first(messages)
    return first.entry_id, first.bundle, bytes(messages)


class _Sums:
    """What settlements come to, if all of them count."""

    def __init__(self, retries: Sequence[Settled]) -> None:
        """`retries`: what is due again, in the order in which it is to be."""
        # By organisation: units captured and released.
        self.units: dict[int, list[int]] = {}
        self.rows: list[bytes] = []
        # due_at_us and payload of each message that is due again, and its number by entry and place; payloads
        # of dead letters.
        self.due: list[Argument] = []
        self._numbers: dict[tuple[bytes, int], int] = {}
        self.dead: list[Argument] = []
        for number, of in enumerate(retries, 1):
            self.due += (of.due, of.payload)
            self._numbers[of.entry_id, of.place] = number

    def add_sent(self, bundle: SentMessages) -> list[int]:
        """As `add`, for a bundle whose messages were accepted."""
        self.rows += bundle.rows
        return add_captured(self.units, bundle.entries, bundle.rows)

    def add_alone(self, alone: SentMessages) -> list[list[int]]:
        """As `add`, for messages that were accepted and are each alone in an entry."""
        self.rows += alone.rows
        return captured_alone(self.units, *alone)

    def add(self, messages: dict[int, Settled]) -> list[int]:
        """Add settlements of one entry; what each alone would be, as for `settle` in functions/queue."""
        details: list[int] = []
        for place, of in messages.items():
            captured = released = put = 0
            if of.outcome == "retry":
                put = self._numbers[of.entry_id, place]
            elif of.outcome == "dead":
                self.dead.append(of.payload)
                put = -len(self.dead)
            else:
                sums = self.units.setdefault(of.organisation_id, [0, 0])
                if of.outcome == "captured":
                    captured = of.units
                else:
                    released = of.units
                sums[0] += captured
                sums[1] += released
            if of.row:
                self.rows.append(of.row)
            details += (place, of.organisation_id, captured, released, len(of.row), put)
        return details
