"""A block that is divided is, in each division, the block of its rows alone."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.activity.blocks import block_of
from engine.activity.records import ActivityBlock, ActivityEntry
from engine.config.stores import DIVISIONS_MAX
from engine.records import ActivityRow, Message
from engine.shards import shard_of
from engine.stores.clickhouse.divided._divide import divide
from engine.stores.clickhouse.divided.activity import parts_of
from engine.stream_id import StreamId
from tests.activity.world import blob_of, make_row

LONG = ("", "a", "ä" * 100, "x" * 127, "x" * 128, "y" * 20_000)


def block(rows: list[ActivityRow]) -> ActivityBlock:
    # An entry for every three rows.
    entries = [
        ActivityEntry(shard=n % 2, id=StreamId(7, n), blob=blob_of(rows[n : n + 3]))
        for n in range(0, len(rows), 3)
    ]
    return block_of(entries)[0]


@given(
    organisations=st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 20), max_size=40),
    divisions=st.integers(1, DIVISIONS_MAX),
    seed=st.integers(0, 2**32),
)
def test_each_division_gets_its_rows_in_order_and_no_other(
    organisations: list[int], divisions: int, seed: int
) -> None:
    rng, entries, of_each = Random(seed), [], [[] for _ in range(divisions)]  # type: ignore[var-annotated]
    for number, organisation in enumerate(organisations):
        of = shard_of(organisation, divisions)
        message = Message(
            id=f"m{number}", organisation_id=organisation, to="+4915112345678", text="t", sender="",
            encoding="GSM-7", segments=1, units=2, accepted_at_us=1, expires_at_us=2,
        )  # fmt: skip
        kept = msgspec.json.encode(message).decode() if rng.random() < 0.3 else ""
        row = make_row(
            number,
            organisation_id=organisation,
            message_id=f"m{number}",
            reference=rng.choice(LONG),
            kept=kept,
        )
        entry = ActivityEntry(shard=number % 3, id=StreamId(7, number), blob=blob_of([row]))
        entries.append(entry)
        of_each[of].append(entry)
    assert parts_of(block_of(entries)[0], divisions) == [block_of(of)[0] for of in of_each]


def test_columns_that_are_not_as_long_as_the_block_are_refused() -> None:
    whole = block([make_row(n) for n in range(9)])
    widths = [0] * len(whole.columns)
    numbers = b"".join(n.to_bytes(8, "little") for n in range(3))
    for texts in (b"\x01a\x01b", b"\x01a\x01b\x01", b"\x01a\x01b\x01c\x01d", b"\xff" * 20, b"\x80\x80\x80"):
        with pytest.raises(ValueError, match="number of rows"):
            divide([numbers, texts], [8, 0], 3, 0, 2)
    assert divide([numbers, b"\x01a\x00\x01c"], [8, 0], 3, 0, 1) == [(3, [numbers, b"\x01a\x00\x01c"])]
    with pytest.raises(ValueError, match="number of rows"):
        divide([numbers[:-1]], [8], 3, 0, 2)
    with pytest.raises(ValueError, match="organisations"):
        divide(whole.columns, widths, 9, 1, 2)


def test_a_block_is_divided_into_as_many_divisions_as_the_configuration_allows_and_no_more() -> None:
    numbers = b"".join(n.to_bytes(8, "little") for n in range(3 * DIVISIONS_MAX))
    parts = divide([numbers], [8], 3 * DIVISIONS_MAX, 0, DIVISIONS_MAX)
    assert [rows for rows, _ in parts] == [
        sum(shard_of(n, DIVISIONS_MAX) == division for n in range(3 * DIVISIONS_MAX))
        for division in range(DIVISIONS_MAX)
    ]
    with pytest.raises(ValueError, match=f"1 to {DIVISIONS_MAX} divisions"):
        divide([numbers], [8], 3 * DIVISIONS_MAX, 0, DIVISIONS_MAX + 1)


def test_a_kept_message_that_cannot_be_read_does_not_keep_the_others() -> None:
    rows = [make_row(1, organisation_id=1, kept="{"), make_row(2, organisation_id=1)]
    parts = parts_of(block(rows), 2)
    assert [part.rows for part in parts] == [0, 2]
