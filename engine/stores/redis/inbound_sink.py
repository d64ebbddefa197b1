"""How inbound messages get into Redis (`engine.inbound.ports.InboundSink`).

One atomic step keeps a part unless it is known already (`keep` in inbound.lua). Only then the provider is
answered.

Killed here, or Redis answers never or too late: the provider was not answered and sends again; what is in
Redis already is known by its digest, and is not kept twice.
Redis away or full, or too much waiting here: the provider is asked at once to send again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from engine.errors import Unavailable
from engine.inbound.records import InboundPart
from engine.redis_keys import INBOUND, INBOUND_SEEN
from engine.stores.redis.link import Argument, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.wire import ReplyError

# The most parts that may be on their way; more are refused.
_WAITING_MAX = 10_000

_encode = msgspec.msgpack.Encoder().encode


class InboundCounts(msgspec.Struct):
    """Inbound messages, or parts of them, that are in Redis, and those that were asked for again."""

    kept: int = 0
    refused: int = 0


class RedisInboundSink:
    """The port `InboundSink`; one for all providers of a process. `counts`: what became of parts."""

    def __init__(self, link: RedisLink, now_us: Callable[[], int]) -> None:
        """`link` belongs to the caller, who closes it after `close`. `now_us`: by the clock of Redis."""
        self._link = link
        self._now_us = now_us
        self._waiting = 0
        self._putting: set[asyncio.Task[None]] = set()
        self._closed = False
        self.counts = InboundCounts()

    def put(self, parts: Sequence[tuple[InboundPart, bytes, int]], stored: Callable[[bool], None]) -> None:
        """See the port."""
        loop = asyncio.get_running_loop()
        if not parts or self._closed or self._waiting + len(parts) > _WAITING_MAX:
            self.counts.refused += len(parts)
            loop.call_soon(stored, not parts)
            return
        self._waiting += len(parts)
        putting = loop.create_task(self._keep(parts, stored))
        self._putting.add(putting)
        putting.add_done_callback(self._putting.discard)

    async def close(self) -> None:
        """Wait for what is on its way, at most the link's time-out. From now on `put` refuses everything."""
        self._closed = True
        while self._putting:
            await asyncio.wait(self._putting)

    async def _keep(
        self, parts: Sequence[tuple[InboundPart, bytes, int]], stored: Callable[[bool], None]
    ) -> None:
        now_ms = self._now_us() // 1000
        arguments: list[Argument] = []
        for part, digest, again_s in parts:
            arguments += (digest, now_ms + again_s * 1000, _encode(part))
        kept = False
        try:
            await self._link.call(
                "FCALL", versioned("inbound_keep"), 2, INBOUND, INBOUND_SEEN, now_ms, *arguments
            )
            kept = True
        except (Unavailable, ReplyError):
            # The provider learns of False below, and sends again.
            pass
        finally:
            self._waiting -= len(parts)
            if kept:
                self.counts.kept += len(parts)
            else:
                self.counts.refused += len(parts)
            asyncio.get_running_loop().call_soon(stored, kept)
