"""The throughput of providers in Redis (`engine.ports.Pace`, `throughput.lua`).

All asks of a worker go in one write: one function call for each, none waits for another.

Under failure. Answer lost: what was reserved is lost, and `Unavailable` says so; the next
ask is a new one. Redis emptied: it has no functions either; the link loads them, and the
ask is `Unavailable`. What Redis then knows of the past: see `throughput.lua`.

Providers may lie on different nodes of a Redis Cluster, each key for itself; `reserve` is
the place where the asks would be divided.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import Unavailable
from engine.routing.ports import SlotRequest, Slots
from engine.routing.throughput import timing
from engine.shards import rate_key
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.wire import ReplyError

# Slots are handed out at most so far ahead, by normal half as far.
HORIZON_US = 100_000


class RedisSlots:
    """Slots of all providers through one link, which nothing may hold up."""

    def __init__(self, link: RedisLink) -> None:
        """`link`: its time-out is the time after which an answer is not waited for."""
        self._link = link

    async def reserve(self, asks: Sequence[SlotRequest]) -> list[Slots]:
        replies = await self._link.batch([_command(ask) for ask in asks])
        slots = []
        for ask, reply in zip(asks, replies, strict=True):
            if isinstance(reply, ReplyError):
                raise Unavailable(f"Redis gives no slots: {reply}.", retry_after=0.05)
            slots.append(Slots(reply[0], reply[1], timing(ask.rate).interval_s * 1e6, ask.together))
        return slots


def _command(ask: SlotRequest) -> Command:
    interval_s, tolerance_s, most = timing(ask.rate)
    return (
        "FCALL", "reserve", 1, rate_key(ask.provider),
        ask.queue, ask.segments, ask.together, repr(interval_s * 1e6), repr(ask.express_share),
        repr((1 + tolerance_s) * 1e6), most, HORIZON_US,
    )  # fmt: skip
