"""What the archiver and the history ask of the activity streams and of the store.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from engine.activity.records import (
    ActivityBlock,
    ActivityEntry,
    Backlog,
    BlockPlan,
    CampaignPlace,
    CampaignStep,
    Cancellation,
    MessageFilter,
    MessageKey,
    MessageRows,
    RecentRows,
)
from engine.batches import Batch
from engine.leases.ports import SharedShards
from engine.records import (
    ActivityRow,
    Queue,
)
from engine.stream_id import StreamId


class ActivityStream(SharedShards, Protocol):
    """The archiver's side of the activity streams, and the plans beside them."""

    async def plans(self, shards: Collection[int]) -> list[BlockPlan]:
        """The plans that stand in these shards, written and not finished, by whatever process."""

    async def propose(self, owner: str, plan: BlockPlan) -> bool:
        """Write `plan` to Redis; False when one of its shards is not `owner`'s, has a plan, or does not begin
        with the plan's range any more."""

    async def read(self, after: Mapping[int, StreamId], count: int, block_ms: int) -> list[ActivityEntry]:
        """Read up to `count` entries a shard, by shard and id.

        `after`: for each shard to be read the id behind which to read. Waits up to `block_ms` for the first
        entry; 0 does not wait.
        """

    async def entries_of(self, plan: BlockPlan) -> list[ActivityEntry]:
        """The entries of exactly the ranges of `plan`, by shard and id."""

    async def finish(self, plan: BlockPlan, unreadable: Sequence[ActivityEntry]) -> bool:
        """Finish `plan` in one step; False when it does not stand any more.

        The step keeps `unreadable` apart, and removes the plan's entries from the streams and the plan
        itself from all its shards.
        """

    async def backlog(self) -> list[Backlog]:
        """How much waits in each shard."""

    def begin_of(self, shard: int) -> Sequence[ActivityEntry]:
        """The first entries that the shard's stream had a moment ago, without a gap; none when nobody has
        looked, or the stream was empty."""

    async def recent_rows_of(
        self,
        shard: int,
        messages: Sequence[MessageKey],
        entries_max: int = 10_000,
        before: Sequence[ActivityEntry] = (),
    ) -> dict[MessageKey, RecentRows]:
        """The rows of messages of one shard that are not archived yet, looking at up to `entries_max`
        entries for each.

        Call this before `ActivityStore.rows_of`, never after it. A row leaves the stream only when the
        store has it, so in this order no row is missed. The store may be asked at the same time when what
        `begin_of` gave before is handed over as `before`: then rows that are `gapless` have all that the
        store did not have yet, even what has left the stream meanwhile.
        """


class ActivityStore(Protocol):
    """Where activity is kept for good."""

    async def insert(self, block: ActivityBlock, token: str) -> None:
        """Store the block as a whole; again with the same `token` stores nothing.

        Raises Unavailable (try again with the same token) or ConfigError (the operator must act; then
        the same).
        """

    async def rows_of(
        self, messages: Sequence[MessageKey], timeout_s: float | None = None
    ) -> dict[MessageKey, list[ActivityRow]]:
        """The rows of each message, in no order.

        `timeout_s`: the deadline, seconds; None: that of every call. Raises Unavailable, ConfigError.
        """


class MessageLookups(Protocol):
    """The recorded events of messages, whether they are archived or not."""

    async def rows_of(self, key: MessageKey) -> MessageRows:
        """All rows of one message, in no order, some perhaps twice. Raises Unavailable, ConfigError."""


class ArchiveProgress(Protocol):
    """How far the archive is."""

    async def oldest_ms(self, shard: int) -> int | None:
        """When the oldest entry of a shard's activity was recorded that is not archived, milliseconds; None:
        all are. Raises Unavailable."""

    async def recent_rows_of_batch(self, shard: int, organisation_id: int, batch: Batch) -> list[ActivityRow]:
        """The rows of the messages of a batch that are not archived yet. Raises Unavailable.

        Call this before `ArchivedMessages.rows_of_batch`: see `ActivityStream.recent_rows_of`.
        """


class ArchivedMessages(Protocol):
    """The messages of organisations whose acceptance is archived. Every call raises Unavailable,
    ConfigError."""

    async def matching(
        self,
        organisation_id: int,
        wanted: MessageFilter,
        events: Sequence[str],
        before: str,
        limit: int,
    ) -> list[str]:
        """The ids of at most `limit` messages, the newest first, that are older than the message `before`
        ("": all are) and have one of `events`, of which all but the status is as `wanted`."""

    async def rows_of(self, messages: Sequence[MessageKey]) -> Mapping[MessageKey, Sequence[ActivityRow]]:
        """The rows of each message, in no order."""

    async def rows_of_batch(self, organisation_id: int, batch: Batch) -> list[ActivityRow]:
        """The rows of all messages of a batch, in no order."""


class CancelStore(Protocol):
    """Where messages wait that can be canceled."""

    async def cancel(
        self,
        queue: Queue,
        organisation_id: int,
        first: str,
        last: str,
        count: int,
        *,
        near: str,
        due_at_us: Sequence[int],
        far: bool,
    ) -> Cancellation:
        """Cancel the messages of an organisation with ids from `first` to `last`, about `count` of them.

        Each is taken from where it waits, its units are released, and its event is recorded, in one step; or
        it is left alone. `due_at_us`: when they may be due, microseconds. `near`: where in the organisation's
        list they are likely: where one that was accepted with this id would be. `far`: look everywhere, as
        long as fewer than `count` were found; else only where they are likely. Raises Unavailable.
        """

    async def cancel_campaign(
        self, organisation_id: int, campaign: str, place: CampaignPlace
    ) -> CampaignStep:
        """Cancel the messages of a campaign in a part of what waits, from a place on, in one step.

        Who begins at `CampaignPlace(queue=QUEUES[0])` and goes on until the end comes upon each message of
        the campaign that waited before. Raises Unavailable.
        """
