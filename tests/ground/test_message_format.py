"""A message of any version is read, and put back whole."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import message_format
from engine.records import NO_RECORD, Message, ScheduledMessage, due_at_us_of

_OLDEST = 10  # the fields without a default
_MESSAGE = Message(
    id="m", organisation_id=7, to="+989121234567", text="hello", sender="", encoding="GSM-7", segments=1,
    units=3, accepted_at_us=1, expires_at_us=2, attempts=1, reference="r", tried=("p",),
)  # fmt: skip
_VALUES: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(_MESSAGE))
_DUE_AT_US = 1_795_335_960_000_000
_SCHEDULED = ScheduledMessage(**msgspec.structs.asdict(_MESSAGE), due_at_us=_DUE_AT_US)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize("fields", range(_OLDEST, len(_VALUES) + 1))
def test_fields_that_an_older_version_did_not_write_have_their_defaults(fields: int) -> None:
    message = message_format.unpacked(msgspec.msgpack.encode(_VALUES[:fields]))
    assert type(message) is Message
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message))[:fields] == _VALUES[:fields]


@given(st.lists(_JSON, max_size=20), st.sampled_from([0, _DUE_AT_US]))
def test_fields_of_a_newer_version_are_put_back_as_they_were(added: list[Any], due_at_us: int) -> None:
    message = message_format.unpacked(msgspec.msgpack.encode([*_VALUES, due_at_us, *added]))
    assert due_at_us_of(message) == due_at_us
    again = msgspec.structs.replace(message, attempts=5)
    values = [*_VALUES, due_at_us, *added]
    values[Message.__struct_fields__.index("attempts")] = 5
    assert msgspec.msgpack.decode(message_format.packed(again)) == values
    kept = message_format.from_json(message_format.to_json(again))
    assert kept == again
    assert msgspec.msgpack.decode(message_format.packed(kept)) == values


_NUMBERS = st.one_of(
    st.integers(0, 2**62),
    st.sampled_from([n for bits in (7, 8, 16, 32) for n in ((1 << bits) - 1, 1 << bits)]),
)


@given(
    due_at_us=_NUMBERS, attempts=_NUMBERS, text=st.text(), tried=st.lists(st.text(), max_size=20).map(tuple)
)
def test_a_scheduled_message_keeps_its_time_through_queue_retry_and_receipt(
    due_at_us: int, attempts: int, text: str, tried: tuple[str, ...]
) -> None:
    message = msgspec.structs.replace(_SCHEDULED, due_at_us=due_at_us, text=text)
    assert message_format.unpacked(message_format.packed(message)) == message
    again = msgspec.structs.replace(
        message_format.unpacked(message_format.packed(message)), attempts=attempts, tried=tried
    )
    assert message_format.unpacked(message_format.packed(again)) == again
    assert message_format.from_json(message_format.to_json(again)) == again
    assert (type(again), due_at_us_of(again)) == (ScheduledMessage, due_at_us)


class _Older(Message, frozen=True, array_like=True, kw_only=True, gc=False):
    """A message as a version without `ScheduledMessage` keeps one of ours."""

    added: tuple[Any, ...]


def test_an_older_version_reads_a_scheduled_message_and_puts_its_time_back() -> None:
    payload = message_format.packed(_SCHEDULED)
    # What that version does: it reads the fields that it knows, and keeps the others.
    known, values = msgspec.msgpack.decode(payload, type=Message), msgspec.msgpack.decode(payload)
    older = _Older(**msgspec.structs.asdict(known), added=tuple(values[len(_VALUES) :]))
    assert known == _MESSAGE
    retried = msgspec.structs.replace(older, attempts=7)
    written = [*(getattr(retried, name) for name in Message.__struct_fields__), *retried.added]
    for again in (
        message_format.unpacked(msgspec.msgpack.encode(written)),
        message_format.from_json(msgspec.json.encode(written)),
    ):
        assert again == msgspec.structs.replace(_SCHEDULED, attempts=7)


def test_a_message_without_a_later_time_is_no_larger_and_is_read_with_others() -> None:
    payload = message_format.packed(_MESSAGE)
    assert payload == msgspec.msgpack.encode(_VALUES)
    assert payload[0] == 0x90 + message_format.FIELDS_MAX
    assert type(message_format.unpacked(payload)) is Message
    assert message_format.packed(_SCHEDULED)[0] == 0xDC
    assert due_at_us_of(_MESSAGE) == 0


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\xdc", b"\xdc\x00\x10", b"\x90", msgspec.msgpack.encode({"id": "m"})]
)
def test_what_is_no_message_is_an_error(payload: bytes) -> None:
    with pytest.raises(NO_RECORD):
        message_format.unpacked(payload)
