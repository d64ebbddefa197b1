"""Replies to STOP, START and HELP in Redis, on their way from the inbox to an ingest process.

Under failure: every step may be sent again when its answer was lost, and raises Unavailable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import structlog

from engine.inbound.auto_replies import REPLIES_MAX, WINDOW_S, DueReply
from engine.records import NO_RECORD
from engine.redis_keys import AUTO_REPLIES, AUTO_REPLIES_LOCK, INBOUND_UNREADABLE, replied_key
from engine.stores.redis.inbound_stream import answers_of
from engine.stores.redis.link import RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stream_id import StreamId

log = structlog.get_logger("auto-replies")

_READ_MAX = 200

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DueReply).decode


class WaitingReply(NamedTuple):
    """A reply as it lies in Redis."""

    stream_id: StreamId
    reply: DueReply


class RedisReplyQueue:
    """The port `engine.inbound.ports.ReplyQueue`, and `engine.inbound.reply_sending.WaitingReplies`."""

    def __init__(self, link: RedisLink) -> None:
        """`link` belongs to the caller."""
        self._link = link

    async def put(self, replies: Sequence[DueReply]) -> int:
        """Have them sent, each once; how many wait now, or waited."""
        name = versioned("inbound_reply")
        answers = await answers_of(
            self._link,
            [
                (
                    "FCALL", name, 2, AUTO_REPLIES, replied_key(reply.organisation_id, reply.to),
                    reply.message_id, REPLIES_MAX, WINDOW_S, _encode(reply),
                )
                for reply in replies
            ],
        )  # fmt: skip
        return sum(answers)

    async def lease(self, owner: str, ttl_ms: int) -> bool:
        """Become or stay the one process that sends them, for `ttl_ms`; False while another is."""
        ask = ("FCALL", versioned("receipts_lease"), 1, AUTO_REPLIES_LOCK, owner, ttl_ms)
        return bool((await answers_of(self._link, [ask]))[0])

    async def release(self, owner: str) -> None:
        """Give the lease up at once, if it is `owner`'s."""
        await answers_of(self._link, [("FCALL", versioned("receipts_release"), 1, AUTO_REPLIES_LOCK, owner)])

    async def waiting(self, after: StreamId | None) -> list[WaitingReply]:
        """The oldest behind `after`, some hundreds at most; what is none is set aside."""
        begin = "-" if after is None else f"({after}"
        found, unreadable = [], []
        [entries] = await answers_of(self._link, [("XRANGE", AUTO_REPLIES, begin, "+", "COUNT", _READ_MAX)])
        for stream_id, fields in entries:
            try:
                found.append(WaitingReply(StreamId.parse(stream_id), _decode(fields[1])))
            except NO_RECORD:
                unreadable.append(stream_id)
        if unreadable:
            log.error("replies cannot be read, and are set aside", count=len(unreadable))
            await answers_of(
                self._link,
                [("FCALL", versioned("inbound_set_aside"), 2, AUTO_REPLIES, INBOUND_UNREADABLE, *unreadable)],
            )
        return found

    async def remove(self, stream_ids: Sequence[StreamId]) -> None:
        """Remove what is sent, or never will be."""
        await answers_of(self._link, [("XDEL", AUTO_REPLIES, *map(str, stream_ids))])
