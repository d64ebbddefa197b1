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
        """The number of the plan that stands. It goes up with each change, and is cheap to ask for."""

    async def read(self) -> RoutingPlan:
        """The plan that stands; version 0 when nobody has changed anything yet."""


class RoutingCopy(Protocol):
    """A copy of the routing plan outside of PostgreSQL. Every call raises Unavailable."""

    async def put(self, plan: RoutingPlan) -> None:
        """Keep `plan`, unless a newer one is there. Done again, it changes nothing."""

    async def newest(self) -> RoutingPlan | None:
        """The newest plan that was put; None: there is none that can be read."""


class SlotRequest(NamedTuple):
    """What a worker asks for, so that it may send through a provider."""

    provider: str
    queue: Queue
    segments: int
    # Segments per second, all workers together.
    rate: float
    # The part of the rate that is kept for express, 0 to 1.
    express_share: float
    # The slots are to come in bundles of so many segments: those of one message, which goes as a whole.
    together: int = 1
    # How much is unknown of the clock of Redis, and how far ahead it may give slots, seconds; 0: as usual.
    uncertain_s: float = 0.0
    horizon_s: float = 0.0


class Slots(NamedTuple):
    """Leave to send `segments` segments.

    The first may go `delay_us` after Redis looked at the request, each further one `interval_us` after
    the one before. With 0 segments: ask again after `delay_us`.
    """

    segments: int
    delay_us: int
    interval_us: float
    # The slots come in bundles of so many segments, as asked for.
    together: int = 1
    # When Redis looked at the request, microseconds of its own clock; 0: it does not say.
    now_us: int = 0


class SlotStore(Protocol):
    """The throughput of providers, shared by all workers of all nodes."""

    async def reserve(self, asks: Sequence[SlotRequest]) -> list[Slots]:
        """Reserve slots for each request, in order, in one round trip, within `throughput.UNANSWERED_S`.

        Raises Unavailable. Then nothing may be sent: slots that were reserved in a call that was
        not answered are lost, and with them so much of the provider's time.
        """
