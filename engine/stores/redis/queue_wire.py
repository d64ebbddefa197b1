"""The commands of a worker to the queue streams, and the entries in their replies. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec

from engine import message_format
from engine.delivery.settlement import DELIVERIES_MAX
from engine.lifecycle import SettlementOutcome
from engine.records import NO_RECORD, Entry, Queue, Settlement
from engine.redis_keys import (
    GROUP,
    activity_key,
    dead_key,
    due_key,
    held_by_key,
    held_key,
    holder_key,
    holders_key,
    line_keys,
    queue_key,
    usage_head_key,
    usage_key,
)
from engine.stores.redis.link import Argument, Command
from engine.stores.redis.lua_libraries import versioned

_SETTLE = versioned("settle")
_SETTLE_UNREAD = versioned("settle_unread")
_encode = msgspec.msgpack.Encoder().encode
_OUTCOMES: dict[SettlementOutcome, bytes] = {
    "captured": b"c",
    "released": b"r",
    "retry": b"d",
    "dead": b"x",
}

# An entry as a stream holds it: (id, payload, how often it has been delivered).
RawEntry = tuple[bytes, bytes, int]


# An entry whose message was accepted, and the row of that, packed.
SentEntry = tuple[Entry, bytes]


class Undecodable(msgspec.Struct, frozen=True):
    """An entry whose payload this version cannot read as a `Message`."""

    shard: int
    entry_id: bytes
    payload: bytes


def decoded(shard: int, queue: Queue, raw: Iterable[RawEntry]) -> tuple[list[Entry], list[Undecodable]]:
    """(the entries that hold a message, those that do not)."""
    entries: list[Entry] = []
    undecodable: list[Undecodable] = []
    for entry_id, payload, deliveries in raw:
        try:
            message = message_format.unpacked(payload)
        except NO_RECORD:
            undecodable.append(Undecodable(shard, entry_id, payload))
        else:
            entries.append(
                Entry(shard=shard, queue=queue, entry_id=entry_id, message=message, deliveries=deliveries)
            )
    return entries, undecodable


def read(queue: Queue, name: str, shards: Sequence[int], count: int, block_ms: int | None) -> Command:
    """Read up to `count` new entries of each shard's stream; reply [[key, [[id, fields] …]] …] or None.

    `block_ms`: how long Redis waits for the first one, milliseconds; None: not at all.
    """
    block: Command = () if block_ms is None else ("BLOCK", block_ms)
    keys = [queue_key(shard, queue) for shard in shards]
    new = [b">"] * len(keys)
    return ("XREADGROUP", "GROUP", GROUP, name, "COUNT", count, *block, "STREAMS", *keys, *new)


def unread(queue: Queue, shard: int, after: bytes, limit: int) -> Command:
    """Look at up to `limit` entries behind the id `after` that no worker has been given; reply
    [[id, fields] …]."""
    return ("FCALL", versioned("unread"), 1, queue_key(shard, queue), after, limit)


def settle(
    queue: Queue,
    name: str,
    shard: int,
    mark: int,
    settlements: Sequence[Settlement],
    sent: Sequence[SentEntry] = (),
    *,
    unread: bool = False,
) -> Command:
    """Settle entries of one shard in one call; reply [how many counted, the weight that waits behind the
    stream now] (see `settle` and `finish` in queue.lua).

    `mark`: how many unread entries the stream shall hold. `unread`: entries that no worker has been given,
    instead of those that `name` has been given.
    """
    flat: list[Argument] = []
    for s in settlements:
        message, outcome = s.entry.message, s.outcome
        flat += (
            s.entry.entry_id,
            _OUTCOMES[outcome],
            message.organisation_id,
            message.units,
            b"" if s.row is None else _encode(s.row),
        )
        if outcome == "retry":
            flat += (s.due_at_us, message_format.packed(s.message or message))
        elif outcome == "dead":
            flat.append(message_format.packed(s.message or message))
    for entry, row in sent:
        message = entry.message
        flat += (entry.entry_id, b"c", message.organisation_id, message.units, row)
    function = _SETTLE_UNREAD if unread else _SETTLE
    return _settle(queue, name, shard, mark, len(settlements) + len(sent), flat, function)


def leave_for_others(queue: Queue, name: str, mark: int, entry: Undecodable, due_at_us: int) -> Command:
    """Put an entry on the due set as it is, until then; its units stay held. The rest is as for `settle`."""
    flat: list[Argument] = [entry.entry_id, b"d", 0, 0, b"", due_at_us, entry.payload]
    return _settle(queue, name, entry.shard, mark, 1, flat)


def _settle(
    queue: Queue,
    name: str,
    shard: int,
    mark: int,
    count: int,
    flat: Sequence[Argument],
    function: str = _SETTLE,
) -> Command:
    keys = _settle_keys(queue, shard)
    return ("FCALL", function, len(keys), *keys, name, mark, count, *flat)


@cache
def _settle_keys(queue: Queue, shard: int) -> tuple[bytes, ...]:
    return (
        *line_keys(shard, queue),
        due_key(shard, queue),
        dead_key(shard, queue),
        activity_key(shard),
        usage_key(shard),
        usage_head_key(shard),
        held_key(shard),
        held_by_key(shard),
    )


def promote(queue: Queue, shard: int, now_us: int, limit: int, mark: int) -> Command:
    """Let up to `limit` messages that are due at `now_us` into the queue; reply [how many, the weight that
    waits behind the stream now]. `mark`: as for `settle`."""
    keys = (due_key(shard, queue), *line_keys(shard, queue))
    return ("FCALL", versioned("promote"), len(keys), *keys, now_us, limit, mark)


def refill(queue: Queue, shard: int, mark: int) -> Command:
    """Let the stream hold `mark` unread entries, if so many messages wait; reply: the weight that
    waits then."""
    keys = line_keys(shard, queue)
    return ("FCALL", versioned("refill"), len(keys), *keys, mark)


def sift(queue: Queue, shard: int, cursor: bytes, chunks: int) -> Command:
    """Move messages whose validity is over from the lists behind the stream into it, as far as they lie in
    about so many chunks behind `cursor`; reply [next cursor, how many were moved]."""
    keys = line_keys(shard, queue)
    return ("FCALL", versioned("sift"), len(keys), *keys, cursor, chunks)


def take_over(queue: Queue, name: str, shard: int, min_idle_ms: int, limit: int, suspects: int) -> Command:
    """Take over entries of other workers; reply [[[id, payload, deliveries] …], suspects passed over].

    See `take_over` in queue.lua.
    """
    keys = (queue_key(shard, queue), holders_key(shard))
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


def make_group(queue: Queue, shard: int) -> Command:
    """Make the consumer group, from the first entry on; reply: 1 when it was made, 0 when it is there."""
    return ("FCALL", versioned("make_group"), 1, queue_key(shard, queue))


def register(name: str, shard: int) -> Command:
    """Register a worker as alive, as a holder registers; reply: its epoch, which workers ignore."""
    return ("FCALL", versioned("register"), 2, holder_key(shard, name), holders_key(shard), name)


def beat(name: str, shard: int) -> Command:
    """Show that a worker lives; reply: 1 when it is registered, 0 when it was fenced."""
    return ("FCALL", versioned("beat"), 1, holders_key(shard), name)


def fields_of(entries: Any) -> Iterable[RawEntry]:
    """Entries of a reply, [[id, [field, payload]] …], as delivered for the first time."""
    return [(entry_id, fields[1], 1) for entry_id, fields in entries]
