"""Rule: how fast what is put off moves to the routing plan that is in force.

A message that was put off by a plan that is over is recalled, read and put off anew. What has a turn comes
by the same stream. So of each way no more is recalled until half of what was recalled before has come:
where reads are slow, or give little, nothing else would be read until all of it has moved. Another worker
may be given what this one recalls, and this one what the others recall, in the mean as much.

    killed, frozen    what it recalled comes to others; they know nothing of this, and recall for themselves
    never comes       after a second more is recalled all the same

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from engine.delivery.ports import PutOff
from engine.records import Entry

# So much is recalled of a way of a shard at a time, messages; and it is waited for so long, seconds.
MOVED_MAX = 64
_WAITED_S = 1.0


class Moves:
    """What one worker recalled of plans that are over, and has not come."""

    def __init__(self) -> None:
        # Of each way of a shard: how many messages, and when they were recalled.
        self._to_come: dict[tuple[int, str], tuple[int, float]] = {}

    def waits(self, of: PutOff, now_s: float) -> bool:
        """Whether most of what was recalled of a way is still to come."""
        left, since_s = self._to_come.get((of.shard, of.way), (0, -math.inf))
        return 2 * left > MOVED_MAX and now_s < since_s + _WAITED_S

    def recalled(self, shard: int, way: str, messages: int, now_s: float) -> None:
        """Note that so many were recalled."""
        self._to_come[shard, way] = (messages, now_s)

    def came(self, entry: Entry) -> None:
        """Note that one has come."""
        if of := self._to_come.get((entry.shard, entry.way)):
            self._to_come[entry.shard, entry.way] = (of[0] - 1, of[1])

    def keep(self, put_off: Iterable[PutOff]) -> None:
        """Forget all ways but these."""
        there = {(of.shard, of.way) for of in put_off}
        self._to_come = {way: of for way, of in self._to_come.items() if way in there}
