"""Rule: how a message is written and read, so that versions of the engine can work side by side.

A message is a MessagePack array in its queue, and a JSON array where it is kept until its receipt. Fields
are added at the end, with a default. So a newer version reads what an older one wrote, and an older
version reads what it knows of a newer message. It keeps the rest: whoever puts a message back (a retry, a
dead letter, a message that is sent again after a receipt) writes the fields that it does not know as they
were.

A message with a later time is a `ScheduledMessage`, of 16 fields. Only such ones are, because an array of up
to 15 is shorter and is read faster; a version before that keeps the sixteenth as one that it does not know.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.records import Message, ScheduledMessage

_FIELDS = Message.__struct_fields__
_SCHEDULED_FIELDS = ScheduledMessage.__struct_fields__
_messages = msgspec.msgpack.Decoder(list[Message]).decode
_message = msgspec.msgpack.Decoder(Message).decode
_scheduled = msgspec.msgpack.Decoder(ScheduledMessage).decode
_array = msgspec.msgpack.Decoder(list[Any]).decode
_pack = msgspec.msgpack.Encoder().encode
_json_array = msgspec.json.Decoder(list[Any]).decode
# The first octet of an array of up to 15 elements is this and their number (MessagePack, "fixarray").
_FIXARRAY, _FIXARRAY_MAX = 0x90, 15
# So many fields of a message this version knows for sure; and that octet of an array of no more.
FIELDS_MAX = min(len(_FIELDS), _FIXARRAY_MAX)
_KNOWN = frozenset(range(_FIXARRAY, _FIXARRAY + FIELDS_MAX + 1))
# How a message begins that has one more (MessagePack, "array 16").
_SCHEDULED = b"\xdc" + len(_SCHEDULED_FIELDS).to_bytes(2)


class NewerMessage(ScheduledMessage, frozen=True, array_like=True, kw_only=True, gc=False):
    """A message to which a newer version of the engine has added fields, `added` in their order. It may have
    no later time: its `due_at_us` is 0 then."""

    added: tuple[Any, ...]


def unpacked(payload: bytes) -> Message:
    """The message in the field `m` of a queue entry. Raises one of NO_RECORD."""
    message = _message(payload)
    if payload[0] in _KNOWN:
        return message
    if payload[:3] == _SCHEDULED:
        return _scheduled(payload)
    values = _array(payload)
    return _whole(_scheduled(payload), values) if len(values) > len(_FIELDS) else message


def all_unpacked(array: bytes) -> list[Message]:
    """The messages of a MessagePack array, none of which has more fields than `FIELDS_MAX`. Raises one of
    NO_RECORD."""
    return _messages(array)


def packed(message: Message) -> bytes:
    """The message as the field `m` of a queue entry."""
    return _pack(_array_of(message)) if type(message) is NewerMessage else _pack(message)


def from_json(text: bytes | str) -> Message:
    """The message that is kept until its receipt. Raises msgspec.MsgspecError."""
    values = _json_array(text)
    if len(values) <= len(_FIELDS):
        return msgspec.json.decode(text, type=Message)
    return _whole(msgspec.json.decode(text, type=ScheduledMessage), values)


def to_json(message: Message) -> str:
    """The message as it is kept until its receipt."""
    whole = _array_of(message) if isinstance(message, NewerMessage) else message
    return msgspec.json.encode(whole).decode()


def _whole(message: ScheduledMessage, values: list[Any]) -> ScheduledMessage:
    added = values[len(_SCHEDULED_FIELDS) :]
    return NewerMessage(**msgspec.structs.asdict(message), added=tuple(added)) if added else message


def _array_of(message: NewerMessage) -> list[Any]:
    return [*(getattr(message, name) for name in _SCHEDULED_FIELDS), *message.added]
