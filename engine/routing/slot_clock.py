"""Rule: what our clock shows at a time of the clock of Redis, and how sure that is.

Each answer of Redis says when Redis looked at the request, by its own clock. By ours that was after the
request was written and before the answer was read. So each exchange bounds the distance of the two clocks
from both sides, and the narrowest bounds of all exchanges are kept (the intersection of intervals of
K. Marzullo, S. Owicki: *Maintaining the Time in a Distributed System*, 1983). An answer that came late, in an
exchange among quick ones, is therefore as good as a quick one. Only as much stays unknown as the quickest
exchange took, and a little more with each second since, because clocks run unevenly.

    Redis' clock is set    an exchange contradicts the bounds. Those are forgotten, and this exchange alone
                           counts. A step that contradicts nothing is no longer than that exchange took
    a replica took over    the same: another clock
    this process froze     its exchange bounds little, and no bound becomes wrong

Times are seconds; ours are of `time.monotonic()`.
"""

from __future__ import annotations

import math

from engine.routing.timing import LATE_S

# Redis hands out slots at most so far ahead, seconds; to normal half as far. Express waits about as
# long behind a backlog of normal: 39 ms in the median, where it was 64 ms with a horizon of 0.1 s.
# With a shorter horizon, workers whose loop is 5 ms late cannot use the whole rate.
HORIZON_S = 0.06
# So many of the messages that wait are looked at to ask for slots.
LOOK_AHEAD = 16
# A worker whose Redis is far asks for slots so much further ahead, in times of a round trip: it gets half of
# what is free, and that has to last until the next answer. A round trip up to the second, seconds, is near.
_TRIPS_AHEAD = 2.5
_NEAR_S = 0.01
# What is unknown of the clock of Redis is rounded up to a multiple of this, seconds.
_UNCERTAIN_STEP_S = 0.005
# By so much the two clocks may drift apart, seconds a second: a clock that is being corrected, on each side.
_DRIFT = 0.001
# How much of a round trip that takes longer than it did, or less long, counts in the usual one.
_LONGER, _SHORTER = 0.5, 0.1
# A round trip longer than this counts as one of this time, seconds.
ROUND_TRIP_MAX_S = 0.25


class SlotClock:
    """The clock of the Redis that has one provider's slots, as one worker knows it."""

    def __init__(self) -> None:
        # Our clock less that of Redis lies between these, as they were at `_noted_s`.
        self._least_s, self._most_s = -math.inf, math.inf
        self._noted_s = -math.inf
        # How long an exchange takes, rather too long than too short, seconds.
        self.round_trip_s = 0.0
        # How much later than usual the worker may use its slots, seconds (`engine.routing.lateness`).
        self.late_s = 0.0

    @property
    def uncertain_s(self) -> float:
        """How much is unknown of the distance of the two clocks, seconds; 0 before the first exchange."""
        return self._most_s - self._least_s if self._most_s < math.inf else 0.0

    @property
    def further_s(self) -> float:
        """How much further ahead than usual to ask for slots, seconds."""
        trips_s = _TRIPS_AHEAD * self.round_trip_s if self.round_trip_s > _NEAR_S else 0.0
        return max(trips_s, self.late_s)

    @property
    def horizon_s(self) -> float:
        """How far ahead Redis may give this worker slots, seconds; half of that in the normal queue."""
        return HORIZON_S + 2 * self.further_s

    def look_ahead(self, rate: float) -> int:
        """So many of the messages that wait are looked at to ask for slots; `rate`: segments a second."""
        return LOOK_AHEAD + int(rate * self.further_s)

    def beyond_s(self, tolerance_s: float) -> float:
        """How much is unknown of when slots are used: of the clock of Redis, rounded up, and how late it is,
        seconds; 0: so little that slots can be used with this tolerance."""
        steps = math.ceil(self.uncertain_s / _UNCERTAIN_STEP_S - 1e-9)
        uncertain_s = min(ROUND_TRIP_MAX_S, steps * _UNCERTAIN_STEP_S + self.late_s)
        return uncertain_s if self.late_s or uncertain_s + LATE_S > tolerance_s else 0.0

    def note(self, asked_s: float, answered_s: float, redis_s: float) -> None:
        """Note an exchange: Redis looked at the request when its clock showed `redis_s`."""
        took_s = min(ROUND_TRIP_MAX_S, answered_s - asked_s)
        longer_s = took_s - self.round_trip_s
        self.round_trip_s += (_LONGER if longer_s > 0 else _SHORTER) * longer_s
        drift_s = _DRIFT * max(0.0, answered_s - self._noted_s) if self._most_s < math.inf else 0.0
        self._least_s = max(self._least_s - drift_s, asked_s - redis_s)
        self._most_s = min(self._most_s + drift_s, answered_s - redis_s)
        if self._least_s > self._most_s:
            self._least_s, self._most_s = asked_s - redis_s, answered_s - redis_s
        self._noted_s = answered_s

    def when_s(self, redis_s: float) -> tuple[float, float]:
        """Between which times of our clock that of Redis shows `redis_s`, after an exchange was noted."""
        return redis_s + self._least_s, redis_s + self._most_s
