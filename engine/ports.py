"""What the services ask of the world outside; adapters in `stores/` and `providers/` give it.

Deadlines: every coroutine here ends within the time its adapter was built with, or
raises `Unavailable`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engine._fastcredits import CreditMap
from engine.books import BalanceEvent, Books, Left, Mark, Recovered, ShardLife, StoredAnswer, UsageEntry
from engine.carriers import Receipt
from engine.errors import Fenced
from engine.outbox import Flush
from engine.records import (
    ActivityBlock,
    ActivityEntry,
    ActivityRow,
    Answer,
    Backlog,
    BlockPlan,
    Entry,
    Event,
    Message,
    PriceSheet,
    Queue,
    RecentRows,
    Replay,
    Settlement,
    StreamId,
    Submission,
    Verdict,
)

# Called exactly once per submitted message, on the loop, never from inside `submit`.
Done = Callable[[Verdict], None]


class Provider(Protocol):
    """A way to hand messages to a carrier."""

    @property
    def name(self) -> str: ...

    async def start(self) -> None:
        """Make ready; does not fail because the carrier is away."""

    async def stop(self) -> None:
        """Close; what is in flight is first given its verdict, `unknown` at worst."""

    def submit(self, message: Message, done: Done) -> None:
        """Begin to send. Returns at once; `done` is called with the verdict.

        The caller bounds how many are in flight. Every message gets its verdict
        within the provider's time-out, come what may.
        """


class ReceiptSink(Protocol):
    """Where providers put the receipts they are sent."""

    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        """Take receipts; returns at once. `stored` is called exactly once, on the loop, never
        from inside `put`: with True when they are in Redis and cannot be lost any more, with
        False when they could not be kept and the carrier should send them again."""


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

    async def sums_before(self, firsts: Mapping[int, StreamId]) -> dict[int, dict[Event, int]]:
        """Units by organisation and event over the rows that stood before `firsts` in the
        streams of those shards."""


class AdmissionStore(Protocol):
    """The holder's side of the shards' streams."""

    async def register(self, name: str) -> list[int]:
        """Begin a new epoch of the holder in every shard; the epochs, by shard."""

    async def admit(self, name: str, flushes: Sequence[Flush]) -> list[dict[int, Replay] | Fenced]:
        """Apply each flush whole or not at all, in one round trip.

        For each flush the submissions that repeat an idempotency key, by their index, or
        `Fenced`. After `Unavailable` send the same flushes again.
        """

    async def beat(self, name: str, heard: Sequence[tuple[int, int]]) -> bool:
        """Show that the holder lives; False when any shard has fenced it, or is behind what it
        was `heard` there: its epoch and the last sequence that was answered, by shard."""

    async def fence(self, name: str) -> None:
        """End the holder's epoch in every shard; again does nothing."""

    async def inbox(
        self, name: str, positions: Sequence[str], block_ms: int
    ) -> list[tuple[int, str, Answer]]:
        """Answers behind `positions` (by shard) as (shard, position, answer), waiting up
        to `block_ms` for the first."""


class Holding(Protocol):
    """The credit of this process, as those who spend it see it (see quota.Quota)."""

    @property
    def credit(self) -> CreditMap: ...

    @property
    def incarnation(self) -> int: ...

    async def wait(self, organisation_id: int, cost: int, total: int) -> bool: ...

    def release(self, organisation_id: int, units: int, incarnation: int) -> None: ...

    def admit(self, submission: Submission, incarnation: int) -> asyncio.Future[Replay | None]: ...


class Prices(Protocol):
    """What a segment costs now (see price_list.PriceList and pricing.PriceTable)."""

    def units_per_segment(self, to: str) -> int:
        """Without waiting; the same table answers until the caller awaits something."""


class PriceStore(Protocol):
    """Where the prices are kept. Every call raises Unavailable."""

    async def version(self) -> int:
        """Goes up with each change; cheap to ask."""

    async def read(self) -> PriceSheet:
        """All prices; none as long as nobody has set any."""


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

    async def lives(self, marks: Mapping[int, Mark]) -> list[ShardLife]:
        """What each shard of Redis says of itself, and of the mark given for it."""

    async def close(self, life: ShardLife, generation: str, books: str, mark: Mark) -> dict[int, Left]:
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

    async def apply(
        self, entries: Sequence[UsageEntry], decide: Callable[[Books], None], sent: int
    ) -> list[StoredAnswer]:
        """Load what `entries` concern, let `decide` change it, write it back with the new
        marks, all in one transaction; delete answers up to `sent`. The answers to send.

        After `Unavailable` it is unknown whether it was committed: `recover`.
        """

    async def events(self, sent: int) -> list[BalanceEvent]:
        """Events that `apply` and `close_shard` committed and that are perhaps not sent, oldest
        first, not all at once; forget those up to row `sent`."""
