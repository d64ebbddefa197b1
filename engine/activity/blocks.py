"""Rule: which entries make a block, what the block is called, and its columns.

A block is named by its plan alone: the token is a digest of the ranges of stream ids. Redis never gives
a stream id twice, so two blocks have the same token only when they are the same block. Everything here
depends on the entries alone, so every process that executes a plan builds the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from engine.activity._columns import ColumnBuilder
from engine.activity.numbers import PLAIN, Numbers
from engine.activity.records import ActivityBlock, ActivityEntry, BlockPlan, ShardRange
from engine.records import NO_RECORD, ActivityRow
from engine.stream_id import StreamId

_WIDTH = len(ActivityRow.__struct_fields__)
_DEFAULTS: tuple[Any, ...] = ActivityRow.__struct_defaults__
_DECODER = msgspec.msgpack.Decoder(list[list[Any]])
_encode = msgspec.msgpack.Encoder().encode
# Highest value of each number in the table, by field; all others are of the types below.
_HIGHEST = {
    "at_us": 2**62,
    "organisation_id": 2**63 - 1,
    "accepted_at_us": 2**62,
    "segments": 2**16 - 1,
    "units": 2**32 - 1,
    "attempt": 2**16 - 1,
    "latency_us": 2**32 - 1,
    "due_at_us": 2**62,
    "expires_at_us": 2**62,
    "segment": 2**16 - 1,
    "receipts_by": 2**16 - 1,
}
_TYPES: dict[str, type] = {"outcome_unknown": bool}


def rows_in(entry: ActivityEntry) -> int:
    """How many rows the entry has by its array header; 1 when there is no such header."""
    blob = entry.blob
    return (int.from_bytes(blob[1:5], "big") or 1) if blob[:1] == b"\xdd" else 1


def oldest(entries: Iterable[ActivityEntry], rows_max: int) -> tuple[list[ActivityEntry], int]:
    """The oldest entries with up to `rows_max` rows together, at least one entry; and how many rows.

    They are the oldest of all shards. So when more waits than one block takes, no shard waits longer
    than another.
    """
    taken: list[ActivityEntry] = []
    rows = 0
    for entry in sorted(entries, key=attrgetter("id")):
        more = rows_in(entry)
        if taken and rows + more > rows_max:
            break
        taken.append(entry)
        rows += more
    return taken, rows


class ReadSize:
    """How many entries to ask for at the next read, from how the rows came at the last one.

    Entries differ: one holds a single row, another a thousand, and one shard may have all of them.
    """

    def __init__(self) -> None:
        self._rows_per_entry = 100.0
        self._busy_shards = 16

    def entries_wanted(self, rows: int) -> int:
        """Entries to ask of each shard, so that together they have about `rows` rows."""
        return max(1, min(10_000, round(rows / self._rows_per_entry / self._busy_shards)))

    def note(self, entries: Sequence[ActivityEntry]) -> int:
        """Remember the sizes of these entries; returns how many rows they have."""
        rows = sum(map(rows_in, entries))
        if entries:
            self._rows_per_entry = rows / len(entries)
            self._busy_shards = len({entry.shard for entry in entries})
        return rows


def plan_of(entries: Iterable[ActivityEntry]) -> BlockPlan:
    """The plan for `entries`, which have no gap in any shard."""
    ids: dict[int, list[StreamId]] = {}
    for entry in entries:
        ids.setdefault(entry.shard, []).append(entry.id)
    return BlockPlan(
        ranges=[ShardRange(shard=shard, first=min(ids[shard]), last=max(ids[shard])) for shard in sorted(ids)]
    )


def token_of(plan: BlockPlan) -> str:
    """The name under which the store knows the block."""
    # Ids are written as tuples, because another version of the program may go on with this plan.
    named = ";".join(f"{part.shard}:{tuple(part.first)}-{tuple(part.last)}" for part in plan.ranges)
    return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()


def block_of(
    entries: Iterable[ActivityEntry], numbers: Numbers = PLAIN
) -> tuple[ActivityBlock, list[ActivityEntry]]:
    """The block of the entries' rows, and the entries that cannot be read or have a value that fits no
    column.

    `numbers`: how recipients' numbers are stored. Takes about 0.2 µs a row, and about 3 µs more for each new
    number that is hashed.
    """
    builder = ColumnBuilder(numbers.stored if numbers.hashed else None)
    unreadable = []
    for entry in entries:
        try:
            if builder.add(entry.blob, entry.shard, *entry.id) < 0:
                builder.add(_plain(entry.blob), entry.shard, *entry.id)
        except (*NO_RECORD, ValueError, OverflowError):
            unreadable.append(entry)
    rows, kept = builder.rows, builder.kept
    return ActivityBlock(rows=rows, columns=builder.take(), kept=kept), unreadable


def _plain(blob: bytes) -> bytes:
    """The entry's rows as this version writes them.

    Rows of an older version lack the last fields, which get their defaults. Rows of a newer version
    have more fields, which are dropped. Raises what NO_RECORD names, and ValueError.
    """
    rows = _DECODER.decode(blob)
    if any(len(row) < _WIDTH - len(_DEFAULTS) for row in rows):
        raise ValueError("a row is too short")
    rows = [row[:_WIDTH] + list(_DEFAULTS[len(row) - _WIDTH :] if len(row) < _WIDTH else ()) for row in rows]
    if not all(map(fits, rows)):
        raise ValueError("a value fits no column")
    return b"\xdd" + len(rows).to_bytes(4, "big") + b"".join(map(_encode, rows))


def fits(row: Sequence[object]) -> bool:
    """Whether each value of a row, which may lack the last ones or have more, fits its column."""
    for name, value in zip(ActivityRow.__struct_fields__, row, strict=False):
        if name in _HIGHEST:
            if type(value) is not int or not 0 <= value <= _HIGHEST[name]:
                return False
        elif type(value) is not _TYPES.get(name, str):
            return False
    return True
