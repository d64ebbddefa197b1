"""What delivery asks of the queue's streams.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.records import (
    Entry,
    Queue,
    Settlement,
    Verdict,
)


class EntryOwner(Protocol):
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
    """Where the worker gives its entries to be sent (see `engine.delivery.dispatcher`)."""

    @property
    def lanes(self) -> int:
        """How many providers there are."""

    @property
    def in_flight(self) -> int: ...

    def report_to(self, desk: EntryOwner) -> None:
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


class QueueReader(Protocol):
    """The worker's side of a queue's streams, all shards of one queue."""

    @property
    def queue(self) -> Queue: ...

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        """About `count` new entries (at most `count` + shards), waiting up to `block_ms` for the first."""

    async def settle(self, settlements: Sequence[Settlement]) -> int:
        """Settle each entry once, in one round trip; how many counted.

        Settling the same again counts nothing, so after `Unavailable` call it again
        with the same settlements.
        """

    def drop(self, entries: Sequence[Entry]) -> None:
        """Give up entries unsent and unsettled. They stay pending, and come back to this
        worker with a later `read` unless another has taken them over."""

    async def beat(self) -> None:
        """Say that this worker lives; one that has been fenced meanwhile joins again."""

    async def promote(self, now_us: int, limit: int) -> int:
        """Move up to `limit` messages a shard whose time has come to the queue; how many."""

    async def take_over(self, min_idle_ms: int, limit: int) -> list[Entry]:
        """Claim about `limit` entries (at most two a shard more) of workers that are fenced, or
        that were given out `min_idle_ms` ago; also this worker's own of which it never heard."""
