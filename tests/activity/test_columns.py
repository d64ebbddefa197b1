"""Rows as columns: what the extension packs is what ClickHouse's own client would send of the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from clickhouse_connect.datatypes.registry import get_from_name
from clickhouse_connect.driver.insert import InsertContext
from clickhouse_connect.driver.transform import NativeTransform
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.activity._columns import ColumnBuilder
from engine.activity.blocks import block_of, fits
from engine.activity.records import ActivityBlock, ActivityEntry
from engine.records import NO_RECORD, ActivityRow
from engine.stores.clickhouse import native
from engine.stores.clickhouse.activity import COLUMNS
from engine.stream_id import StreamId

FIELDS = ActivityRow.__struct_fields__
DEFAULTS = ActivityRow.__struct_defaults__
KEPT = FIELDS.index("kept")
_decode = msgspec.msgpack.Decoder(list[list[Any]]).decode
_encode = msgspec.msgpack.Encoder().encode

# Lengths on both sides of those at which their own length takes another octet, in MessagePack or in Native.
LENGTHS = (0, 1, 31, 32, 127, 128, 255, 256)
LONG = (16_383, 16_384, 65_535, 65_536)
texts = st.sampled_from(["é", "\0'\n", "\U0001f4a9", *("a" * size for size in LENGTHS), "é" * 64])
HIGHEST = {
    "at_us": 2**62, "organisation_id": 2**63 - 1, "accepted_at_us": 2**62, "segments": 2**16 - 1,
    "units": 2**32 - 1, "attempt": 2**16 - 1, "latency_us": 2**32 - 1, "due_at_us": 2**62,
    "expires_at_us": 2**62, "segment": 2**16 - 1,
}  # fmt: skip


def _values_of(name: str) -> st.SearchStrategy[Any]:
    if name == "outcome_unknown":
        return st.booleans()
    if name not in HIGHEST:
        return texts
    highest = HIGHEST[name]
    edges = [edge for edge in (0, 127, 128, 255, 256, 65_535, 65_536, 2**32, highest) if edge <= highest]
    return st.sampled_from(edges)


whole_rows = st.tuples(*map(_values_of, FIELDS)).map(list)
# Rows as older versions wrote them, and as newer ones may: fewer values or more.
rows = st.builds(
    lambda row, width, more: (row + more)[:width],
    whole_rows,
    st.integers(len(FIELDS) - len(DEFAULTS), len(FIELDS) + 2),
    st.sampled_from([[7, "newer"], [None, []]]),
)
# What fits no column, too.
values = st.one_of(
    st.integers(-(2**63), 2**64 - 1), texts, st.booleans(), st.none(), st.floats(), st.binary()
)
odd_rows = st.builds(
    lambda row, place, value: [*row[:place], value, *row[place + 1 :]],
    whole_rows, st.integers(0, len(FIELDS) - 1), values,
)  # fmt: skip


def entry_of(some: Sequence[Sequence[Any]], shard: int = 3, ms: int = 77, sequence: int = 5) -> ActivityEntry:
    blob = b"\xdd" + len(some).to_bytes(4, "big") + b"".join(map(_encode, some))
    return ActivityEntry(shard=shard, id=StreamId(ms, sequence), blob=blob)


def plain_block(entries: Sequence[ActivityEntry]) -> tuple[bytes, list[Any], list[ActivityEntry]]:
    """What `block_of` and `native.block` are to come to, as simply as can be: the octets of the block, what
    is kept, and the entries that cannot be read."""
    found: list[list[Any]] = []
    kept, unreadable = [], []
    for entry in entries:
        try:
            some = _decode(entry.blob)
        except NO_RECORD:
            unreadable.append(entry)
            continue
        if any(len(row) < len(FIELDS) - len(DEFAULTS) for row in some) or not all(map(fits, some)):
            unreadable.append(entry)
            continue
        for row in some:
            full = row[: len(FIELDS)] + list(DEFAULTS)[len(DEFAULTS) - max(0, len(FIELDS) - len(row)) :]
            if full[KEPT]:
                kept.append((full[2], full[11], full[KEPT]))
            found.append([*full[:KEPT], *full[KEPT + 1 :], entry.shard, *entry.id])
    if not found:
        return b"", kept, unreadable
    context = InsertContext(
        "activity",
        list(COLUMNS),
        [get_from_name(kind) for kind in COLUMNS.values()],
        [list(column) for column in zip(*found, strict=True)],
        column_oriented=True,
    )
    context.req_block_size = len(found)
    # It puts the statement before the block.
    statement_and_block = b"".join(NativeTransform().build_insert(context))
    return statement_and_block.partition(b"\n")[2], kept, unreadable


def octets_of(block: ActivityBlock) -> bytes:
    if not block.rows:
        return b""
    return b"".join(native.block(list(COLUMNS), list(COLUMNS.values()), block.rows, block.columns))


def assert_same(entries: Sequence[ActivityEntry]) -> None:
    block, unreadable = block_of(entries)
    assert (octets_of(block), block.kept, unreadable) == plain_block(entries)


@settings(max_examples=30)
@given(st.lists(st.lists(rows, max_size=3), max_size=3))
def test_a_block_is_what_the_client_of_clickhouse_would_send(entries: list[list[list[Any]]]) -> None:
    assert_same([entry_of(some, shard, 10**12 + shard, shard) for shard, some in enumerate(entries)])


@settings(max_examples=30)
@given(st.lists(whole_rows, max_size=2), odd_rows, st.lists(whole_rows, max_size=2))
def test_an_entry_with_a_value_that_fits_no_column_leaves_no_trace(
    before: list[list[Any]], odd: list[Any], after: list[list[Any]]
) -> None:
    assert_same([entry_of(before), entry_of([*before, odd]), entry_of(after)])


@settings(max_examples=30)
@given(st.lists(rows, min_size=1, max_size=3), st.data())
def test_octets_that_are_cut_off_or_changed_are_read_as_the_plain_reader_reads_them(
    some: list[list[Any]], data: st.DataObject
) -> None:
    blob = bytearray(entry_of(some).blob)
    at = data.draw(st.integers(0, len(blob) - 1))
    if data.draw(st.booleans()):
        del blob[at:]
    else:
        blob[at] = data.draw(st.integers(0, 255))
    broken = ActivityEntry(shard=1, id=StreamId(2, 3), blob=bytes(blob))
    assert_same([entry_of(some[:1]), broken, entry_of(some[-1:])])


@settings(max_examples=30)
@given(st.binary(max_size=200))
def test_any_octets_are_read_or_refused(octets: bytes) -> None:
    assert_same([ActivityEntry(shard=0, id=StreamId(1, 0), blob=b"\xdd" + octets)])


@pytest.mark.parametrize("size", LONG)
def test_long_strings_are_packed_as_they_are(size: int) -> None:
    row = [getattr(_ROW, name) for name in FIELDS]
    assert_same([entry_of([[*row[:7], letter * size, *row[8:]], row]) for letter in "aé"])


def test_what_this_version_writes_needs_no_second_reading() -> None:
    """The plain reader costs ten times as much."""
    row = [getattr(_ROW, name) for name in FIELDS]
    builder = ColumnBuilder()
    for width in range(len(FIELDS) - len(DEFAULTS), len(FIELDS) + 1):
        assert builder.add(entry_of([row[:width]] * 2).blob, 0, 1, 0) == 2
    assert builder.add(entry_of([[*row, "newer"]]).blob, 0, 1, 0) == -1


_ROW = ActivityRow(
    at_us=1, organisation_id=2, message_id="m", accepted_at_us=1, event="accepted", queue="normal", to="+98",
    sender="é", encoding="GSM-7", segments=1, units=1,
)  # fmt: skip
