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
)


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
