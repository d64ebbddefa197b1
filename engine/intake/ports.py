"""What the intake asks of those that know the prices."""

from __future__ import annotations

from typing import Protocol

from engine.records import PriceSheet, Queue


class Prices(Protocol):
    """The prices that are in force (see `price_list.PriceList` and `pricing.PriceTable`)."""

    def units_per_segment(self, to: str) -> int:
        """Units for a segment to the number `to`. Does not wait.

        All answers are by the same table until the caller awaits something.
        """


class PriceStore(Protocol):
    """Where the prices are kept. Every call raises Unavailable."""

    async def version(self) -> int:
        """The number of the prices that stand. It goes up with each change, and is cheap to ask for."""

    async def read(self) -> PriceSheet:
        """All prices; none while nobody has set any."""


class ClosureStore(Protocol):
    """Where it stands what is not taken. Every call raises Unavailable."""

    async def closed(self) -> tuple[frozenset[Queue], bool]:
        """(the queues that are drained, whether this node is)."""
