"""Rule: the timeline of a rate, on which Redis hands out slots; the same in every worker.

`engine.routing.throughput` says why that keeps to the limit.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

# By this part the timeline is slower than the rate; by up to the second where a slot could not be used for as
# long as the third after its time without that, seconds.
_SLACK, _SLACK_MAX = 0.015, 0.025
_TOLERANCE_MIN_S = 0.04
# A slot may be used for no longer than this after its time, seconds, or than the second beyond what is
# unknown of the clock of Redis.
_TOLERANCE_MAX_S = 0.05
LATE_S = 0.015
# Within any second no more than this times the rate is sent.
_EXCESS = 1.05
# Up to this rate, segments a second, Redis counts every segment, and slots come in bundles.
COUNTED_RATE_MAX = 200.0
# Largest message that a faster timeline makes allowance for, segments.
_WIDEST = 10


class Timing(NamedTuple):
    """The timeline of a rate; the same in every worker."""

    # From slot to slot.
    interval_s: float
    # How long after its time a slot may be used.
    tolerance_s: float
    # Most segments within a second and the tolerance; 0: Redis does not count them, because the
    # interval alone keeps to the limit.
    most: int
    # As many segments may have their slots within a second and the tolerance.
    within: float
    # What is sent within any second by one worker has its slots within less than this.
    spread_s: float


@lru_cache(maxsize=1024)
def timing(rate: float, uncertain_s: float = 0.0) -> Timing:
    """The timeline for `rate` segments a second, greater than 0, as a worker asks for its slots that does not
    know the clock of Redis better than to `uncertain_s`."""
    if rate <= COUNTED_RATE_MAX:
        # The addend: 1.05 * 20 is a little less than 21 in binary.
        most = max(math.floor(_EXCESS * rate + 1e-9), math.ceil(rate))
        within = float(most)
    else:
        # A span of n intervals holds n + 1 slots at most, and the last message in it may reach beyond it.
        most, within = 0, _EXCESS * rate - (_WIDEST - 1) - 1
    least_s, most_s = 1 / (rate * (1 - _SLACK)), 1 / (rate * (1 - _SLACK_MAX))
    interval_s = max(least_s, min(most_s, (1 + _TOLERANCE_MIN_S) / within))
    tolerance_max_s = _TOLERANCE_MAX_S
    if uncertain_s:
        tolerance_max_s = max(tolerance_max_s, uncertain_s + LATE_S)
        interval_s = max(interval_s, (1 + uncertain_s + LATE_S) / within)
    spread_s = (math.ceil(rate) - 0.5) * interval_s
    return Timing(interval_s, min(tolerance_max_s, within * interval_s - 1), most, within, spread_s)
