"""Service: which shards this process has, of all that live of its kind: archivers, or matchers.

Each notes that it lives, sees who else does, and has every n-th shard, by its place among their names. So
none has more than one shard more than another. Each shard has one owner at a time, by a lease of its own; all
leases of a process are asked for together, and end together. So they are one `Lease`, won with any shard.

    one more lives   each of the others gives back what is not of its share any more, between two of its
                     blocks or rounds; the new one wins it when it asks next, a third of a lease later at most
    one is drained   it gives back all at once, and the others win it when they ask next
    killed, frozen   its leases end by themselves, and the others win its shards when they ask next; it is not
                     the owner of anything when it wakes
    store away       each keeps its shards until their time is over

As in `engine.leases.lease`, a lease saves work and does not exclude: see `engine.activity.archiver` and
`engine.receipts.rounds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from engine.errors import ConfigError, Unavailable
from engine.leases.lease import Lease, boot_time_s
from engine.leases.ports import HeldShards, SharedShards


class ShardLeases(Lease):
    """The leases of one process; see the module."""

    def __init__(
        self,
        shards: SharedShards,
        owner: str,
        lease_s: float,
        *,
        of: str,
        mention: Callable[[Unavailable | ConfigError], Awaitable[None]],
        clock_s: Callable[[], float] = boot_time_s,
    ) -> None:
        """`shards` keeps the leases; the others as of `Lease`."""
        super().__init__(self, owner, lease_s, of=of, mention=mention, clock_s=clock_s)
        self._shards = shards
        self._held = HeldShards()
        # One question at a time, so that an answer of before does not undo what was given back.
        self._asking = asyncio.Lock()

    @property
    def shards(self) -> frozenset[int]:
        """The shards that this process has now, also those that it is to give back."""
        return self._held.shards | self._held.leaving if self.active else frozenset()

    async def give_back(self) -> None:
        """Give back what is not of the share any more; called between two blocks or rounds. Raises
        Unavailable, ConfigError."""
        if not self._held.leaving:
            return
        async with self._asking:
            await self._shards.give_back(self._owner, self._held.leaving)
            self._held = HeldShards(self._held.shards)

    async def lease(self, owner: str, ttl_ms: int) -> bool:
        """Ask for all leases; whether there is any shard. `Lease` calls it."""
        async with self._asking:
            self._held = await self._shards.lease(owner, ttl_ms)
        return any(self._held)

    async def release(self, owner: str) -> None:
        """Give everything back, and live no longer. `Lease` calls it."""
        self._held = HeldShards()
        await self._shards.release(owner)
