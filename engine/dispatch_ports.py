"""What the worker, its dispatcher and the routing table ask of one another and of the world outside.

As in `engine.ports`: every coroutine ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from engine.carriers import RoutingPlan
from engine.records import Entry, Queue, Verdict


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


class Desk(Protocol):
    """Who gives entries to the dispatcher and hears what became of them."""

    def fit(self, entry: Entry, read_at_s: float) -> bool:
        """Its turn has come: whether it is still to be sent. False: the desk has dealt with it."""

    def ended(self, entry: Entry, verdict: Verdict, *, others: bool, reroute: bool) -> None:
        """Its attempt ended; `others`: another provider could take it at once. `reroute`: by its
        route it is sent again when a receipt says that it did not arrive."""

    def put_off(self, entry: Entry, pause_s: float) -> None:
        """No provider can take it for so long."""

    def unroutable(self, entry: Entry) -> None:
        """No route leads anywhere."""


class Dispatch(Protocol):
    """Where the worker gives its entries to be sent (see `engine.dispatch`)."""

    @property
    def lanes(self) -> int:
        """How many providers there are."""

    @property
    def in_flight(self) -> int: ...

    def report_to(self, desk: Desk) -> None:
        """Before anything else."""

    def worth_reading(self, now_s: float) -> bool:
        """Whether any provider could do more than it has to do."""

    def place(self, entry: Entry, read_at_s: float, now_s: float) -> None:
        """Give `entry` to a provider, or back to the desk."""

    def pump(self, now_s: float) -> None:
        """Submit what may go."""

    def clear(self) -> list[tuple[Entry, float]]:
        """Everything that waits, taken back, with the time at which it was read."""

    async def run(self) -> None:
        """Beside all this, until canceled."""


class Ask(NamedTuple):
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


class Pace(Protocol):
    """The throughput of providers, shared by all workers of all nodes."""

    async def reserve(self, asks: Sequence[Ask]) -> list[Slots]:
        """Slots for each, in order, in one round trip. Raises Unavailable: then nothing may be
        sent; what was reserved unheard is lost, and with it so much time of the provider."""
