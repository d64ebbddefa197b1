"""The throughput of providers in Redis (`engine.routing.ports.SlotStore`, `throughput.lua`).

All asks of a worker go in one write: one function call for each, none waits for another.

Under failure. Answer lost, or not there within `UNANSWERED_S`: what was reserved is lost, and
`Unavailable` says so; the next ask is a new one. A connection that is slow is not dropped for
that: it has its own, much longer time-out. Redis emptied: it has no functions either; the link
loads them, and the ask is `Unavailable`. What Redis then knows of the past: see `throughput.lua`.

Providers may lie on different nodes of a Redis Cluster, each key for itself; `reserve` is
the place where the asks would be divided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from engine.errors import Unavailable
from engine.routing.ports import SlotRequest, Slots
from engine.routing.throughput import HORIZON_S, UNANSWERED_S, timing
from engine.shards import rate_key
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.wire import ReplyError

HORIZON_US = int(HORIZON_S * 1e6)


class RedisSlots:
    """Slots of all providers through one link, which nothing may hold up."""

    def __init__(self, link: RedisLink, answer_s: float = UNANSWERED_S) -> None:
        """`link`: of this alone, so that no other answer is waited for before its own. An answer
        is waited for `answer_s`, seconds."""
        self._link = link
        self._answer_s = answer_s

    async def reserve(self, asks: Sequence[SlotRequest]) -> list[Slots]:
        replies = await self._answered([_command(ask) for ask in asks])
        slots = []
        for ask, reply in zip(asks, replies, strict=True):
            if isinstance(reply, ReplyError):
                raise Unavailable(f"Redis gives no slots: {reply}.", retry_after=0.05)
            slots.append(Slots(reply[0], reply[1], timing(ask.rate).interval_s * 1e6, ask.together))
        return slots

    async def _answered(self, commands: Sequence[Command]) -> list[Any]:
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._link.batch(commands)
        except TimeoutError as e:
            late = f"Redis gives no slots within {self._answer_s * 1000:.0f} ms."
            raise Unavailable(late, retry_after=0.01) from e


def _command(ask: SlotRequest) -> Command:
    interval_s, tolerance_s, most = timing(ask.rate)
    return (
        "FCALL", "reserve", 1, rate_key(ask.provider),
        ask.queue, ask.segments, ask.together, repr(interval_s * 1e6), repr(ask.express_share),
        repr((1 + tolerance_s) * 1e6), most, HORIZON_US,
    )  # fmt: skip
