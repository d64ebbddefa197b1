"""What the holder and the ledger need of Redis and of PostgreSQL.

Every coroutine here ends within the time that its adapter was built with, or raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engine.credit.flush import Admitted, Flush
from engine.credit.ledger_records import (
    Applied,
    BalanceEvent,
    BookedNote,
    Books,
    LostSpan,
    Recovered,
    RemainingUnits,
    ShardLife,
    Standing,
    Stopped,
    StoredAnswer,
    StreamMark,
    UsageEntry,
)
from engine.credit.records import LedgerAnswer
from engine.errors import Fenced, Full
from engine.stream_id import StreamId


class Decide(Protocol):
    """The rule by which the ledger changes the books: `engine.credit.posting.decide`."""

    def __call__(self, books: Books, entries: Sequence[UsageEntry], begun: Sequence[UsageEntry]) -> None:
        """Apply `entries`, then end the quotas in the books of the fences in `begun`."""


class AdmissionStore(Protocol):
    """The holder's side of the shards in Redis."""

    async def register(self, name: str) -> list[int]:
        """Begin a new epoch of the holder in every shard; the epochs, in order of the shards."""

    async def admit(
        self, name: str, flushes: Sequence[Flush], timeout_s: float
    ) -> list[Admitted | Fenced | Full]:
        """Apply each flush as a whole or not at all, in one round trip; an outcome for each, in order.

        `Admitted`: applied, and on as many machines as the operator asks for. `Fenced`: not
        applied, the epoch is over. `Full`: this call did not apply it for want of memory; a flush
        without submissions is never `Full`. After `Unavailable` send the same flushes again; it is raised
        after `timeout_s` seconds at the latest, and then nothing of this call arrives any more that is
        still in this machine.
        """

    async def fullness(self) -> float:
        """The share of its memory that Redis uses, from 0 to 1; 0 when it has no limit."""

    async def beat(self, name: str, answered: Sequence[tuple[int, int]]) -> bool:
        """Show that the holder lives; False when any shard has fenced it, or has lost a flush of it.

        `answered`, in order of the shards: its epoch, and the last sequence that Redis answered.
        """

    async def fence(self, name: str) -> None:
        """End the holder's epoch in every shard; a second call does nothing."""

    async def standing(self) -> Stopped:
        """Whose books no ledger can write now: it has said so in the last moments, or none leads."""

    async def inbox(
        self, name: str, positions: Sequence[str], block_ms: int
    ) -> list[tuple[int, str, LedgerAnswer | None]]:
        """Answers after `positions` (in order of the shards): list of (shard, position, answer).

        Waits up to `block_ms` milliseconds for the first one.
        """


class UsageStream(Protocol):
    """The ledger's side of the shards in Redis: usage streams and inboxes."""

    async def read(self, positions: Mapping[int, StreamId], count: int, block_ms: int) -> list[UsageEntry]:
        """Up to `count` entries of each shard after its position, in the order of the streams.

        Waits up to `block_ms` milliseconds for the first one.
        """

    async def send(
        self,
        answers: Sequence[StoredAnswer],
        before: Mapping[int, int],
        notes: Mapping[int, BookedNote] = ...,
    ) -> None:
        """Put answers into inboxes, in order, in one round trip; those already there are passed over.

        `notes`: by shard how far the books are, to be kept for `ShardLife.note`. `before`: by shard, the row
        of the last answer that it was given. Raises Unavailable when a shard has lost that one; that shard
        was then given nothing.
        """

    async def note_lead(self, term: int) -> None:
        """Say in all shards that the ledger of this term leads and works. Said no more for a while, it means
        that none does."""

    async def note_waits(self, shards: Sequence[int], term: int) -> None:
        """Say in these shards that their books cannot be written now; it counts for a moment, and not when a
        ledger of a later term has noted how far the books are."""

    async def note_unclosed(self, organisations: Mapping[int, Sequence[int]], term: int) -> None:
        """Say by shard of which organisations the books cannot be written, although those of the shard can;
        counts as `note_waits` does. An empty list ends it at once."""

    async def announce(self, events: Sequence[BalanceEvent]) -> None:
        """Put events on the activity streams, in order; those already there are passed over."""

    async def trim(self, positions: Mapping[int, StreamId]) -> None:
        """Delete the entries of each shard up to and including its position."""

    async def spending(self, shards: Sequence[int]) -> list[tuple[int, str]]:
        """(shard, name) of each holder that has sent a flush in its present epoch, and so may have quota."""

    async def overdue(self, age_ms: int) -> list[tuple[int, str]]:
        """(shard, name) of each holder without a beat for `age_ms` milliseconds."""

    async def fence(self, holders: Sequence[tuple[int, str]]) -> None:
        """End the epochs of holders, given as (shard, name); a second call does nothing."""

    async def prepare(self) -> None:
        """Load the functions of this version into Redis; a Redis that was emptied has none."""

    async def lives(self, marks: Mapping[int, StreamMark]) -> list[ShardLife]:
        """The life of every shard, in order of the shards, each compared with its mark."""

    async def close(
        self, life: ShardLife, generation: str, books: str, mark: StreamMark
    ) -> dict[int, RemainingUnits]:
        """End all epochs of a shard and begin its usage stream anew; what is left, by organisation.

        `generation` is the new one, `books` the one in the books, and `mark` how far they have applied
        it. Settlements after the mark become the first entry of the new stream; their units count as
        held. The first link of the new stream is the new generation. The shard admits nothing until
        `begin`. Raises Unavailable when it is not in `life` any more.
        """

    async def begin(self, generations: Mapping[int, str], run: str) -> None:
        """Give shards their generations, by shard; from now on they admit.

        Raises Unavailable when one has another generation and was not closed for this one, or when
        `run` is not the present run of Redis.
        """


class LedgerStore(Protocol):
    """The books in PostgreSQL. One ledger is active at a time; `lead` is False for all others.

    Should several lead, only the one that called `recover` last can write: every other call that writes
    raises Unavailable, and nothing is decided.
    """

    async def lead(self) -> bool:
        """Try once to become the active ledger, without waiting. Raises Unavailable."""

    async def resign(self) -> None:
        """Stop being the active ledger, and drop the connection."""

    async def recover(self) -> Recovered:
        """What the last active ledger had committed; from now on no other one writes. Raises Unavailable."""

    async def open_shards(self, generation: str, shards: Sequence[int]) -> None:
        """Enter shards that are used for the first time, under `generation`."""

    async def mark_lost(self, spans: Sequence[LostSpan]) -> None:
        """Note what these shards have lost with Redis, whose books go on: their recorded events cannot be
        compared with the books from now on."""

    async def leave_out_ids(self, delivered: int) -> None:
        """PostgreSQL went back: give no id again that was given in the lost time, and let those of answers
        go on after row `delivered`. Done again, it leaves out more."""

    async def standing(self) -> Standing:
        """How much write-ahead log there is, and what the standbys have of it."""

    async def close_shard(
        self, generation: str, mark: StreamMark, decide: Callable[[Books], None], span: LostSpan
    ) -> str:
        """Let `decide` change all accounts and quotas of the shard of `span`, whose streams its books do not
        go on from.

        `mark` is where its books stood when they were read; Unavailable when they do not any more.
        One transaction writes that with the cause, the new `generation`, and the position before all
        entries, whose link is the new generation. No request of the shard waits any more. When it lost data
        with Redis alone, its recorded events cannot be compared with its books from now on.

        Accounts that others have locked are not in the books that `decide` gets (`Books.locked`), and
        nothing of them is booked before `close_accounts` closes them. Returns who has locked them, "" when
        there are none.
        """

    async def close_accounts(self) -> Applied:
        """Close accounts that were locked when their shard was closed, and are not any more.

        The outcome has the answers to their requests that waited for it, and who has locked the accounts that
        are left. After `Unavailable` call `recover`.
        """

    async def apply(self, entries: Sequence[UsageEntry], decide: Decide, sent: int) -> Applied:
        """Apply as many of each shard's `entries` as one transaction takes (see `posting.portion`).

        It loads the books that they concern, lets `decide` change them, writes them back with the new
        marks, and deletes answers up to row `sent`. What another transaction has locked holds up its
        own shard only. Unavailable, before anything is decided, when the first entry of a
        shard is not the next one in the books. After `Unavailable` nobody knows whether it was committed:
        call `recover`.
        """

    async def events(self, sent: int) -> list[BalanceEvent]:
        """Events that `apply` and `close_shard` committed and that perhaps were not sent, oldest first.

        It gives some at a time, and deletes those up to row `sent`.
        """
