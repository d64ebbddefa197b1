"""Rule: how several messages lie in one entry of a queue's ready stream, a *bundle*.

A bundle is the octets C1 01, with which no MessagePack begins, the number of its messages (2 octets), the
number of its last message as the queue counts (8 octets), and a *record* of each: its segments (2 octets; 0
where nobody has looked), its size (4 octets; all in network order), and the message as it would lie in an
entry of its own (`engine.message_format`). So a payload says itself whether it is a message or a bundle, and
which, wherever it lies, and one message that cannot be read does not hide the others. Records are also what
waits in lists. So functions/queue puts bundles together from what comes in and from lists, and takes them
apart, without a look into the messages.
"""

from __future__ import annotations

from struct import Struct

# Most messages of a bundle, and most octets of those that come in together. A larger message is alone.
MESSAGES_MAX = 50
OCTETS_MAX = 32_768

_HEAD = b"\xc1\x01"
_numbers = Struct(">HQ")
_header = Struct(">HI")
_FIRST = len(_HEAD) + _numbers.size


def record(segments: int, payload: bytes) -> bytes:
    """A message as a part of a bundle."""
    return _header.pack(segments, len(payload)) + payload


def records_of(records: bytes, at: int = 0) -> list[tuple[int, bytes]]:
    """(segments, message) of each record from `at` on. Raises ValueError when they do not end as they say."""
    found, end = [], len(records)
    while at < end:
        first = at + _header.size
        if first > end:
            raise ValueError("A record has no header.")
        segments, size = _header.unpack_from(records, at)
        at = first + size
        found.append((segments, records[first:at]))
    if at > end:
        raise ValueError("A record is cut short.")
    return found


def is_bundle(payload: bytes) -> bool:
    """Whether the field `m` of an entry looks like a bundle."""
    return payload[:2] == _HEAD and len(payload) > _FIRST


def payloads_of(payload: bytes) -> list[bytes]:
    """The messages in the field `m` of an entry: several of a bundle, or the one that it is. What only looks
    like a bundle counts as one message, which cannot be read."""
    if not is_bundle(payload):
        return [payload]
    try:
        found = records_of(payload, _FIRST)
    except ValueError:
        return [payload]
    if len(found) != _numbers.unpack_from(payload, len(_HEAD))[0]:
        return [payload]
    return [message for _, message in found]
