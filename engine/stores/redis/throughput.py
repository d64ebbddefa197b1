"""The throughput of providers in Redis (`throughput.lua`).

All requests of a worker go in one write, one function call for each. None waits for another.

Under failure. An answer that is lost, or later than `UNANSWERED_S`: the slots it reserved are lost,
and the call raises `Unavailable`; the next request is a new one. A slow connection is not dropped
for that, because the link has a much longer time-out of its own. Redis was emptied: it has lost the
functions too; the link loads them and the call raises `Unavailable`. `throughput.lua` says what
Redis then knows of the past.

The keys of different providers may be on different nodes of a Redis Cluster; `reserve` is where the
requests would be divided among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from engine.errors import Unavailable
from engine.redis_keys import rate_key, rate_wide_key
from engine.routing.ports import SlotRequest, Slots
from engine.routing.slot_clock import HORIZON_S
from engine.routing.throughput import UNANSWERED_S
from engine.routing.timing import timing
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.wire import ReplyError

HORIZON_US = int(HORIZON_S * 1e6)

_RESERVE = versioned("reserve")


class RedisSlots:
    """The slots of all providers, through a link that no other command may delay."""

    def __init__(self, link: RedisLink, answer_s: float = UNANSWERED_S) -> None:
        """`link` must serve nothing else, so that no other answer comes before its own.

        `answer_s`: how long an answer is waited for, seconds.
        """
        self._link = link
        self._answer_s = answer_s

    async def reserve(self, asks: Sequence[SlotRequest]) -> list[Slots]:
        """The slots for each request, in order: see `reserve` in throughput.lua. Raises Unavailable."""
        replies = await self._answered([_command(ask) for ask in asks])
        slots = []
        for ask, reply in zip(asks, replies, strict=True):
            if isinstance(reply, ReplyError):
                raise Unavailable(f"Redis gives no slots: {reply}.", retry_after=0.05)
            segments, delay_us, now_us, interval_ns = reply
            interval_us = interval_ns / 1e3 or timing(ask.rate, ask.uncertain_s).interval_s * 1e6
            slots.append(Slots(segments, delay_us, interval_us, ask.together, now_us))
        return slots

    async def _answered(self, commands: Sequence[Command]) -> list[Any]:
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._link.batch(commands)
        except TimeoutError as e:
            late = f"Redis gives no slots within {self._answer_s * 1000:.0f} ms."
            raise Unavailable(late, retry_after=0.01) from e


def _command(ask: SlotRequest) -> Command:
    interval_s, tolerance_s, most, within, _ = timing(ask.rate, ask.uncertain_s)
    horizon_us = int(ask.horizon_s * 1e6) or HORIZON_US
    return (
        "FCALL", _RESERVE, 2, rate_key(ask.provider), rate_wide_key(ask.provider),
        ask.queue, ask.segments, ask.together, repr(interval_s * 1e6), repr(ask.express_share),
        repr((1 + tolerance_s) * 1e6), most, horizon_us,
        repr(within), int(ask.uncertain_s > 0),
    )  # fmt: skip
