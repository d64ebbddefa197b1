"""Rule: when the messages that a lane puts off come back beside a process of an older version, in turns of
their organisations. Beside such a process they wait on the due set, which it knows, and not in ways
(`engine.delivery.ways`).

The turns of one organisation lie on a timeline that moves on at its share of the rate at which the lane
sends, so a message of a long backlog is put off about once. (With a fixed pause the whole backlog would be
read and put off again and again.) The organisations that have messages put off share the rate by their
weights. One without any comes back as soon as there may be room, however much others have put off.

Times are monotonic seconds.
"""

from __future__ import annotations

# A message is put off for no longer than this, seconds, because the rate may rise meanwhile.
PUT_OFF_MAX_S = 600.0
# How often organisations are counted whose turns have passed, seconds.
_COUNT_S = 0.5


class PutOffTurns:
    """The turns of the messages that one lane has put off."""

    def __init__(self) -> None:
        # The turn of the next message of each organisation; their weights, and the sum of these.
        self._next_s: dict[int, float] = {}
        self._weights: dict[int, float] = {}
        self._weight = 0.0
        self._counted_at_s = 0.0

    def pause_s(
        self, organisation_id: int, weight: float, segments: int, rate: float, ahead_s: float, now_s: float
    ) -> float:
        """For how long a message is put off, seconds.

        `weight`: of the organisation. `rate`: segments a second that the lane sends. `ahead_s`: before that
        the lane has no room.
        """
        if now_s >= self._counted_at_s + _COUNT_S:
            self._counted_at_s = now_s
            self._next_s = {o: next_s for o, next_s in self._next_s.items() if next_s > now_s}
            self._weights = {o: self._weights[o] for o in self._next_s}
            self._weight = sum(self._weights.values())
        self._weight += weight - self._weights.get(organisation_id, 0.0)
        self._weights[organisation_id] = weight
        turn_s = max(self._next_s.get(organisation_id, 0.0), now_s + ahead_s)
        share = rate * weight / self._weight
        self._next_s[organisation_id] = min(turn_s + segments / share, now_s + PUT_OFF_MAX_S)
        return min(turn_s - now_s, PUT_OFF_MAX_S)
