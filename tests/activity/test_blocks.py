"""A block is a function of its entries, and its name one of its plan."""

from __future__ import annotations

from struct import iter_unpack
from typing import Any

import msgspec
import pytest

from engine.activity.blocks import ReadSize, block_of, oldest, plan_of, rows_in, token_of
from engine.activity.records import ActivityBlock, ActivityEntry, ShardRange
from engine.records import ActivityRow
from engine.stores.clickhouse.activity import COLUMNS
from engine.stream_id import StreamId


def values(number: int = 0, **changed: Any) -> list[Any]:
    row = ActivityRow(
        **{
            "at_us": 1_795_335_960_000_000 + number,
            "organisation_id": 7,
            "message_id": f"m{number}",
            "accepted_at_us": 1_795_335_960_000_000,
            "event": "accepted",
            "queue": "normal",
            "to": "+989120000001",
            "sender": "",
            "encoding": "GSM-7",
            "segments": 1,
            "units": 1,
            **changed,
        }
    )
    return [getattr(row, name) for name in row.__struct_fields__]


def entry(shard: int, ms: int, rows: list[list[Any]], seq: int = 0) -> ActivityEntry:
    body = b"".join(map(msgspec.msgpack.encode, rows))
    return ActivityEntry(
        shard=shard, id=StreamId(ms, seq), blob=b"\xdd" + len(rows).to_bytes(4, "big") + body
    )


def numbers(block: ActivityBlock, name: str) -> list[int]:
    """The values of a column of 64 bits."""
    packed = block.columns[list(COLUMNS).index(name)]
    return [value for (value,) in iter_unpack("<Q", packed)]


@pytest.mark.parametrize(
    "blob",
    [b"", b"\xc1", b"\xdd\x00\x00\x00\x02\x90", b"\xdd\x00\x00\x00\x01\x01", b"\xdd\x00\x00\x00\x01\x91\x01"],
)
def test_an_entry_that_cannot_be_read_is_left_out_whole_and_told(blob: bytes) -> None:
    broken = ActivityEntry(shard=0, id=StreamId(2, 0), blob=blob)
    block, unreadable = block_of([entry(0, 1, [values(1)]), broken, entry(0, 3, [values(3)])])
    assert unreadable == [broken]
    assert block.rows == 2
    assert numbers(block, "stream_ms") == [1, 3]


@pytest.mark.parametrize(
    "changed",
    [
        {"segments": 65536},
        {"units": -1},
        {"units": "1"},
        {"to": None},
        {"outcome_unknown": 2},
        {"attempt": True},
    ],
)
def test_an_entry_with_a_value_that_fits_no_column_is_left_out_too(changed: dict[str, Any]) -> None:
    odd = entry(0, 2, [values(1), values(2, **changed)])
    block, unreadable = block_of([entry(0, 1, [values(0)]), odd])
    assert unreadable == [odd]
    assert block.rows == 1


def test_messages_that_are_kept_stand_beside_the_columns() -> None:
    rows = [values(n, attempt=n, kept="{}" * (n % 2)) for n in range(4)]
    block, _ = block_of([entry(0, 1, rows)])
    assert block.kept == [("m1", 1, "{}"), ("m3", 3, "{}")]
    assert len(block.columns) == len(COLUMNS)


def test_the_plan_names_the_first_and_last_entry_of_each_shard() -> None:
    entries = [entry(5, 9, [values()]), entry(1, 10, [values()]), entry(1, 9, [values()], seq=4)]
    assert plan_of(entries).ranges == [
        ShardRange(shard=1, first=(9, 4), last=(10, 0)),
        ShardRange(shard=5, first=(9, 0), last=(9, 0)),
    ]


def test_the_token_is_the_same_for_the_same_plan_and_another_for_any_other() -> None:
    first, second = entry(1, 1, [values()]), entry(1, 2, [values()])
    tokens = [token_of(plan_of(e)) for e in ([first], [first, second], [second], [entry(2, 1, [values()])])]
    assert len(set(tokens)) == 4
    assert token_of(plan_of([second, first])) == tokens[1]


def test_when_more_waits_than_fits_the_oldest_of_all_shards_go_first() -> None:
    entries = [entry(s, ms, [values()] * 10) for s in (0, 1) for ms in (1, 2, 3)]
    taken, rows = oldest(entries, 45)
    assert [(e.id[0], e.shard) for e in taken] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert rows == 40


def test_an_entry_larger_than_a_block_goes_alone() -> None:
    large = entry(0, 1, [values()] * 50)
    assert oldest([large, entry(0, 2, [values()])], 20) == ([large], 50)


def test_what_has_no_header_counts_as_one_row() -> None:
    assert rows_in(ActivityEntry(shard=0, id=(1, 0), blob=b"junk!")) == 1


def test_what_is_asked_of_each_shard_follows_what_the_last_read_brought() -> None:
    pace = ReadSize()
    assert pace.note([entry(s, 1, [values()] * 4) for s in (0, 1, 2)]) == 12
    assert pace.entries_wanted(1200) == 100
    assert pace.note([entry(0, ms, [values()] * 2) for ms in (1, 2)]) == 4
    assert pace.entries_wanted(1200) == 600
    assert pace.note([]) == 0
    assert pace.entries_wanted(1) == 1
    assert pace.entries_wanted(10**9) == 10_000
