"""A stream id is read and written in one way, and sorts as the stream does."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.stream_id import STREAM_START, StreamId

numbers = st.integers(0, 2**64 - 1)
ids = st.builds(StreamId, numbers, numbers)


@given(ids)
def test_what_is_written_is_read_again(stream_id: StreamId) -> None:
    assert StreamId.parse(str(stream_id)) == stream_id
    assert StreamId.parse(str(stream_id).encode()) == stream_id


@given(ids, ids)
def test_the_next_id_is_the_least_behind(one: StreamId, other: StreamId) -> None:
    assert one.next > one
    assert other <= one or other >= one.next
    assert one >= STREAM_START


@given(ids)
def test_on_the_wire_it_is_its_two_numbers(stream_id: StreamId) -> None:
    """Plans are written down in Redis: older versions read them."""
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stream_id)) == [*stream_id]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([*stream_id]), type=StreamId) == stream_id


@pytest.mark.parametrize("text", ["", "-", "1", "1-", "-1", "1-2-3", "1-2+", "a-b", "1.0-1", " 1-2", "$"])
def test_anything_else_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="no stream id"):
        StreamId.parse(text)
