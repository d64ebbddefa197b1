"""How a process waits for what it does from time to time, and for what may happen meanwhile.

A wake-up of a process at rest costs many times what it then does. So everything periodic wakes at the
multiples of its period on the loop's clock: what comes once a second and what comes twice a second wake the
process twice together, and not three times.
"""

from __future__ import annotations

import asyncio

# A read that waits in Redis ends so long before a multiple, seconds.
_BEFORE_S = 0.005
# What is nearer than this part of a period is passed over: timers may ring a little early.
_EARLY = 0.25


def until_tick_s(period_s: float) -> float:
    """How long until the next multiple of `period_s` on the running loop's clock, seconds.

    It is from a quarter of the period to one and a quarter."""
    left_s = period_s - asyncio.get_running_loop().time() % period_s
    return left_s if left_s > period_s * _EARLY else left_s + period_s


def until_tick_ms(period_s: float) -> int:
    """How long a read may wait in Redis for something to come, milliseconds: until just before the next
    multiple of `period_s`.

    Redis looks for reads that have waited long enough whenever it wakes, and it wakes at that multiple for
    what processes ask it then. So its answer comes with the others.
    """
    return max(1, round((until_tick_s(period_s) - _BEFORE_S) * 1000))


async def next_tick(period_s: float) -> None:
    """Sleep until the next multiple of `period_s` on the running loop's clock."""
    await asyncio.sleep(until_tick_s(period_s))


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Wait until `event` is set; False when it is not within so many seconds."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
