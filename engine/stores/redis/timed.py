"""A round trip that also measures the stores' clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.store_clock import TIME, StoreClock
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.wire import ReplyError


async def timed_batch(link: RedisLink, clock: StoreClock | None, commands: Sequence[Command]) -> list[Any]:
    """As `link.batch`, with a measurement for `clock` in the same round trip; None: without one.

    Raises Unavailable; nothing is measured then.
    """
    if clock is None:
        return await link.batch(commands)
    asked = clock.asked()
    time, *replies = await link.batch([TIME, *commands])
    if not isinstance(time, ReplyError):
        clock.answered(asked, time)
    return replies
