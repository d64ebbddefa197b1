"""What the intake asks of those that know the prices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.intake.records import DestinationSheet, OptOutChanges, SenderRulesChanges
from engine.records import PriceSheet, Queue


class Prices(Protocol):
    """The prices that are in force (see `price_list.PriceList` and `pricing.PriceTable`)."""

    def units_per_segment(self, to: str) -> int:
        """Units for a segment to the number `to`. Does not wait.

        All answers are by the same table until the caller awaits something.
        """

    def in_force(self) -> tuple[dict[str, int], tuple[int, ...]]:
        """The same for many numbers: the prices by prefix, of which the longest counts, and the lengths of
        the prefixes, the longest first. The prefix "" is among them. Nobody may change what this gives."""


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


class OptOutStore(Protocol):
    """Where the opt-outs are kept. Every call raises Unavailable."""

    async def version(self) -> int:
        """The version of the last change; 0 while there was none."""

    async def changes(self, since: int) -> OptOutChanges:
        """What changed after the version `since`, in order, some thousands at most. It is cheap when that is
        nothing."""

    async def page(self, after: tuple[int, int]) -> Sequence[tuple[int, bytes]]:
        """The next opt-outs behind `after`, an organisation and a number; none at the end.

        By organisation, in order: the digits of its numbers, in order, as 64-bit integers, the highest octet
        first.
        """


class SenderStore(Protocol):
    """Where it stands who may use which senders. Every call raises Unavailable."""

    async def changes(self, since: int) -> SenderRulesChanges:
        """What was set after the version `since`; all of it after 0. It is cheap when that is nothing."""

    async def destinations(self) -> DestinationSheet:
        """What destinations take, of the version that stands or of a later one."""
