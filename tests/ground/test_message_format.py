"""A message of any version is read, and put back whole."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import message_format
from engine.records import NO_RECORD, Message

_OLDEST = 10  # the fields without a default
_MESSAGE = Message(
    id="m", organisation_id=7, to="+989121234567", text="hello", sender="", encoding="GSM-7", segments=1,
    units=3, accepted_at_us=1, expires_at_us=2, attempts=1, reference="r", tried=("p",),
)  # fmt: skip
_VALUES: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(_MESSAGE))
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


@given(st.lists(_JSON, max_size=20))
def test_fields_of_a_newer_version_are_put_back_as_they_were(added: list[Any]) -> None:
    message = message_format.unpacked(msgspec.msgpack.encode([*_VALUES, *added]))
    again = msgspec.structs.replace(message, attempts=5)
    values = [*_VALUES, *added]
    values[Message.__struct_fields__.index("attempts")] = 5
    assert msgspec.msgpack.decode(message_format.packed(again)) == values
    kept = message_format.from_json(message_format.to_json(again))
    assert kept == again
    assert msgspec.msgpack.decode(message_format.packed(kept)) == values


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x90", msgspec.msgpack.encode({"id": "m"})])
def test_what_is_no_message_is_an_error(payload: bytes) -> None:
    with pytest.raises(NO_RECORD):
        message_format.unpacked(payload)
