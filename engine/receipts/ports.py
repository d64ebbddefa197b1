"""What the matching of receipts asks of Redis and of ClickHouse, and its limits.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from engine.activity.records import ActivityEntry, AttemptRecord
from engine.receipts.match import Reason
from engine.receipts.records import Receipt
from engine.records import (
    ActivityRow,
    Message,
    Queue,
)
from engine.stream_id import StreamId

# Makes a step again and again until it is done. Raises Fenced, and Unavailable when it is
# time to end: then the next matcher finds out how far it got.
Insist = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


class MatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many, how late and how long."""

    # Receipts looked up together; a single entry may have more.
    batch_max: int = 3000
    # Pause after a round that was not full, for more to gather, seconds.
    gather_s: float = 0.1
    # A read of empty streams returns after this long, seconds.
    idle_s: float = 0.5
    lease_s: float = 10.0
    # First pause before a receipt is looked up again; doubles up to the second, seconds.
    again_s: float = 1.0
    again_max_s: float = 60.0
    # A receipt without a message is given up when it is this old by the archiver's clock, seconds.
    give_up_s: float = 900.0
    # From this age on everything sent before it is taken to be in the store, seconds.
    settled_s: float = 60.0
    # Attempts remembered at most; with more the matcher waits for the archiver.
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
    """What is put on one shard in one step."""

    # At least one.
    rows: list[ActivityRow]
    # Messages that are sent again: their queue, not before when, and the message as it goes on.
    again: list[tuple[Queue, int, Message]]


class Finished(NamedTuple):
    """An entry of a receipts' stream that is done with."""

    entry: ActivityEntry
    # Receipts of it to be looked up again: not before when, and a `LateReceipt`, encoded.
    later: list[tuple[int, bytes]]
    # It could not be read, and is put aside.
    unreadable: bool = False


class FinishedLate(NamedTuple):
    """A receipt that had been set aside and was looked up again."""

    late: LateEntry
    # None: it is done with.
    later: tuple[int, bytes] | None


class ReceiptStream(Protocol):
    """The matcher's side of the receipts' streams and of the activity streams, all shards.

    Every method may be called again after `Unavailable`.
    """

    async def lease(self, owner: str, ttl_ms: int) -> bool:
        """Become or stay the one active matcher for `ttl_ms`; False while another is."""

    async def release(self, owner: str) -> None:
        """Give the lease up at once, if it is `owner`'s."""

    async def begin(self, token: str) -> dict[int, StreamId]:
        """Let only `token` record from now on. For each shard the last id of its activity
        stream: whatever anybody recorded before stands there, or stood."""

    async def archived_before(self) -> dict[int, StreamId | None]:
        """For each shard the id of the oldest activity entry that is not in the store yet;
        None: there is none."""

    async def read(self, count: int, block_ms: int) -> list[ActivityEntry]:
        """The oldest entries, up to `count` a shard, waiting up to `block_ms` for the first.
        Each a MessagePack array32 of `Receipt`."""

    async def due(self, now_us: int, limit: int) -> list[LateEntry]:
        """About `limit` receipts that were set aside until now or before, of all shards alike."""

    async def record(
        self, token: str, number: int, recordings: Mapping[int, Recording]
    ) -> dict[int, StreamId]:
        """Put each on the activity stream of its shard, and messages on the due sets, in one
        step a shard; the ids. Numbers count up from 1; one that was applied is passed over.

        Raises Fenced when another has begun since, in any of the shards.
        """

    async def finish(self, entries: Sequence[Finished], late: Sequence[FinishedLate]) -> None:
        """Remove what is done with, each together with what is put aside of it."""


class AttemptStore(Protocol):
    """Attempts and what receipts made of them, as filed in ClickHouse from the activity."""

    async def filed(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], list[AttemptRecord]]:
        """All that is filed under each (provider, normal form of an id); nothing for most of
        those that are unknown."""

    async def filed_by_message(self, message_ids: Collection[str]) -> dict[str, list[AttemptRecord]]:
        """The same for attempts that were given an id, by the message's own id."""

    async def kept(self, attempts: Collection[tuple[str, int]]) -> dict[tuple[str, int], Message]:
        """Of these attempts (message id, number) the messages that may be sent again."""

    async def give_up(self, receipts: Sequence[tuple[Receipt, Reason]], now_us: int) -> None:
        """Keep receipts that have no message for whoever asks; again changes nothing."""


class ReceiptSink(Protocol):
    """Where providers put the receipts they are sent."""

    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        """Take receipts; returns at once. `stored` is called exactly once, on the loop, never
        from inside `put`: with True when they are in Redis and cannot be lost any more, with
        False when they could not be kept and the provider should send them again."""
