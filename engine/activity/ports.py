"""What the archiver and the history ask of the activity streams and of the store.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from engine.activity.records import ActivityBlock, ActivityEntry, Backlog, BlockPlan, RecentRows
from engine.records import (
    ActivityRow,
)
from engine.stream_id import StreamId


class ActivityStream(Protocol):
    """The archiver's side of the activity streams, all shards, and the plan beside them."""

    async def lease(self, owner: str, ttl_ms: int) -> bool:
        """Become or stay the one active archiver for `ttl_ms`; False while another is."""

    async def release(self, owner: str) -> None:
        """Give the lease up at once, if it is `owner`'s."""

    async def plan(self) -> BlockPlan | None:
        """The plan that is written down and not finished, whoever wrote it."""

    async def propose(self, owner: str, plan: BlockPlan) -> bool:
        """Write `plan` down; False when the lease is not `owner`'s or a plan stands already."""

    async def read(self, after: Mapping[int, StreamId], count: int, block_ms: int) -> list[ActivityEntry]:
        """Up to `count` entries a shard behind `after` (absent: from the start), by shard and id.

        Waits up to `block_ms` for the first; 0 does not wait.
        """

    async def entries_of(self, plan: BlockPlan) -> list[ActivityEntry]:
        """The entries of exactly those ranges, by shard and id."""

    async def finish(self, plan: BlockPlan, unreadable: Sequence[ActivityEntry]) -> bool:
        """In one step, if `plan` still stands: put `unreadable` aside, remove the plan's
        entries from the streams and the plan itself. False when it does not stand."""

    async def backlog(self) -> list[Backlog]:
        """What waits in each shard."""

    async def recent_rows_of(
        self,
        shard: int,
        organisation_id: int,
        message_id: str,
        accepted_at_us: int,
        entries_max: int = 10_000,
    ) -> RecentRows:
        """One message's rows that are not archived yet, looking at up to `entries_max` entries.

        Ask this before `ActivityStore.rows_of`, never after: a row leaves the stream only
        once the store has it, so in this order none can slip through in between.
        """


class ActivityStore(Protocol):
    """Where activity is kept for good."""

    async def insert(self, block: ActivityBlock, token: str) -> None:
        """Store the block as a whole; again with the same `token` stores nothing.

        Raises Unavailable (try again with the same token), ConfigError (the operator must
        act; then the same) or ValueError (a value does not fit its column; nothing stored).
        """

    async def rows_of(self, organisation_id: int, message_id: str, accepted_at_us: int) -> list[ActivityRow]:
        """One message's rows by time; `accepted_at_us` may be cut to its millisecond."""
