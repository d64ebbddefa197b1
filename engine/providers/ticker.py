"""A clock tick that forgives a frozen process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# The longest rest, seconds.
_REST_S_MAX = 60.0


class Ticker:
    """Calls `tick` every `tick_s` seconds, or after a longer rest.

    `tick` may return for how long there is nothing for it to do, seconds; then it is called after so long, or
    `tick_s` after `stir`, whatever comes first.

    When the process was held up (stopped by a signal, swapped out, a long call), the
    loop runs timers before it reads sockets: the first late tick is put off by a
    millisecond, so that answers which wait in the socket are read before anybody decides that they
    never came. Only the first is put off: a loop that is always late still ticks.
    """

    def __init__(self, tick_s: float, tick: Callable[[], float | None]) -> None:
        self._tick_s = tick_s
        self._tick = tick
        self._due_s = 0.0
        self._put_off = False
        self._rests = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to tick, on the running loop."""
        self._arm(self._tick_s)

    def stop(self) -> None:
        """Tick no more; again changes nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stir(self) -> None:
        """There is something to do again: end a rest."""
        if self._rests and self._timer is not None:
            self._timer.cancel()
            self._rests = False
            self._arm(self._tick_s)

    def _arm(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + delay_s
        self._timer = loop.call_later(delay_s, self._ring)

    def _ring(self) -> None:
        late = asyncio.get_running_loop().time() - self._due_s > self._tick_s
        self._put_off = late and not self._put_off
        if self._put_off:
            self._arm(0.001)
            return
        self._rests = False
        # Armed before the tick, so that a fault in it does not end the ticking.
        self._arm(self._tick_s)
        rest_s = self._tick()
        if rest_s is not None and rest_s > self._tick_s and self._timer is not None:
            self._timer.cancel()
            self._rests = True
            self._arm(min(rest_s, _REST_S_MAX))
