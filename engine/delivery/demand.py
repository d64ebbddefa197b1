"""Rule: how much of what is put off a lane wants to be recalled.

As much is recalled as keeps the lane at work until more comes, and no more, because what is recalled is no
longer in its organisation's turn. Recalled messages come by the ready stream, where other workers may be
given them, so what does not come soon is not waited for.

`Units` are what `Lane.room` counts: segments where the provider has a throughput, else messages. Times are
monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque

from engine.delivery.lane import UNKNOWN_RATE, Lane
from engine.delivery.supply import Supply
from engine.records import Message

# So much is recalled that this part of what would make the lane crowded waits, or what it sends in the
# second, seconds, where that is less; where it has no throughput, as much as is to lie ready.
_RECALLED, _RECALLED_S = 0.5, 0.5
# As few units are worth it in any case.
_LEAST = 8
# What has not come after so long, seconds, or after so many reads, is not waited for.
_COMING_S, _COMING_READS = 0.03, 2.0


class Demand:
    """Of one lane."""

    def __init__(self, lane: Lane, supply: Supply) -> None:
        self.lane = lane
        self._supply = supply
        # What was recalled for it and has not come: until when that is waited for, and how much it is.
        self._coming: deque[tuple[float, int]] = deque()

    def wanted(self, now_s: float) -> int:
        """How many units are to be recalled for it."""
        lane = self.lane
        if not lane.open(now_s):
            return 0
        if lane.breaker.state != "closed":
            return 1
        waiting, room = units_waiting(lane), lane.room(now_s)
        if room <= 0:
            return 0
        while self._coming and now_s >= self._coming[0][0]:
            self._coming.popleft()
        most = math.ceil(min(_RECALLED * (waiting + room), self._soon(now_s)))
        return max(0, most - waiting - sum(count for _, count in self._coming))

    def comes(self, count: int, now_s: float) -> None:
        """Note that so much was recalled for it."""
        until_s = now_s + max(_COMING_S, _COMING_READS * self._supply.read_s)
        self._coming.append((until_s, count))

    def came(self, message: Message) -> None:
        """Note that a recalled message has come."""
        left = 1 if self.lane.allowance is None else message.segments
        while left > 0 and self._coming:
            until_s, count = self._coming.popleft()
            if count > left:
                self._coming.appendleft((until_s, count - left))
            left -= count

    @property
    def expects(self) -> bool:
        """Whether something was recalled for the lane that has not come, and may still come."""
        return bool(self._coming)

    def lasts_s(self, now_s: float) -> float:
        """For how long a quarter of what waits lasts, when as much was recalled as is wanted, seconds."""
        waiting = units_waiting(self.lane) + max(0.0, self.lane.room(now_s))
        return min(_RECALLED * waiting, self._soon(now_s)) / 4 / self._rate(now_s)

    def _soon(self, now_s: float) -> float:
        """How much it sends in the time for which recalled messages are to last."""
        ready_s = self._supply.ready_s
        lasts_s = ready_s if self.lane.allowance is None else max(_RECALLED_S, ready_s)
        return max(_LEAST, self._rate(now_s) * lasts_s)

    def _rate(self, now_s: float) -> float:
        """Units a second that it sends."""
        lane = self.lane
        if lane.allowance is not None:
            return max(lane.allowance.rate_seen(now_s, starved=not lane.waiting), 0.1)
        return lane.in_flight_max / lane.awaited.usual_s if lane.awaited.usual_s else UNKNOWN_RATE


def units_waiting(lane: Lane) -> int:
    """How many units wait in a lane."""
    return len(lane.waiting) if lane.allowance is None else lane.waiting_segments
