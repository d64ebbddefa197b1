"""What the holder and the ledger ask of Redis and of PostgreSQL.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engine.credit.flush import Flush
from engine.credit.ledger_records import (
    Applied,
    BalanceEvent,
    Books,
    Recovered,
    RemainingUnits,
    ShardLife,
    StoredAnswer,
    StreamMark,
    UsageEntry,
)
from engine.credit.records import LedgerAnswer
from engine.errors import Fenced, Full
from engine.records import (
    Replay,
)


class Decide(Protocol):
    """What the ledger decides on (see `engine.credit.posting.decide`)."""

    def __call__(self, books: Books, entries: Sequence[UsageEntry], begun: Sequence[UsageEntry]) -> None:
        """Apply `entries`, then of the fences in `begun` what the books hold. Raises Broken."""


class AdmissionStore(Protocol):
    """The holder's side of the shards' streams."""

    async def register(self, name: str) -> list[int]:
        """Begin a new epoch of the holder in every shard; the epochs, by shard."""

    async def admit(self, name: str, flushes: Sequence[Flush]) -> list[dict[int, Replay] | Fenced | Full]:
        """Apply each flush whole or not at all, in one round trip.

        For each flush the submissions that repeat an idempotency key, by their index, or
        `Fenced`, or `Full` when this call did not apply it for want of memory; one without
        submissions is never `Full`. After `Unavailable` send the same flushes again.
        """

    async def fullness(self) -> float:
        """The share of its memory that Redis uses, 0 when it has no limit."""

    async def beat(self, name: str, heard: Sequence[tuple[int, int]]) -> bool:
        """Show that the holder lives; False when any shard has fenced it, or is behind what it
        was `heard` there: its epoch and the last sequence that was answered, by shard."""

    async def fence(self, name: str) -> None:
        """End the holder's epoch in every shard; again does nothing."""

    async def inbox(
        self, name: str, positions: Sequence[str], block_ms: int
    ) -> list[tuple[int, str, LedgerAnswer]]:
        """Answers behind `positions` (by shard) as (shard, position, answer), waiting up
        to `block_ms` for the first."""


class UsageStream(Protocol):
    """The ledger's side of the shards' usage streams and inboxes."""

    async def read(self, positions: dict[int, str], count: int, block_ms: int) -> list[UsageEntry]:
        """Up to `count` entries a shard behind `positions`, waiting up to `block_ms` for the first."""

    async def send(self, answers: Sequence[StoredAnswer], before: Mapping[int, int]) -> None:
        """Put answers into inboxes, in order, in one round trip; one that is there is passed over.

        `before`: the row of the answer that each shard was given last. Raises Unavailable when
        one does not have it any more; then it was given nothing.
        """

    async def announce(self, events: Sequence[BalanceEvent]) -> None:
        """Put events on the activity streams, in order; one that is there already is passed over."""

    async def trim(self, positions: dict[int, str]) -> None:
        """Forget entries up to and including each shard's position."""

    async def overdue(self, age_ms: int) -> list[tuple[int, str]]:
        """Holders by (shard, name) that have not been heard of for `age_ms`."""

    async def fence(self, holders: Sequence[tuple[int, str]]) -> None:
        """End the epochs of these holders; again does nothing."""

    async def prepare(self) -> None:
        """Give Redis the engine's functions, in this version; one that was emptied has none."""

    async def lives(self, marks: Mapping[int, StreamMark]) -> list[ShardLife]:
        """What each shard of Redis says of itself, and of the mark given for it."""

    async def close(
        self, life: ShardLife, generation: str, books: str, mark: StreamMark
    ) -> dict[int, RemainingUnits]:
        """End all epochs of a shard and begin its usage anew: what is left, by organisation.

        `books` is the generation in the books, and `mark` how far they have applied it. What was
        settled after that is the first entry of the new stream, and counts as held. The new
        stream's first link is the new generation. The shard admits nothing until `begin`.
        Raises Unavailable when it is not in the life that was seen any more.
        """

    async def begin(self, generations: Mapping[int, str], run: str) -> None:
        """Name the generation of each of these shards; from now on they admit.

        Raises Unavailable when one was neither closed for that name nor without any, or when
        Redis is not the `run` that was looked at any more.
        """


class LedgerStore(Protocol):
    """The books in PostgreSQL. One active ledger at a time; all others wait in `lead`."""

    async def lead(self) -> bool:
        """Try to become the active ledger; at once. Raises Unavailable."""

    async def resign(self) -> None:
        """Stop being the active ledger, drop the connection."""

    async def recover(self) -> Recovered:
        """What the last active ledger had committed. Raises Unavailable."""

    async def open_shards(self, generation: str, shards: Sequence[int]) -> None:
        """Shards used for the first time."""

    async def mark_lost(self, shards: Sequence[int]) -> None:
        """From now on what is recorded of these shards cannot be compared with their books."""

    async def close_shard(
        self, shard: int, generation: str, decide: Callable[[Books], None], cause: str
    ) -> None:
        """Let `decide` change all accounts and quotas of a shard whose streams were lost, write
        that with the cause, a new generation and the position before all entries, in one
        transaction. Nobody waits any more. The new generation is the link of that position."""

    async def apply(self, entries: Sequence[UsageEntry], decide: Decide, sent: int) -> Applied:
        """Apply of each shard's `entries` as many as one transaction takes (see
        `engine.credit.posting.portion`): load what they concern, let `decide` change it, write it back
        with the new marks; delete answers up to `sent`.

        An account that another transaction has locked holds up its own shard alone.
        After `Unavailable` it is unknown whether it was committed: `recover`.
        """

    async def events(self, sent: int) -> list[BalanceEvent]:
        """Events that `apply` and `close_shard` committed and that are perhaps not sent, oldest
        first, not all at once; forget those up to row `sent`."""
