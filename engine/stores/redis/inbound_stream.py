"""Inbound messages in Redis, as the inbox sees them (`engine.inbound.ports`).

Under failure: every step may be sent again when its answer was lost, and raises Unavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from engine.errors import Unavailable
from engine.inbound.records import InboundMessage, InboundPart, KeptPart, shown
from engine.records import NO_RECORD
from engine.redis_keys import INBOUND, INBOUND_LOCK, INBOUND_UNREADABLE
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.webhook_stream import add_events
from engine.stores.redis.wire import ReplyError
from engine.stream_id import StreamId
from engine.webhooks.records import WebhookEvent

log = structlog.get_logger("inbound")

# Parts that are read at once. Those of messages whose other parts are waited for stay at the front.
_READ_MAX = 2_000

_decode = msgspec.msgpack.Decoder(InboundPart).decode


class RedisInboundStream:
    """The port `InboundStream`."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def lease(self, owner: str, ttl_ms: int) -> bool:
        """Become or stay the one active inbox for `ttl_ms`; False while another is."""
        ask: Command = ("FCALL", versioned("receipts_lease"), 1, INBOUND_LOCK, owner, ttl_ms)
        return bool((await answers_of(self._link, [ask]))[0])

    async def release(self, owner: str) -> None:
        """Give the lease up at once, if it is `owner`'s."""
        await answers_of(self._link, [("FCALL", versioned("receipts_release"), 1, INBOUND_LOCK, owner)])

    async def read(self) -> list[KeptPart]:
        """The oldest parts; what is none is set aside."""
        found, unreadable = [], []
        for stream_id, fields in (
            await answers_of(self._link, [("XRANGE", INBOUND, "-", "+", "COUNT", _READ_MAX)])
        )[0]:
            try:
                found.append(KeptPart(StreamId.parse(stream_id), _decode(fields[1])))
            except NO_RECORD:
                unreadable.append(stream_id)
        if unreadable:
            log.error("inbound messages cannot be read, and are set aside", count=len(unreadable))
            await answers_of(
                self._link,
                [("FCALL", versioned("inbound_set_aside"), 2, INBOUND, INBOUND_UNREADABLE, *unreadable)],
            )
        return found

    async def remove(self, stream_ids: Sequence[StreamId]) -> None:
        """Remove what is done with."""
        await answers_of(self._link, [("XDEL", INBOUND, *map(str, stream_ids))])


class RedisInboundEvents:
    """The port `InboundEvents`: events on the streams from which organisations are told."""

    def __init__(self, link: RedisLink, shard_of: Callable[[int], int]) -> None:
        self._link = link
        self._shard_of = shard_of

    async def add(self, messages: Sequence[InboundMessage]) -> None:
        """Put an event for each message on the stream of its organisation's shard."""
        by_shard: dict[int, list[WebhookEvent]] = {}
        for message in messages:
            event = WebhookEvent(
                id=message.id,
                organisation_id=message.organisation_id,
                type="message.received",
                at_us=round(message.at.timestamp() * 1e6),
                data=msgspec.json.encode(shown(message)).decode(),
            )
            by_shard.setdefault(self._shard_of(message.organisation_id), []).append(event)
        if by_shard:
            await answers_of(self._link, [add_events(s, events) for s, events in by_shard.items()])


async def answers_of(link: RedisLink, commands: Sequence[Command]) -> list[Any]:
    """The replies to commands. Raises Unavailable."""
    replies = await link.batch(commands)
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise Unavailable(f"Redis refuses: {reply}.") from reply
    return replies
