"""Rule: the slots that a worker of express keeps for messages that have not come yet.

Beside a backlog of normal the next free slot lies some tens of milliseconds ahead, because normal has asked
for those before it. A message of express that asks only when it comes waits for that long. So the worker
asks for as many slots ahead as it is likely to need in that time, by what it has sent lately, and a message
is sent in one whose time has come.

A slot that is kept and not used is lost to all workers when its tolerance is over. Few are, because the
stock is as large as what comes within a part of the tolerance. There is none where slots are near, which
they are as long as nobody takes the whole throughput, and none where so little is sent that most of it would
be lost.

    killed, frozen    what is kept is lost, as all slots that a worker holds
    idle              nothing is asked for: what it has sent is forgotten within a second or two

Times are monotonic seconds.
"""

from __future__ import annotations

import math

# What was sent so long ago, seconds, counts for 1/e of what is sent now.
_MEMORY_S = 0.5
# Slots that are no further ahead than this, seconds, are near.
_NEAR_S = 0.01
# So much more than what comes until a slot's time is kept, seconds.
_SPARE_S = 0.02
# With fewer segments than these within that time, most of the slots would be lost.
_LEAST = 1.5


class SlotStock:
    """What one worker of express has sent lately, and how far ahead its slots are."""

    def __init__(self) -> None:
        # Segments a second, as of `_since_s`.
        self._rate = 0.0
        self._since_s = -math.inf
        # How far ahead the first slot of the last answer was, seconds.
        self.ahead_s = 0.0

    def used(self, segments: int, now_s: float) -> None:
        """Note what is sent at `now_s`."""
        self._rate = self._rate_at(now_s) + segments / _MEMORY_S
        self._since_s = now_s

    def wanted(self, now_s: float) -> int:
        """How many slots to keep beyond those for what waits."""
        if self.ahead_s <= _NEAR_S:
            return 0
        coming = self._rate_at(now_s) * (self.ahead_s + _SPARE_S)
        return math.ceil(coming) if coming >= _LEAST else 0

    def _rate_at(self, now_s: float) -> float:
        return self._rate * math.exp((self._since_s - now_s) / _MEMORY_S) if self._rate else 0.0
