"""Rule: which entries make a block, what the block is called, and its columns.

A block is named by its plan alone: the token is a digest of the ranges of stream ids. Redis never gives
a stream id twice, so two blocks have the same token only when they are the same block. Everything here
depends on the entries alone, so every process that executes a plan builds the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import groupby, repeat
from operator import attrgetter
from typing import Any

import msgspec

from engine.activity.records import ActivityBlock, ActivityEntry, BlockPlan, ShardRange
from engine.records import NO_RECORD, ActivityRow

_WIDTH = len(ActivityRow.__struct_fields__)
_DEFAULTS: tuple[Any, ...] = ActivityRow.__struct_defaults__
_DECODER = msgspec.msgpack.Decoder(list[list[Any]])
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
}
_TYPES: dict[str, type] = {"outcome_unknown": bool}


def rows_in(entry: ActivityEntry) -> int:
    """How many rows the entry has by its array header; 1 when there is no such header."""
    return max(1, int.from_bytes(entry.blob[1:5], "big")) if entry.blob[:1] == b"\xdd" else 1


def oldest(entries: Iterable[ActivityEntry], rows_max: int) -> tuple[list[ActivityEntry], int]:
    """The oldest entries with up to `rows_max` rows together, at least one entry; and how many rows.

    They are the oldest of all shards. So when more waits than one block takes, no shard waits longer
    than another.
    """
    taken: list[ActivityEntry] = []
    rows = 0
    for entry in sorted(entries, key=attrgetter("id", "shard")):
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
    ordered = sorted(entries, key=attrgetter("shard", "id"))
    ranges = []
    for shard, group in groupby(ordered, key=attrgetter("shard")):
        ids = [entry.id for entry in group]
        ranges.append(ShardRange(shard=shard, first=ids[0], last=ids[-1]))
    return BlockPlan(ranges=ranges)


def token_of(plan: BlockPlan) -> str:
    """The name under which the store knows the block."""
    # Ids are written as tuples, because another version of the program may go on with this plan.
    named = ";".join(f"{part.shard}:{tuple(part.first)}-{tuple(part.last)}" for part in plan.ranges)
    return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()


def block_of(
    entries: Iterable[ActivityEntry], *, exact: bool = False
) -> tuple[ActivityBlock, list[ActivityEntry]]:
    """The block of the entries' rows, and the entries that cannot be read.

    Takes about 1.5 µs a row. `exact`: look at every value, because the store has refused one; entries with a
    value that fits no column are left out too.
    """
    columns: list[list[Any]] = [[] for _ in range(_WIDTH + 3)]
    unreadable = []
    for entry in entries:
        try:
            rows = _rows_of(entry.blob)
            if exact:
                _check(rows)
        except (*NO_RECORD, ValueError):
            unreadable.append(entry)
            continue
        for column, values in zip(columns, zip(*rows, strict=True), strict=False):
            column.extend(values)
        for column, value in zip(columns[_WIDTH:], (entry.shard, *entry.id), strict=True):
            column.extend(repeat(value, len(rows)))
    return ActivityBlock(rows=len(columns[0]), columns=columns), unreadable


def _rows_of(blob: bytes) -> list[list[Any]]:
    """Rows of exactly as many values as the record has fields.

    Rows of an older version lack the last fields, which get their defaults. Rows of a newer version
    have more fields, which are dropped.
    """
    rows = _DECODER.decode(blob)
    if all(len(row) == _WIDTH for row in rows):
        return rows
    if any(len(row) < _WIDTH - len(_DEFAULTS) for row in rows):
        raise ValueError("a row is too short")
    return [row[:_WIDTH] + list(_DEFAULTS[len(row) - _WIDTH :] if len(row) < _WIDTH else ()) for row in rows]


def _check(rows: list[list[Any]]) -> None:
    if not all(map(fits, rows)):
        raise ValueError("a value fits no column")


def fits(row: Sequence[object]) -> bool:
    """Whether each value of a row, which may lack the last ones or have more, fits its column."""
    for name, value in zip(ActivityRow.__struct_fields__, row, strict=False):
        if name in _HIGHEST:
            if type(value) is not int or not 0 <= value <= _HIGHEST[name]:
                return False
        elif type(value) is not _TYPES.get(name, str):
            return False
    return True
