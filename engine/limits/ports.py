"""What the limits of organisations ask of PostgreSQL and of Redis.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.limits.records import Backlog, InForce, LimitChanges, ShardLimits


class LimitStore(Protocol):
    """Where the limits are kept. Every call raises Unavailable."""

    async def changes(self, since: int) -> LimitChanges:
        """What was set after the version `since`; all of it after 0. It is cheap when that is nothing."""


class LimitsInForce(Protocol):
    """Where the limits are in force. Every call raises Unavailable."""

    async def in_force(self) -> list[InForce]:
        """What is in force, in order of the shards."""

    async def put(self, limits: Sequence[ShardLimits]) -> None:
        """Put limits in force. Where other limits stand than those that are known, nothing is done.

        Done again, it changes nothing.
        """


class Backlogs(Protocol):
    """What waits. Every call raises Unavailable."""

    async def backlogs(self, organisation_ids: Sequence[int]) -> list[Backlog]:
        """What waits of these organisations, in any order."""
