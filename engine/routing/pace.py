"""Rule: what one worker has sent through one provider, could have had, and keeps from sending.

Times are seconds of `time.monotonic()`, rates segments a second.
"""

from __future__ import annotations

import math
from collections import deque

# "Throttled" halves once in so long, seconds: the answers of messages that were under way together
# count as one.
_SLOWING_S = 1.0
# No further than to this part of what was sent, which then grows by so much of it each second.
_SLOWEST = 1 / 16
_RECOVERY_PER_S = 0.1
# So far ahead, seconds, a worker that was slowed down asks for slots by its own timeline.
_OWN_AHEAD_S = 0.05


class Slowness:
    """The cap that a worker sets for itself after its provider said "throttled".

    The cap is a part of what the worker sent before. It grows until that part is the whole.
    """

    def __init__(self) -> None:
        # The part of `_rate_before`, as it was at `_since_s`; and what was sent before, segments a second.
        self._part = 1.0
        self._since_s = -math.inf
        self._rate_before = 0.0
        # Up to here the worker has used its own timeline.
        self._tail_s = -math.inf

    def cap(self, now_s: float) -> float | None:
        """The cap, segments a second; None: there is none."""
        part = self._part + _RECOVERY_PER_S * (now_s - self._since_s)
        return None if part >= 1 else part * self._rate_before

    def throttled(self, rate: float, now_s: float) -> None:
        """Set or halve the cap: the provider throttled while the worker sent `rate` segments a second."""
        if now_s - self._since_s < _SLOWING_S:
            return
        if self.cap(now_s) is None:
            self._part, self._rate_before = 1.0, rate
        else:
            self._part += _RECOVERY_PER_S * (now_s - self._since_s)
        self._part = max(_SLOWEST, self._part / 2)
        self._since_s = now_s

    def used(self, segments: int, now_s: float) -> None:
        """Note that so many segments were granted."""
        if cap := self.cap(now_s):
            self._tail_s = max(self._tail_s, now_s) + segments / cap

    def opens_at_s(self) -> float:
        """When the worker may ask for slots again."""
        return self._tail_s - _OWN_AHEAD_S

    def room(self, cap: float, now_s: float) -> int:
        """How many segments it may ask for at `now_s` under this `cap`."""
        return int((now_s + _OWN_AHEAD_S - max(self._tail_s, now_s)) * cap)


class LastSecond:
    """What one worker has sent within a second, and in which slots.

    Without it, slots that are used late would come together with those that are used in time, and there
    would be more in a second than the limit. So what is sent within a second has its slots within `spread_s`,
    which holds no more than the limit. What is late stays late, and catches up with the slack of the
    timeline.
    """

    def __init__(self) -> None:
        # Of each message: when it was sent, and the time of its first slot.
        self._sent: deque[tuple[float, float]] = deque()

    def add(self, sent_at_s: float, slot_s: float) -> None:
        """Note a message."""
        self._sent.append((sent_at_s, slot_s))

    def free_at_s(self, slot_s: float, spread_s: float, now_s: float) -> float:
        """When a message may go whose first slot is at `slot_s`, as far as is known; `now_s`: now."""
        sent = self._sent
        while sent and sent[0][0] <= now_s - 1:
            sent.popleft()
        if not sent or slot_s - sent[0][1] < spread_s:
            return now_s
        return sent[0][0] + 1


class Attained:
    """How many segments a second a worker gets when it wants as many as it can have.

    It is measured in windows of time. A window in which the worker wanted no more than it got says
    nothing about what it could have had, so the value grows towards the whole rate then.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        # Segments a second, as far as is known.
        self.value = rate
        # Whether it wanted more than it got in the present window, and whether it had nothing to send in it
        # for a while.
        self.short = False
        self.starved = False
        # Segments sent in the present window.
        self.sent = 0
        # Segments a second in the window before; and when the present one began.
        self._sent_rate = 0.0
        self._since_s = -math.inf

    def limit(self, rate: float) -> None:
        """The provider's rate is another one now, segments a second."""
        self.rate = rate
        self.value = min(self.value, rate)

    def close(self, now_s: float) -> None:
        """End the present window, if it has lasted long enough, and learn from it."""
        elapsed_s = now_s - self._since_s
        if elapsed_s < self._window_s:
            return
        self._sent_rate = self.sent / elapsed_s
        # A window much longer than usual holds a pause; that slots were short before it says nothing.
        if self.short and not self.starved and elapsed_s < 2 * self._window_s:
            self.value += (self._sent_rate - self.value) / 2
        else:
            # Nothing shows that it could not have had more: the value doubles with each window.
            grown = self.value * 2.0 ** min(60.0, elapsed_s / self._window_s)
            self.value = max(self._sent_rate, grown)
        self.value = min(self.rate, max(self.value, self.rate / 1000))
        self.short, self.starved, self.sent, self._since_s = False, False, 0, now_s

    def sending(self, now_s: float) -> float:
        """What it sends now, segments a second, whether it wants more or not."""
        elapsed_s = now_s - self._since_s
        return max(self._sent_rate, self.sent / elapsed_s if elapsed_s > self._window_s / 4 else 0.0)

    @property
    def _window_s(self) -> float:
        return max(1.0, 4 / self.rate)
