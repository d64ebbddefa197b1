"""The dead letters in Redis: `replay` and `drop` in functions/queue.

Replay and drop are one atomic step each, which begins with taking the dead letter away. Who comes second, be
it the same call again, another operator or the other verb, finds none and does nothing.

    killed before the step     nothing has happened
    killed after it            it is done; nobody was told
    answer lost                nobody knows; done again, it finds no dead letter when it had been done
    Redis goes back            a dead letter may lie there again, as a settled message may
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine import message_format
from engine import redis_keys as keys
from engine.delivery import dead_letters
from engine.delivery.dead_letters import DeadLetter, DeadLetterId
from engine.errors import Refusal, Unavailable
from engine.records import NO_RECORD, QUEUES, Message, Queue
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.wire import ReplyError
from engine.stream_id import StreamId

_encode = msgspec.msgpack.Encoder().encode
# Entries that one command reads when those of one organisation are looked for.
_PAGE = 500


class RedisDeadLetters:
    """The port `DeadLetters` of the API. Every call raises Unavailable."""

    def __init__(
        self, link: RedisLink, shards: int, shard_of: Callable[[int], int], now_us: Callable[[], int]
    ) -> None:
        self._link = link
        self._shards = range(shards)
        self._shard_of = shard_of
        self._now_us = now_us

    async def page(
        self, queue: Queue | None, organisation_id: int | None, after: DeadLetterId | None, limit: int
    ) -> list[DeadLetter]:
        """At most `limit` dead letters behind `after`: by queue, shard and age, the oldest first.

        One round trip for all streams, and one for each that has any.
        """
        shards = self._shards if organisation_id is None else [self._shard_of(organisation_id)]
        places = [(q, s) for q in QUEUES for s in shards if queue in (None, q)]
        if after is not None:
            places = [place for place in places if place >= after[:2]]
        lengths = await self._all([("XLEN", keys.dead_key(s, q)) for q, s in places])
        found: list[DeadLetter] = []
        for place in (place for place, length in zip(places, lengths, strict=True) if length):
            start = after.entry_id.next if after is not None and after[:2] == place else StreamId(0, 0)
            while len(found) < limit:
                count = limit - len(found) if organisation_id is None else _PAGE
                read = await self._read(*place, str(start), "+", count)
                found += [
                    dead_letters.shown(letter_id, message, self._now_us())
                    for letter_id, message in read
                    if organisation_id is None or (message and message.organisation_id == organisation_id)
                ]
                if len(read) < count:
                    break
                start = read[-1][0].entry_id.next
        return found[:limit]

    async def letter(self, letter_id: DeadLetterId) -> DeadLetter:
        """The dead letter. Raises Refusal 404."""
        return dead_letters.shown(letter_id, await self._find(letter_id), self._now_us())

    async def replay(self, letter_id: DeadLetterId) -> DeadLetter:
        """Put the message into its queue again; the dead letter as it was. Raises Refusal 404, 409."""
        message, now_us = _readable(await self._find(letter_id)), self._now_us()
        if dead_letters.is_expired(message, now_us):
            detail = "The validity of this message is over, so it can only be dropped."
            raise Refusal("validity_over", 409, detail)
        row = _encode(dead_letters.replayed_row(message, letter_id.queue, now_us))
        again = message_format.packed(dead_letters.begun_anew(message))
        await self._end(letter_id, replay(letter_id, now_us, again, row))
        return dead_letters.shown(letter_id, message, now_us)

    async def drop(self, letter_id: DeadLetterId) -> DeadLetter:
        """Give the message up and release its units; the dead letter as it was. Raises Refusal 404, 409."""
        message, now_us = _readable(await self._find(letter_id)), self._now_us()
        row = _encode(dead_letters.dropped_row(message, letter_id.queue, now_us))
        await self._end(letter_id, drop(letter_id, message, row))
        return dead_letters.shown(letter_id, message, now_us)

    async def _find(self, letter_id: DeadLetterId) -> Message | None:
        """The message of the dead letter, None when it cannot be read. Raises Refusal 404."""
        at = str(letter_id.entry_id)
        found = []
        if letter_id.shard in self._shards:
            found = await self._read(letter_id.queue, letter_id.shard, at, at, 1)
        if not found:
            raise _none()
        return found[0][1]

    async def _end(self, letter_id: DeadLetterId, command: Command) -> None:
        if not (await self._all([command]))[0]:
            raise _none()

    async def _read(
        self, queue: Queue, shard: int, start: str, end: str, count: int
    ) -> list[tuple[DeadLetterId, Message | None]]:
        command = ("XRANGE", keys.dead_key(shard, queue), start, end, "COUNT", count)
        return [
            (DeadLetterId(queue, shard, StreamId.parse(entry_id)), _message(fields[1]))
            for entry_id, fields in (await self._all([command]))[0]
        ]

    async def _all(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._link.batch(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise Unavailable(f"Redis refuses: {reply}.") from reply
        return replies


def replay(letter_id: DeadLetterId, due_at_us: int, payload: bytes, row: bytes) -> Command:
    """Put a dead letter on the due set as `payload`; reply: 1 when this call did, else 0. `row`: packed."""
    queue, shard, entry_id = letter_id
    touched = (
        keys.dead_key(shard, queue), keys.due_key(shard, queue), keys.activity_key(shard),
        keys.moved_key(shard),
    )  # fmt: skip
    return ("FCALL", versioned("replay"), len(touched), *touched, str(entry_id), due_at_us, payload, row)


def drop(letter_id: DeadLetterId, message: Message, row: bytes) -> Command:
    """Drop a dead letter, which is `message`; reply: 1 when this call did, else 0. `row`: packed."""
    queue, shard, entry_id = letter_id
    touched = (
        keys.dead_key(shard, queue), keys.activity_key(shard), keys.usage_key(shard),
        keys.usage_head_key(shard), keys.held_key(shard), keys.held_by_key(shard),
    )  # fmt: skip
    given = (str(entry_id), message.organisation_id, message.units, row)
    return ("FCALL", versioned("drop"), len(touched), *touched, *given)


def _message(payload: bytes) -> Message | None:
    try:
        return message_format.unpacked(payload)
    except NO_RECORD:
        return None


def _readable(message: Message | None) -> Message:
    """Raises Refusal 409 when there is none."""
    if message is None:
        detail = "This version of the engine cannot read this dead letter; the one that wrote it can."
        raise Refusal("unreadable", 409, detail)
    return message


def _none() -> Refusal:
    detail = "There is no dead letter with this id; it may have been replayed or dropped already."
    return Refusal("not_found", 404, detail)
