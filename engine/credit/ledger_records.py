"""The records of the ledger: what it reads, the part of the books it works on, what it writes.

Where a unit can be, and how it moves (the journal's movements):

    payments --top-up--> available --grant--> granted --hold--> held --capture--> captured
                             ^                   |                |
                             +---- return/fence -+                |
                             +------------ release ---------------+
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from engine.credit.records import LedgerAnswer, QuotaRequest
from engine.records import ActivityRow, OrganisationEvent
from engine.stream_id import STREAM_START, StreamId

UsageKind = Literal["usage", "settle", "request", "return", "fence"]
MovementKind = Literal["grant", "hold", "capture", "release", "return", "fence", "reopen"]

# {movement: (debit, credit)}: units go from the first place to the second, as in the journal.
MOVEMENTS: dict[MovementKind, tuple[str, str]] = {
    "grant": ("available", "granted"),
    "hold": ("granted", "held"),
    "capture": ("held", "captured"),
    "release": ("held", "available"),
    "return": ("granted", "available"),
    "fence": ("granted", "available"),
    # Only when Redis went back to an older state: a message that was charged is in its queue again.
    "reopen": ("captured", "held"),
}


class UsageEntry(msgspec.Struct, frozen=True):
    """One entry of a shard's usage stream. `data` by kind, MessagePack:

    usage    [organisation, units, ...]               units that the holder has held
    settle   [organisation, captured, released, ...]  units that a worker has settled
    request  QuotaRequest
    return   QuotaReturn
    fence    empty: nothing of the holder's epoch comes after this

    The entries of a stream are a chain. `follows` is the link of the entry before. `link` is the
    digest of `follows`, the entry's id and its fields (`append` in functions/queue). So two entries with
    the same link have the same history. `follows` is "" in the first entry, and both are "" in
    entries of an older version.
    """

    shard: int
    # The entry's id.
    position: StreamId
    kind: UsageKind
    holder: str
    epoch: int
    data: bytes
    follows: str = ""
    link: str = ""


class StreamMark(msgspec.Struct, frozen=True):
    """A place in a shard's usage stream: right after the entry at `position`, whose link is `link`."""

    position: StreamId = STREAM_START
    link: str = ""


class Account(msgspec.Struct):
    """Where the units of an organisation are."""

    shard: int
    available: int
    granted: int
    held: int
    captured: int
    # The event `low_balance` comes when the usable units fall below this; None: never.
    low_balance: int | None = None
    # Units held by its messages that are unbooked; None when it has no unbooked usage.
    unbooked: int | None = None

    @property
    def suspended(self) -> bool:
        """Whether it is granted nothing, because it has unbooked usage."""
        return self.unbooked is not None

    @property
    def usable(self) -> int:
        """The units that new messages can use: those with the ledger and those with holders."""
        return self.available + self.granted


class WaitingRequest(msgspec.Struct):
    """A request that waits for recalled quota. It is in the books, so that a new ledger goes on with it."""

    shard: int
    holder: str
    epoch: int
    request: QuotaRequest
    # Holders that were asked to return their quota and have not answered. They are not in the books:
    # a new ledger asks again, and a holder without quota answers with an empty return.
    recalled: set[str] = msgspec.field(default_factory=set)
    # Its row in `waiting_requests`; 0 until it is written.
    row_id: int = 0


class UnbookedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Units of one entry that the books could not cover, of one organisation."""

    organisation_id: int
    shard: int
    position: StreamId
    kind: UsageKind
    holder: str
    held: int
    captured: int
    released: int


class Unclosed(msgspec.Struct, frozen=True):
    """An account that was locked when its shard was closed: what the close will need of it."""

    organisation_id: int
    shard: int
    # As in `RemainingUnits`.
    held: int
    news: int
    # As in `posting.close_books`.
    reopens: bool
    # What the account held then. An older version of the ledger does not know that it is not closed, and
    # may have booked more since.
    booked: int = 0


class Books(msgspec.Struct):
    """The accounts, quotas and waiting requests that a batch of entries concerns.

    `decide` changes them in place, and fills the fields below them.
    """

    accounts: dict[int, Account]
    # organisation: {holder: units}
    quotas: dict[int, dict[str, int]]
    # organisation: its requests in order of arrival
    waiting: dict[int, list[WaitingRequest]]
    # (shard, organisation, movement): units
    movements: dict[tuple[int, int, MovementKind], int] = {}
    # (shard, holder, answer), in order
    answers: list[tuple[int, str, LedgerAnswer]] = []
    # (organisation, holder) whose quota changed
    changed: set[tuple[int, str]] = set()
    # Rows of requests that no longer wait
    closed: list[int] = []
    # Organisations that fell below their threshold
    low: list[int] = []
    # Usage that no unit covers
    unbooked: list[UnbookedUsage] = []
    # Organisations without an account: units held by their messages that are unbooked already
    adrift: dict[int, int] = {}
    # Organisations of which a holder had used more than its quota, and other units covered it
    covered: set[int] = set()
    # When a shard is closed: organisations whose accounts others have locked, and what is left to close
    locked: frozenset[int] = frozenset()
    unclosed: list[Unclosed] = []


class StoredAnswer(msgspec.Struct, frozen=True):
    """An answer in the books, with its row; `payload` is a `LedgerAnswer` in MessagePack."""

    row_id: int
    shard: int
    holder: str
    payload: bytes


class Applied(msgspec.Struct, frozen=True):
    """The outcome of a batch: of each shard as many entries as possible are applied."""

    # The answers to send, in order.
    answers: list[StoredAnswer]
    # By shard, how far it is applied now; a shard is absent when none of its entries was.
    marks: dict[int, StreamMark]
    # Shards whose next entry concerns what another transaction has locked.
    held_up: frozenset[int] = frozenset()
    # Organisations of which usage was set aside.
    unbooked: frozenset[int] = frozenset()
    # Which transaction that is, for an operator.
    held_up_by: str = ""
    # By shard, the organisations whose accounts are locked since its books were closed.
    unclosed: Mapping[int, Sequence[int]] = {}


class Stopped(NamedTuple):
    """Whose books cannot be written now, as ledgers have noted it."""

    shards: frozenset[int] = frozenset()
    # Those whose accounts are locked since the books of their shard were closed.
    organisations: frozenset[int] = frozenset()


class Portion(msgspec.Struct, frozen=True):
    """Those entries of a batch that one transaction applies; see `engine.credit.posting.portion`."""

    # Entries that are applied as a whole, in order.
    whole: list[UsageEntry] = []
    # Fences of which only some quotas are ended now; each stays the next entry of its shard. Its place is
    # kept in the books with the first of them, because they would not show otherwise that Redis lost it.
    begun: list[UsageEntry] = []
    # Shards whose next entry concerns an account that is locked.
    held_up: set[int] = set()


class BalanceEvent(msgspec.Struct, frozen=True):
    """An event of an organisation in the books, with its row. Rows count up."""

    row_id: int
    shard: int
    organisation_id: int
    event: OrganisationEvent
    # Usable units left.
    units: int
    # When its transaction was made; the same however often the event is sent.
    at_us: int

    def activity(self) -> ActivityRow:
        """The event as a row of the activity."""
        return ActivityRow(
            at_us=self.at_us,
            organisation_id=self.organisation_id,
            message_id="",
            accepted_at_us=self.at_us,
            event=self.event,
            queue="",
            to="",
            sender="",
            encoding="",
            segments=0,
            units=self.units,
        )


class BookedNote(msgspec.Struct, frozen=True):
    """What the ledger has noted in Redis of the books of a shard: how far they are."""

    generation: str
    position: StreamId
    # The term of the ledger that noted it.
    term: int
    # Earlier generations of the shard.
    former: frozenset[str] = frozenset()


class ShardLife(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a shard of Redis, and what it has after the mark it was asked about."""

    shard: int
    # None when it never had one, or lost it with all other data.
    generation: str | None
    # The run of Redis that answered, and the one in which a ledger last found the shard whole.
    run: str
    seen_run: str
    # The last id ever given in its usage stream; `STREAM_START` when there was none.
    last_position: StreamId
    # The link that the next entry after the mark follows, or that of the last entry when there is none
    # after it. It is the mark's own link unless the stream has lost the entry at the mark.
    follows: str
    # Row of the last answer that was put into an inbox of the shard.
    delivered: int
    # How many entries its usage stream has.
    length: int = 0
    # The last note of a ledger; None where an older version was the last to lead.
    note: BookedNote | None = None
    # Where the first entry after the mark is; None when there is none.
    next_position: StreamId | None = None
    # Where the stream ended before this run of Redis, if anything came in it before a ledger had looked.
    ended: StreamId | None = None


class LostSpan(msgspec.Struct, frozen=True):
    """What a shard has lost: the usage and the events between two places of its usage stream."""

    shard: int
    # Who went back.
    who: Literal["redis", "postgres", "both"]
    # Why, for the journal.
    cause: str
    # Nothing up to here is lost.
    since: StreamId
    # Nothing from here on is lost; None: all up to this moment may be.
    until: StreamId | None = None


class RemainingUnits(msgspec.Struct, frozen=True):
    """The units that a lost shard still has of one organisation."""

    # Units held by its messages, and units that settlements not in the books took from that.
    held: int
    # How many of them were held by usage that the books have not applied.
    news: int


class Recovered(msgspec.Struct, frozen=True):
    """What the last active ledger had committed, by shard or in order of the rows."""

    # The generations of the shards that are in the books.
    generations: dict[int, str]
    # How far the usage is applied.
    marks: dict[int, StreamMark]
    # The row of the last answer that is known to be in an inbox.
    delivered: dict[int, int]
    # Earlier generations, whose books were closed.
    former: dict[int, frozenset[str]]
    # Answers that are committed and perhaps were never sent.
    answers: list[StoredAnswer]
    # By organisation, in order of arrival.
    waiting: dict[int, list[WaitingRequest]]
    # The term that began with this.
    term: int
    # The highest row that any answer may have had.
    last_answer: int
    # The places right after fences that were booked in part; see `Portion.begun`.
    begun: dict[int, StreamMark] = {}


class Standing(msgspec.Struct, frozen=True):
    """How much write-ahead log PostgreSQL has, and how much of it the standbys have, bytes."""

    written: int
    # What every standby and every slot has; None when there is none.
    kept: int | None = None
    # The one that has the least, as text for a log line; "" when there is none.
    slowest: str = ""
