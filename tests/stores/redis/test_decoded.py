"""The messages of a bundle are the same whether they are read together or one by one."""

from __future__ import annotations

from struct import pack

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from engine import bundle_format, message_format
from engine.records import Entry
from engine.stores.redis import queue_wire
from engine.stores.redis._entries import array_of
from engine.stores.redis.queue_wire import RawEntry, Undecodable
from tests.stores.redis.kit import message

encode = msgspec.msgpack.Encoder().encode
fields = list(msgspec.structs.astuple(message("m", text="é" * 40)))
payloads = st.one_of(
    st.builds(lambda n: message_format.packed(message(f"m{n}", text="x" * n)), st.integers(0, 200)),
    # What an older version wrote, what a newer one may write, and what nobody can read.
    st.sampled_from(
        [encode(fields[:10]), encode([*fields, 1]), encode([*fields, 1, "x"]), encode(fields[:3]), b"", b"x"]
    ),
)


def bundle(messages: list[bytes], count: int, cut: int) -> bytes:
    packed = b"\xc1\x01" + pack(">HQ", count, 7) + b"".join(bundle_format.record(1, one) for one in messages)
    return packed[: len(packed) - cut]


def one_by_one(raw: RawEntry) -> tuple[list[Entry], list[Undecodable]]:
    entries: list[Entry] = []
    undecodable: list[Undecodable] = []
    queue_wire._add_each(entries, undecodable, 3, "normal", raw)
    return entries, undecodable


@given(
    st.lists(payloads, max_size=6),
    st.integers(-2, 2),
    st.integers(0, 7),
    st.sampled_from([b"", b"-x", b"xx"]),
)
@example([message_format.packed(message("m"))] * 3, 0, 0, b"")
def test_messages_of_a_bundle_read_together_are_those_read_one_by_one(
    messages: list[bytes], more: int, cut: int, note: bytes
) -> None:
    packed = bundle(messages, max(0, len(messages) + more), cut)
    raw = (b"5-0", packed, 2, note, b"4-0", b"")
    assert queue_wire.decoded(3, "normal", [raw]) == one_by_one(raw)


@given(st.binary(max_size=40), st.integers(0, 0xFFFF))
def test_octets_that_only_begin_like_a_bundle_are_left_to_be_read_one_by_one(
    octets: bytes, count: int
) -> None:
    packed = b"\xc1\x01" + pack(">HQ", count, 7) + octets
    raw = (b"5-0", packed, 1, b"", b"", b"")
    assert queue_wire.decoded(3, "normal", [raw]) == one_by_one(raw)


def test_a_whole_bundle_is_read_together() -> None:
    ours = [message_format.packed(message(f"m{n}")) for n in range(50)]
    array = array_of(bundle(ours, 50, 0), message_format.FIELDS_MAX)
    assert array == b"\xdc\x00\x32" + b"".join(ours)
    assert array_of(bundle([*ours[:1], encode([*fields, 1])], 2, 0), message_format.FIELDS_MAX) is None
