"""Random commands about dead letters, for either server."""

from __future__ import annotations

from typing import Any

import msgspec

from engine import redis_keys as keys
from engine.delivery.dead_letters import DeadLetterId, begun_anew, dropped_row, replayed_row
from engine.records import Message
from engine.stores.redis.dead_letters import drop, replay
from engine.stream_id import StreamId

_encode = msgspec.msgpack.Encoder().encode
# (entry id, message) of a dead letter.
Letter = tuple[bytes, Message]
_NEVER = Message(
    id="m0", organisation_id=1, to="+1", text="x", sender="", encoding="GSM-7", segments=1, units=1,
    accepted_at_us=1, expires_at_us=2,
)  # fmt: skip


def command(shard: int, what: str, known: list[Letter], number: int = 0) -> Any:
    """Look at the dead letters, or end one of those that are known, of which some are gone."""
    if what == "dead":
        return ("XRANGE", keys.dead_key(shard, "normal"), "-", "+", "COUNT", 100)
    entry_id, message = known[number % len(known)] if known else (b"1-1", _NEVER)
    letter_id = DeadLetterId("normal", shard, StreamId.parse(entry_id))
    if what == "drop":
        return drop(letter_id, message, _encode(dropped_row(message, "normal", 150)))
    row = _encode(replayed_row(message, "normal", 150))
    return replay(letter_id, 150, _encode(begun_anew(message)), row)


def found(known: list[Letter], reply: Any) -> list[Letter]:
    """Those that were known, and those of a look."""
    before = {entry_id for entry_id, _ in known}
    letters = [(i, msgspec.msgpack.decode(fields[1], type=Message)) for i, fields in reply]
    return known + [letter for letter in letters if letter[0] not in before]
