"""What the matching of receipts asks of Redis and of ClickHouse, and its limits.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from engine.activity.records import ActivityEntry, AttemptRecord
from engine.leases.ports import SharedShards
from engine.receipts.match import Reason
from engine.receipts.records import Receipt
from engine.records import (
    ActivityRow,
    Message,
    Queue,
)
from engine.stream_id import StreamId

# Makes a step again and again until it is done. Raises Fenced; and Unavailable when it is time to end:
# the next matcher finds out how far this one got.
Insist = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


class MatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of matching: how many receipts, how late, and how long it takes."""

    # Receipts looked up together; a single entry may have more.
    batch_max: int = 3000
    # Pause after a round that was not full, for more to gather, seconds.
    gather_s: float = 0.1
    # A read of empty streams returns after this long, seconds.
    idle_s: float = 0.5
    # With the third of it after which others ask, the shards of one that died are taken over in 10 seconds.
    lease_s: float = 7.5
    # First pause before a receipt is looked up again; doubles up to the second, seconds.
    again_s: float = 1.0
    again_max_s: float = 60.0
    # A receipt without a message is given up when it is this old by the archiver's clock, seconds.
    give_up_s: float = 900.0
    # From this age on everything sent before it is taken to be in the store, seconds.
    settled_s: float = 60.0
    # So many attempts are remembered at most; beyond that the matcher waits for the archiver.
    unseen_max: int = 500_000
    # First pause after a failure; doubles up to the second, seconds.
    backoff_s: float = 0.2
    backoff_max_s: float = 5.0
    # How often a trouble that lasts is mentioned, seconds.
    remind_s: float = 60.0


class LateEntry(NamedTuple):
    """A receipt that was set aside, still encoded: MessagePack of a `LateReceipt`."""

    shard: int
    member: bytes


class Recording(NamedTuple):
    """What is recorded in one shard in one step."""

    # At least one.
    rows: list[ActivityRow]
    # Messages that are sent again: (queue, when they are due in microseconds, message as it goes on).
    again: list[tuple[Queue, int, Message]]
    # The homes of the attempts that the rows are about (`engine.receipts.homes`).
    homes: set[int]


class Finished(NamedTuple):
    """An entry of a receipts' stream that is done with."""

    entry: ActivityEntry
    # Receipts of it to be looked up again: (when in microseconds, an encoded `LateReceipt`).
    later: list[tuple[int, bytes]]
    # Whether it could not be read, and is kept apart.
    unreadable: bool = False


class FinishedLate(NamedTuple):
    """A receipt that had been set aside and was looked up again."""

    late: LateEntry
    # As in `Finished`, when it is to be looked up once more; None: it is done with.
    later: tuple[int, bytes] | None


class ReceiptStream(SharedShards, Protocol):
    """The matcher's side of the receipts' streams and of the activity streams, all shards.

    Every method may be called again after `Unavailable`.
    """

    async def begin(self, token: str, homes: Collection[int]) -> dict[int, StreamId]:
        """Let only `token` record from now on, of attempts that have one of these homes.

        Returns for each shard the last id of its activity stream: all that others recorded of them before
        has that id or an earlier one.
        """

    async def archived_before(self) -> dict[int, StreamId | None]:
        """For each shard the id of the oldest activity entry that is not in the store yet; None: all are."""

    async def read(self, shards: Collection[int], count: int, block_ms: int) -> list[ActivityEntry]:
        """Read the oldest entries of these shards, up to `count` of each; an entry is a MessagePack array32
        of `Receipt`.

        Waits up to `block_ms` for the first.
        """

    async def due(self, shards: Collection[int], now_us: int, limit: int) -> list[LateEntry]:
        """About `limit` receipts that were set aside until `now_us` or before, from these shards equally."""

    async def record(
        self, tokens: Mapping[int, str], number: int, recordings: Mapping[int, Recording]
    ) -> dict[int, StreamId]:
        """Put rows on the activity stream of each shard, and messages on its due sets, in one step a shard.

        `tokens`: by home, that under which the caller has begun. Returns the id of each shard's activity
        entry. `number` counts up; a number that was applied is passed over. Raises Fenced when another
        matcher has begun for a home of any of the recordings.
        """

    async def hand_on(self, receipts: Mapping[int, Sequence[Receipt]]) -> None:
        """Put receipts on the streams of their homes; done again, they are there twice."""

    async def finish(self, entries: Sequence[Finished], late: Sequence[FinishedLate]) -> None:
        """Remove what is done with. In the same step set aside what is to be looked up again."""


class AttemptStore(Protocol):
    """Attempts, and what receipts made of them, as ClickHouse files them from the activity."""

    async def filed(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], list[AttemptRecord]]:
        """All records that are filed under each (provider, normal form of an id).

        A key without records may be missing in the answer.
        """

    async def filed_by_message(self, message_ids: Collection[str]) -> dict[str, list[AttemptRecord]]:
        """The same for attempts that were given an id, by the message's own id."""

    async def kept(self, attempts: Collection[tuple[str, int]]) -> dict[tuple[str, int], Message]:
        """The messages that may be sent again, by attempt (message id, number)."""

    async def give_up(self, receipts: Sequence[tuple[Receipt, Reason]], now_us: int) -> None:
        """Store receipts that have no message, so that they can be looked at; done again, it changes
        nothing."""


class ReceiptSink(Protocol):
    """Where providers put the receipts they are sent."""

    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        """Take receipts; returns at once.

        `stored` is called exactly once, on the loop, and never from inside `put`: with True when the
        receipts are in Redis and cannot be lost any more; with False when they could not be kept, and
        the provider should send them again.
        """
