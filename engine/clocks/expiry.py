"""Things that end the same time after they began, with one timer for all of them.

`asyncio.timeout` sets and cancels a timer for each thing, and needs a task for each. Here the oldest comes
first, so one timer for that one is enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Expiry(Generic[T]):
    """Ends what has not stopped `after_s` seconds after it began. Each thing is in it once at most."""

    def __init__(self, after_s: float, end: Callable[[T], None]) -> None:
        """`end` is called by the loop with each thing whose time is over; it must neither wait nor raise."""
        self.after_s = after_s
        self._end = end
        # In the order in which they began: when the time of each is over, by the loop's clock.
        self._over_at: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        # To ask for the running one is a system call, which each message would pay.
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        """How many things have begun and neither stopped nor ended."""
        return len(self._over_at)

    def begin(self, thing: T, ago_s: float = 0.0) -> None:
        """The time of `thing` runs from now on, or began `ago_s` seconds ago."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._over_at[thing] = over_at = loop.time() + self.after_s - ago_s
        if ago_s:
            # It is not the last to end.
            loop.call_at(over_at, self._expire_alone, thing, over_at)
        elif self._timer is None:
            self._timer = loop.call_at(over_at, self._expire, loop)

    def stop(self, thing: T) -> bool:
        """The time of `thing` runs no longer; False when it was over before, or never began."""
        return self._over_at.pop(thing, None) is not None

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        over: list[T] = []
        for thing, over_at in self._over_at.items():
            if over_at > now:
                self._timer = loop.call_at(over_at, self._expire, loop)
                break
            over.append(thing)
        for thing in over:
            # The end of another one may have stopped it, or begun it anew.
            self._expire_alone(thing, now)

    def _expire_alone(self, thing: T, now: float) -> None:
        over_at = self._over_at.get(thing)
        if over_at is not None and over_at <= now:
            del self._over_at[thing]
            self._end(thing)
