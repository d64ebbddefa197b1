"""What routing and throughput ask of PostgreSQL and of Redis.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from engine.records import Queue
from engine.routing.records import RoutingPlan


class RoutingStore(Protocol):
    """Where the routing plan is kept. Every call raises Unavailable."""

    async def version(self) -> int:
        """Goes up with each change; cheap to ask."""

    async def read(self) -> RoutingPlan:
        """The plan that stands; version 0 when nobody has changed anything yet."""


class RoutingCopy(Protocol):
    """A copy of the routing plan outside of PostgreSQL. Every call raises Unavailable."""

    async def put(self, plan: RoutingPlan) -> None:
        """Keep `plan`, unless a newer one is there. Again changes nothing."""

    async def newest(self) -> RoutingPlan | None:
        """The newest plan that was put; None: there is none that can be read."""


class SlotRequest(NamedTuple):
    """A worker's wish to send through a provider."""

    provider: str
    queue: Queue
    segments: int
    # Segments per second, all workers together.
    rate: float
    # Share of it that is kept for express, 0 to 1.
    express_share: float
    # The slots come in bundles of so many segments: those of a message, which goes as a whole.
    together: int = 1


class Slots(NamedTuple):
    """Leave to send `segments` segments: the first after `delay_us`, counted from when it was
    asked, each further one `interval_us` later. 0 segments: ask again after `delay_us`."""

    segments: int
    delay_us: int
    interval_us: float
    # As asked for: the slots come in bundles of so many.
    together: int = 1


class SlotStore(Protocol):
    """The throughput of providers, shared by all workers of all nodes."""

    async def reserve(self, asks: Sequence[SlotRequest]) -> list[Slots]:
        """Slots for each, in order, in one round trip, within `throughput.UNANSWERED_S`. Raises
        Unavailable: then nothing may be sent; what was reserved unheard is lost, and with it
        so much time of the provider."""
