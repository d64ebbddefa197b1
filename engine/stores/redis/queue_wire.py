"""What a worker says to the queue streams and hears from them: commands and entries, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from engine.delivery.settlement import DELIVERIES_MAX
from engine.lifecycle import SettlementOutcome
from engine.records import Entry, Message, Queue, Settlement
from engine.shards import (
    GROUP,
    activity_key,
    dead_key,
    due_key,
    held_key,
    holder_key,
    holders_key,
    queue_key,
    usage_key,
)
from engine.stores.redis.link import Argument, Command

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode
_OUTCOMES: dict[SettlementOutcome, bytes] = {"captured": b"c", "released": b"r", "retry": b"d", "dead": b"x"}

# An entry as a stream holds it: id, payload, and how often it has been given out.
RawEntry = tuple[bytes, bytes, int]


class Undecodable(msgspec.Struct, frozen=True):
    """An entry whose payload is no message of ours."""

    shard: int
    entry_id: bytes
    payload: bytes


def decoded(shard: int, queue: Queue, raw: Iterable[RawEntry]) -> tuple[list[Entry], list[Undecodable]]:
    """Entries that hold a message, and those that do not."""
    entries: list[Entry] = []
    undecodable: list[Undecodable] = []
    for entry_id, payload, deliveries in raw:
        try:
            message = _decode(payload)
        except (msgspec.MsgspecError, ValueError):
            undecodable.append(Undecodable(shard, entry_id, payload))
        else:
            entries.append(
                Entry(shard=shard, queue=queue, entry_id=entry_id, message=message, deliveries=deliveries)
            )
    return entries, undecodable


def shares(shards: Sequence[int], busy: Sequence[int], count: int) -> list[tuple[Sequence[int], int]]:
    """How many entries to ask of which streams, together at most `count` + shards.

    Redis counts per stream (XREADGROUP COUNT). Streams that had more than they were asked
    for last time share most of `count`, the others are looked into; when none is known to
    have more, all are asked for an equal share.
    """
    if not busy:
        return [(shards, max(1, count // len(shards)))]
    calm = [shard for shard in shards if shard not in busy]
    look = max(1, count // (4 * len(shards)))
    reads: list[tuple[Sequence[int], int]] = [(busy, max(1, (count - look * len(calm)) // len(busy)))]
    return [*reads, (calm, look)] if calm else reads


def read(queue: Queue, name: str, shards: Sequence[int], count: int, block_ms: int | None) -> Command:
    """Up to `count` new entries of each shard's stream; reply [[key, [[id, fields] …]] …] or None."""
    block: Command = () if block_ms is None else ("BLOCK", block_ms)
    keys = [queue_key(shard, queue) for shard in shards]
    new = [b">"] * len(keys)
    return ("XREADGROUP", "GROUP", GROUP, name, "COUNT", count, *block, "STREAMS", *keys, *new)


def settle(queue: Queue, name: str, shard: int, settlements: Sequence[Settlement]) -> Command:
    """All settlements of one shard as one FCALL; reply: how many counted."""
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
            flat += (s.due_at_us, _encode(s.message or message))
        elif outcome == "dead":
            flat.append(_encode(s.message or message))
    return _settle(queue, name, shard, len(settlements), flat)


def set_aside(queue: Queue, name: str, entry: Undecodable) -> Command:
    """Move an entry to the dead-letter stream as it is; its units stay held."""
    return _settle(queue, name, entry.shard, 1, [entry.entry_id, b"x", 0, 0, b"", entry.payload])


def _settle(queue: Queue, name: str, shard: int, count: int, flat: Sequence[Argument]) -> Command:
    keys = (
        queue_key(shard, queue),
        due_key(shard, queue),
        dead_key(shard, queue),
        activity_key(shard),
        usage_key(shard),
        held_key(shard),
    )
    return ("FCALL", "settle", len(keys), *keys, name, count, *flat)


def promote(queue: Queue, shard: int, now_us: int, limit: int) -> Command:
    """Reply: how many moved."""
    return ("FCALL", "promote", 2, due_key(shard, queue), queue_key(shard, queue), now_us, limit)


def take_over(queue: Queue, name: str, shard: int, min_idle_ms: int, limit: int, suspects: int) -> Command:
    """Reply: [[[id, payload, deliveries] …], suspects passed over]."""
    keys = (queue_key(shard, queue), holders_key(shard))
    return ("FCALL", "take_over", len(keys), *keys, name, min_idle_ms, limit, suspects, DELIVERIES_MAX)


def own_pending(queue: Queue, name: str, shard: int, min_idle_ms: int, start: bytes, limit: int) -> Command:
    """Reply: [[id, name, idle ms, deliveries] …] of what lies under our name."""
    return ("XPENDING", queue_key(shard, queue), GROUP, "IDLE", min_idle_ms, start, "+", limit, name)


def own_again(queue: Queue, name: str, shard: int, entry_id: bytes, idle_ms: int, deliveries: int) -> Command:
    """The payload of an entry that lies under our name; reply [[id, fields]] or [].

    `idle_ms` as just read: when another worker has claimed it since, the entry is idle
    for less, and stays theirs. A lost answer is not counted as a delivery.
    """
    return ("XCLAIM", queue_key(shard, queue), GROUP, name, idle_ms, entry_id, "RETRYCOUNT", deliveries)


def make_group(queue: Queue, shard: int) -> Command:
    """From the stream's first entry on; reply: 1 when it was made, 0 when it is there."""
    return ("FCALL", "make_group", 1, queue_key(shard, queue))


def register(name: str, shard: int) -> Command:
    return ("FCALL", "register", 2, holder_key(shard, name), holders_key(shard), name)


def beat(name: str, shard: int) -> Command:
    """Reply: 1 when alive, 0 when fenced."""
    return ("FCALL", "beat", 1, holders_key(shard), name)


def fields_of(entries: Any) -> Iterable[RawEntry]:
    """[[id, [field, payload]] …] as given out for the first time."""
    return [(entry_id, fields[1], 1) for entry_id, fields in entries]
