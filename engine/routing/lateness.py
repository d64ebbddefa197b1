"""Rule: how late one worker may use its slots, by how many it loses because it does not run in time.

A slot that is used late is among those of a later second, so slots that may be used later have to be further
apart, for all workers: about as much of the throughput is given up as the lateness is of a second. What is
lost by lateness is lost: no later second has room for it. So a worker that loses more than the first step
costs asks for slots that may be used later, and further ahead, and for ordinary ones when it would lose
hardly any of those.

One freeze changes nothing: it takes a horizon's worth of slots at most, and a window is far longer.

Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math

from engine.routing.timing import timing

# How much later than usual slots may be used, seconds: what is tried, one after another.
_STEPS_S = (0.0, 0.05, 0.1, 0.2)
# What is lost is counted in windows of so long, seconds.
_WINDOW_S = 5.0
# The next step is taken when more than the first part of the rate is lost, and the one before when no more
# than the second part would be lost with that.
_TOO_MUCH, _FEW = 0.05, 0.02


class Lateness:
    """The lateness of one worker at one provider."""

    def __init__(self) -> None:
        # How much later than usual its slots may be used, seconds.
        self.allowed_s = 0.0
        self._step = 0
        # A slot that is used so long after its time would be lost with the step before, seconds.
        self._saved_s = math.inf
        # In the present window: when it began, what was lost when it began, and the segments that would have
        # been lost with the step before.
        self._since_s = -math.inf
        self._lost_before = 0
        self._saved = 0

    def used(self, segments: int, after_s: float) -> None:
        """Note that so many segments were sent, so long after the time of their slots, seconds."""
        if after_s > self._saved_s:
            self._saved += segments

    def look(self, lost: int, rate: float, now_s: float) -> None:
        """End the present window if it has lasted long enough. `lost`: segments that were lost, ever; `rate`:
        the provider's, segments a second."""
        passed_s = now_s - self._since_s
        if passed_s < _WINDOW_S:
            return
        # A window that is much longer holds a pause.
        if passed_s < 2 * _WINDOW_S and lost - self._lost_before > _TOO_MUCH * rate * passed_s:
            self._step = min(self._step + 1, len(_STEPS_S) - 1)
        elif lost - self._lost_before + self._saved <= _FEW * rate * passed_s:
            self._step = max(self._step - 1, 0)
        self.allowed_s = _STEPS_S[self._step]
        self._saved_s = timing(rate, _STEPS_S[self._step - 1]).tolerance_s if self._step else math.inf
        self._since_s, self._lost_before, self._saved = now_s, lost, 0
