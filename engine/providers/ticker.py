"""A clock tick that forgives a frozen process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Ticker:
    """Calls `tick` every `tick_s` seconds.

    When the process was held up (stopped by a signal, swapped out, a long call), the
    loop runs timers before it reads sockets: the first late tick is put off by a
    millisecond, so that answers which wait in the socket are read before anybody decides that they
    never came. Only the first is put off: a loop that is always late still ticks.
    """

    def __init__(self, tick_s: float, tick: Callable[[], None]) -> None:
        self._tick_s = tick_s
        self._tick = tick
        self._due_s = 0.0
        self._put_off = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to tick, on the running loop."""
        self._arm(self._tick_s)

    def stop(self) -> None:
        """Tick no more; again changes nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + delay_s
        self._timer = loop.call_later(delay_s, self._ring)

    def _ring(self) -> None:
        late = asyncio.get_running_loop().time() - self._due_s > self._tick_s
        self._put_off = late and not self._put_off
        if self._put_off:
            self._arm(0.001)
        else:
            self._arm(self._tick_s)
            self._tick()
