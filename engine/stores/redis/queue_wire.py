"""The commands of a worker to the queue streams, and the messages in their replies. No I/O.

The command `settle` is in `settle_wire.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from engine import bundle_format, message_format
from engine.delivery.ports import PutOff, Recall
from engine.delivery.settlement import DELIVERIES_MAX
from engine.records import NO_RECORD, Entry, Message, Queue
from engine.redis_keys import (
    GROUP,
    due_key,
    holder_key,
    holders_key,
    line_keys,
    moved_key,
    queue_key,
    wait_key,
    ways_key,
)
from engine.stores.redis._entries import add_entries, array_of
from engine.stores.redis.link import Command
from engine.stores.redis.lua_libraries import versioned

# An entry as a stream holds it: (id, payload, how often its message was delivered, of a bundle: which of its
# messages are settled, see functions/queue; the bundle out of which its message was taken; of messages that
# were put off, their way).
RawEntry = tuple[bytes, bytes, int, bytes, bytes, bytes]
_unpack = msgspec.msgpack.Decoder(list[Any]).decode
# How many values the hash of a line has of each way.
_OF_WAY = 10
# Bits of what `pending_in` answers.
OWN, OTHERS = 1, 2
# Of a bundle, the messages that are settled.
_SETTLED = b"x"


class Room(msgspec.Struct, frozen=True):
    """What a stream may hold, as its workers say."""

    # So many messages that no worker has been given; 0: what waits is left in its lists until it is taken.
    mark: int
    # So many messages in one entry. Redis writes no more than a part of the mark.
    bundle_max: int = bundle_format.MESSAGES_MAX
    # So many messages are sent in 20 ms, by which turns are measured; None: as many as the mark.
    moment: int | None = None

    def arguments(self) -> Command:
        """As the functions take them: mark, moment, bundle_max."""
        return self.mark, self.mark if self.moment is None else self.moment, self.bundle_max


class Undecodable(msgspec.Struct, frozen=True):
    """A message that this version cannot read as a `Message`; the rest is as in `Entry`."""

    shard: int
    entry_id: bytes
    payload: bytes
    place: int = 0
    bundle: int = 1


def decoded(shard: int, queue: Queue, raw: Iterable[RawEntry]) -> tuple[list[Entry], list[Undecodable]]:
    """(the messages of these entries that are not settled, those that cannot be read)."""
    entries: list[Entry] = []
    undecodable: list[Undecodable] = []
    for one in raw:
        entry_id, packed, deliveries, note, first_id, way = one
        messages = None if note or way else _all_of(packed)
        if messages is None:
            _add_each(entries, undecodable, shard, queue, one)
        else:
            add_entries(entries, messages, shard, queue, entry_id, deliveries, first_id)
    return entries, undecodable


def _all_of(packed: bytes) -> list[Message] | None:
    """The messages of an entry; None when there is anything out of the ordinary about one of them."""
    try:
        if not bundle_format.is_bundle(packed):
            return [message_format.unpacked(packed)]
        array = array_of(packed, message_format.FIELDS_MAX)
        return None if array is None else message_format.all_unpacked(array)
    except NO_RECORD:
        return None


def _add_each(
    entries: list[Entry], undecodable: list[Undecodable], shard: int, queue: Queue, raw: RawEntry
) -> None:
    """Append the messages of one entry, one after another."""
    entry_id, packed, deliveries, note, first_id, way = raw
    payloads = bundle_format.payloads_of(packed)
    bundle = len(payloads)
    for place, payload in enumerate(payloads):
        if note[place : place + 1] == _SETTLED:
            continue
        try:
            message = message_format.unpacked(payload)
        except NO_RECORD:
            undecodable.append(Undecodable(shard, entry_id, payload, place, bundle))
        else:
            entries.append(
                Entry(
                    shard=shard,
                    queue=queue,
                    entry_id=entry_id,
                    message=message,
                    deliveries=deliveries,
                    place=place,
                    bundle=bundle,
                    first_id=first_id,
                    way=way.decode(),
                )
            )


def read(queue: Queue, name: str, shards: Sequence[int], count: int, block_ms: int | None) -> Command:
    """Read up to `count` new entries of each shard's stream; reply [[key, [[id, fields] …]] …] or None.

    `block_ms`: how long Redis waits for the first one, milliseconds; None: not at all.
    """
    block: Command = () if block_ms is None else ("BLOCK", block_ms)
    keys = [queue_key(shard, queue) for shard in shards]
    new = [b">"] * len(keys)
    return ("XREADGROUP", "GROUP", GROUP, name, "COUNT", count, *block, "STREAMS", *keys, *new)


def unread(queue: Queue, shard: int, after: bytes, limit: int) -> Command:
    """Look at about `limit` messages behind the entry `after` that no worker has been given; reply
    [[[id, fields, which messages are settled] …], 1 when there are more]."""
    return ("FCALL", versioned("unread"), 2, *line_keys(shard, queue)[:2], after, limit)


def due_in(queue: Queue, shards: Iterable[int], mark: int) -> Command:
    """Ask from which time on `promote` has something to do, and what is put off; reply: [by shard,
    microseconds, -1 for never; by shard, its ways (see `ways_of`)]."""
    keys = [key for s in shards for key in (due_key(s, queue), wait_key(s, queue))]
    return ("FCALL", versioned("due_in"), len(keys), *keys, mark)


def unread_in(queue: Queue, shards: Iterable[int]) -> Command:
    """Ask where messages are that no worker has been given; reply: by shard, 1 or 0."""
    keys = [key for s in shards for key in (queue_key(s, queue), wait_key(s, queue))]
    return ("FCALL", versioned("unread_in"), len(keys), *keys)


def pending_in(queue: Queue, name: str, shards: Iterable[int]) -> Command:
    """Ask where entries are pending; reply: by shard, OWN when `name` has some, with OTHERS when `take_over`
    has something to do."""
    keys = [key for s in shards for key in (queue_key(s, queue), holders_key(s))]
    return ("FCALL", versioned("pending_in"), len(keys), *keys, name)


def promote(queue: Queue, shard: int, now_us: int, limit: int, room: Room) -> Command:
    """Let up to `limit` messages that are due at `now_us` into the queue; reply [how many, the weight that
    waits behind the stream now]."""
    keys = (due_key(shard, queue), *line_keys(shard, queue))
    return ("FCALL", versioned("promote"), len(keys), *keys, now_us, limit, *room.arguments())


def refill(queue: Queue, shard: int, room: Room, taken: int | None = None) -> Command:
    """Fill the stream up to its mark, or to `taken` messages, if so many wait; reply: the weight that waits
    then."""
    keys = line_keys(shard, queue)
    return (
        "FCALL", versioned("refill"), len(keys), *keys, *room.arguments(), "" if taken is None else taken
    )  # fmt: skip


def recall(queue: Queue, of: Recall, room: Room) -> Command:
    """Move messages that are put off to the stream; reply [how many, their segments, the ways of the shard as
    they are then, the weight that waits behind the stream]."""
    keys = (*line_keys(of.shard, queue), ways_key(of.shard, queue), moved_key(of.shard))
    return (
        "FCALL", versioned("recall"), len(keys), *keys,
        of.number, of.way, of.messages, of.segments, *room.arguments(), of.plan,
    )  # fmt: skip


def ways_of(shard: int, packed: bytes) -> list[PutOff]:
    """What is put off in a shard, from what its hash has of the ways (see 07_put_off.lua)."""
    flat = _unpack(packed) if packed else []
    return [PutOff(shard, *flat[first : first + 4]) for first in range(0, len(flat), _OF_WAY)]


def sift(queue: Queue, shard: int, cursor: bytes, chunks: int, room: Room) -> Command:
    """Move messages whose validity is over from the lists behind the stream into it, as far as they lie in
    about so many chunks behind `cursor`; reply [next cursor, how many were moved]."""
    keys = line_keys(shard, queue)
    return ("FCALL", versioned("sift"), len(keys), *keys, cursor, chunks, room.bundle_max)


def take_over(queue: Queue, name: str, shard: int, min_idle_ms: int, limit: int, suspects: int) -> Command:
    """Take over entries of other workers; reply [[[id, fields, deliveries] …], suspects passed over, messages
    taken out of bundles].

    See `take_over` in functions/queue.
    """
    keys = (*line_keys(shard, queue), holders_key(shard))
    return (
        "FCALL",
        versioned("take_over"),
        len(keys),
        *keys,
        name,
        min_idle_ms,
        limit,
        suspects,
        DELIVERIES_MAX,
    )


def own_pending(queue: Queue, name: str, shard: int, min_idle_ms: int, start: bytes, limit: int) -> Command:
    """List pending entries of `name` from the id `start` on; reply [[id, name, idle ms, deliveries] …]."""
    return ("XPENDING", queue_key(shard, queue), GROUP, "IDLE", min_idle_ms, start, "+", limit, name)


def own_again(queue: Queue, name: str, shard: int, entry_id: bytes, idle_ms: int, deliveries: int) -> Command:
    """Read a pending entry of `name` once more; reply [[id, fields]] or [].

    `idle_ms` is what `own_pending` has just said. When another worker has claimed the entry since,
    it is idle for less and stays with that worker. `deliveries` is kept as it was, so a lost answer
    does not count as a delivery.
    """
    return ("XCLAIM", queue_key(shard, queue), GROUP, name, idle_ms, entry_id, "RETRYCOUNT", deliveries)


def noted(queue: Queue, shard: int, entry_id: bytes) -> Command:
    """Which messages of a bundle are settled; reply: as in `RawEntry`, None when none is."""
    return ("HGET", line_keys(shard, queue)[1], b"part:" + entry_id.partition(b"-")[2])


def make_group(queue: Queue, shard: int) -> Command:
    """Make the consumer group, from the first entry on; reply: 1 when it was made, 0 when it is there."""
    return ("FCALL", versioned("make_group"), 1, queue_key(shard, queue))


def register(name: str, shard: int) -> Command:
    """Register a worker as alive, as a holder registers; reply: its epoch, which workers ignore."""
    return ("FCALL", versioned("register"), 2, holder_key(shard, name), holders_key(shard), name)


def beat(name: str, shard: int) -> Command:
    """Show that a worker lives; reply: 1 when it is registered, 0 when it was fenced."""
    return ("FCALL", versioned("beat"), 1, holders_key(shard), name)


def raw_entry(entry_id: bytes, fields: Sequence[bytes], given: int = 1, note: bytes | None = b"") -> RawEntry:
    """An entry from its fields; `given`: how often it was delivered."""
    if len(fields) == 2:
        return entry_id, fields[1], given, note or b"", b"", b""
    way = fields[7] if len(fields) > 6 else b""
    return entry_id, fields[1], given + int(fields[3]), note or b"", fields[5], way


def fields_of(entries: Any) -> list[RawEntry]:
    """Entries of a reply, [[id, fields] …], as delivered for the first time."""
    return [
        (entry_id, fields[1], 1, b"", b"", b"") if len(fields) == 2 else raw_entry(entry_id, fields)
        for entry_id, fields in entries
    ]
