"""The sleep of one loop, until a time that others may bring forward.

With an ordinary event, a loop whose own work sets the event never sleeps. That cannot happen here:
`ring` counts only while the loop sleeps, because a loop that is awake works out when to wake before it
sleeps again. And a sleep lasts at least a tick unless somebody rings. So a loop that asks again
and again for a time that has passed turns a thousand times a second, and the other tasks of the
process go on.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

# Shortest sleep, seconds. uvloop's timers go by whole milliseconds.
TICK_S = 0.001


class Alarm:
    """The alarm of one loop, which makes one `sleep_until` at a time."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        """`clock_s`: monotonic seconds; all times here are by it."""
        self._clock_s = clock_s
        # When the sleeper wakes by itself; minus infinity while nobody sleeps.
        self._wakes_at_s = -math.inf
        self._sleeper: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def sleep_until(self, at_s: float) -> None:
        """Sleep until `at_s` (infinity: until somebody rings), at least a tick. `ring` ends it earlier."""
        self._sleeper = asyncio.get_running_loop().create_future()
        self._set(at_s)
        try:
            await self._sleeper
        finally:
            self._sleeper, self._wakes_at_s = None, -math.inf
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def ring(self, at_s: float = -math.inf) -> None:
        """Let the sleeper wake no later than `at_s`, by default at once. Does nothing while nobody sleeps."""
        if at_s >= self._wakes_at_s:
            return
        if at_s <= self._clock_s():
            self._wakes_at_s = -math.inf
            self._wake()
        else:
            self._set(at_s)

    def _set(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wakes_at_s = at_s
        if at_s < math.inf:
            delay_s = max(TICK_S, at_s - self._clock_s())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)
