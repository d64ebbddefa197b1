"""What nodes note of themselves in Redis: the hashes `nodes` and `nodes:flow`, a field for each node.

A note is replaced by the next, two seconds later, also when Redis is full. Not answered or refused: the next
one counts. Killed or
frozen: the last note grows old, which others see by its time. Both hashes end by themselves a day after the
last note of any node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from engine.errors import Unavailable
from engine.nodes.flow import NodeFlow
from engine.nodes.records import NodeNote
from engine.redis_keys import NODE_FLOWS, NODES
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.own_notes import noted
from engine.stores.redis.wire import ReplyError

_KEPT_S = 86_400
# A longer note is not written, octets.
_NOTE_MAX = 65_536
_T = TypeVar("_T")


class RedisNodeNotes:
    """The port `NodeNotes`. Every call is one round trip, and raises Unavailable."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def notes(self) -> dict[str, NodeNote]:
        """By name, the notes that can be read."""
        return _read(await self._link.batch([("HGETALL", NODES)]), NodeNote)

    async def flows(self) -> dict[str, NodeFlow]:
        """By name, how fast things move on each."""
        return _read(await self._link.batch([("HGETALL", NODE_FLOWS)]), NodeFlow)


def note_commands(note: NodeNote, flow: NodeFlow | None, forgotten: Sequence[str]) -> list[Command]:
    """The commands that note a node and forget others; last comes a look at all notes (`notes_of`)."""
    commands: list[Command] = []
    for key, record in ((NODES, note), (NODE_FLOWS, flow)):
        packed = msgspec.json.encode(record)
        if record is not None and len(packed) <= _NOTE_MAX:
            commands += [noted(key, note.name, packed), ("EXPIRE", key, _KEPT_S)]
        if forgotten:
            commands.append(("HDEL", key, *forgotten))
    return [*commands, ("HGETALL", NODES)]


def notes_of(replies: Sequence[Any]) -> dict[str, NodeNote]:
    """The notes of all nodes, from the replies to `note_commands`. Raises Unavailable when Redis refuses."""
    return _read(replies, NodeNote)


def _read(replies: Sequence[Any], record: type[_T]) -> dict[str, _T]:
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise Unavailable(f"Redis refuses: {reply}.") from reply
    found: dict[str, _T] = {}
    flat = replies[-1]
    for name, packed in zip(flat[::2], flat[1::2], strict=True):
        try:
            found[name.decode()] = msgspec.json.decode(packed, type=record)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # A version that writes it otherwise; the node is not shown.
            continue
    return found
