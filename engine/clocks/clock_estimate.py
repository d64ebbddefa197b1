"""Rule: what the stores' clock shows, by measurements of it against a steady clock of this machine.

A measurement is a question to Redis (`TIME`): when it was asked and answered by the steady clock, and
what Redis showed in between. So the difference of the two clocks lies within bounds as far apart as the
round trip was long, and the estimate is their middle: wrong by half the round trip at most.

Bounds of several measurements are cut with each other, so a slow answer takes nothing from a quick one.
Between measurements the bounds widen, because two clocks drift apart. Where the new bounds and the known
ones do not meet, the stores' clock was set, or Redis is another server now: the new ones alone count.

The time that is given out never goes back. Where the estimate falls below what was given already, time
goes on at half its speed until it is there. The machine's own time of day plays no part in it.
"""

from __future__ import annotations

from typing import NamedTuple

# How fast two clocks may drift apart, millionths. A quartz without any correction does 100 at most.
_DRIFT_PPM = 200

# What a machine's clock may be off by before that is said, microseconds.
NOTABLE_US = 1_000_000
# A machine whose clock is off by more does not work, microseconds.
OFF_MAX_US = 60_000_000


class Bounds(NamedTuple):
    """Between what the stores' clock is ahead of the steady one, microseconds, as known at `at_us`."""

    low_us: int
    high_us: int
    # By the steady clock.
    at_us: int

    @property
    def middle_us(self) -> int:
        """The estimate; it is wrong by `half_us` at most."""
        return (self.low_us + self.high_us) // 2

    @property
    def half_us(self) -> int:
        """How wrong the estimate may be, microseconds."""
        return (self.high_us - self.low_us + 1) // 2


def measured(asked_us: int, answered_us: int, store_us: int) -> Bounds:
    """The bounds of one measurement: asked and answered by the steady clock, `store_us` in between."""
    drift_us = _drift_us(answered_us - asked_us)
    return Bounds(store_us - answered_us - drift_us, store_us - asked_us + drift_us, answered_us)


def improved(known: Bounds | None, new: Bounds) -> Bounds:
    """The bounds after another measurement."""
    if known is None:
        return new
    drift_us = _drift_us(new.at_us - known.at_us) + 1
    low_us = max(known.low_us - drift_us, new.low_us)
    high_us = min(known.high_us + drift_us, new.high_us)
    return Bounds(low_us, high_us, new.at_us) if low_us <= high_us else new


def _drift_us(passed_us: int) -> int:
    """How far two clocks may drift apart meanwhile."""
    return passed_us * _DRIFT_PPM // 1_000_000


class GivenTime:
    """The time that was given out last, so that none goes back. A state of two numbers, no clock."""

    def __init__(self) -> None:
        # What was given out, and when by the steady clock, microseconds.
        self._time_us = -(1 << 62)
        self._at_us = 0

    def at(self, steady_us: int, ahead_us: int) -> int:
        """The time to give out at `steady_us`, as the stores' clock is estimated to be `ahead_us` of it."""
        time_us = steady_us + ahead_us
        last_us = self._time_us
        if time_us < last_us:
            # The half of the time that has passed; the odd microsecond is not forgotten.
            passed_us = (steady_us - self._at_us) // 2
            self._time_us = max(time_us, last_us + passed_us)
            self._at_us += 2 * passed_us
            return self._time_us
        self._time_us, self._at_us = time_us, steady_us
        return time_us


def difference(ahead_us: int) -> str:
    """How far a clock is ahead (or behind, below 0) in words, to be followed by the name of the other."""
    return f"{abs(ahead_us) / 1e6:.1f} s {'ahead of' if ahead_us >= 0 else 'behind'}"
