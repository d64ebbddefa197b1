"""When to try a provider's server again, and a clock tick that forgives a frozen process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PAUSE_S = 0.05
PAUSE_S_MAX = 2.0


class Backoff:
    """How long to leave a server alone that refuses connections. Times are monotonic seconds."""

    def __init__(self, first_s: float = PAUSE_S, max_s: float = PAUSE_S_MAX) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self.failures = 0
        self.reason = ""
        self._retry_at_s = 0.0

    def holds(self, now_s: float) -> bool:
        """Whether the server is still to be left alone."""
        return now_s < self._retry_at_s

    def pause_s(self, now_s: float) -> float:
        """Seconds of the pause that are left."""
        return max(0.0, self._retry_at_s - now_s)

    def failed(self, now_s: float, reason: str, jitter: float) -> None:
        """An attempt failed. The pause doubles with each, times 0.5 to 1 for `jitter` 0 to 1."""
        self.reason = reason
        if not self.holds(now_s):  # attempts that were under way together count once
            pause_s = min(self._max_s, self._first_s * 2 ** min(self.failures, 16))
            self._retry_at_s = now_s + pause_s * (0.5 + jitter / 2)
            self.failures += 1

    def succeeded(self) -> None:
        """An attempt succeeded: the next failure begins with the first pause."""
        self.failures = 0
        self._retry_at_s = 0.0


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
