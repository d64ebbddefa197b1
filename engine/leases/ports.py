"""What keeps leases of shards for the processes of one kind."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol


class HeldShards(NamedTuple):
    """The shards that a process has now: those of its share, and those that it is to give
    back."""

    shards: frozenset[int] = frozenset()
    leaving: frozenset[int] = frozenset()


class SharedShards(Protocol):
    """Leases of shards that processes of one kind share: see `engine.leases.shard_leases`."""

    async def lease(self, owner: str, ttl_ms: int) -> HeldShards:
        """Note that `owner` lives, keep its shards and win what is free of its share, all for `ttl_ms`."""

    async def give_back(self, owner: str, shards: Collection[int]) -> None:
        """Let others have these shards at once, those that are `owner`'s."""

    async def release(self, owner: str) -> None:
        """Give back all shards that are `owner`'s; it does not live any more."""
