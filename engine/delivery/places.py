"""Rule: how the sends that may be in flight in one worker, its places, are divided among its providers.

Part of the places belong to the lanes, the same number to each. The others are shared: whoever has something
to send takes one. So a lane can always begin some sends, whatever is in flight with the others. It matters
while providers hang, before anybody can see that they do: each may have taken as many places as one lane may
have.

A lane alone can have three quarters of the places, and all lanes together have all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

# The places of the other lanes that one lane can not take are at most such a part of all.
_KEPT = 4


class Places:
    """The places of one worker."""

    __slots__ = ("own", "shared")

    def __init__(self, concurrency: int, lanes: int) -> None:
        """`concurrency`: how many there are, for so many lanes. Fewer than two for each are all shared."""
        self.own = 0
        if lanes > 1 and concurrency >= 2 * lanes:
            self.own = max(1, concurrency // (_KEPT * (lanes - 1)))
        # How many belong to each lane, and how many to nobody.
        self.shared = concurrency - self.own * lanes

    def shared_left(self, in_flight: Iterable[int]) -> int:
        """How many shared places are free, with so many sends in flight in each lane. It is negative where
        more are in flight than there are places: there were more before."""
        return self.shared - sum([n - self.own for n in in_flight if n > self.own])

    def free(self, in_flight: int, shared_left: int) -> int:
        """How many sends a lane may begin that has so many in flight."""
        return max(0, self.own - in_flight) + max(0, shared_left)

    def shared_taken(self, in_flight: int, count: int) -> int:
        """How many shared places a lane takes that has so many in flight and begins `count` more."""
        return max(0, in_flight + count - self.own) - max(0, in_flight - self.own)
