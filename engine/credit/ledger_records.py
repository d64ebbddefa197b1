"""The records of the ledger: what it reads, the part of the books at hand, what it writes.

Where a unit can be, and how it moves (the journal's movements):

    payments --top-up--> available --grant--> granted --hold--> held --capture--> captured
                             ^                   |                |
                             +---- return/fence -+                |
                             +------------ release ---------------+
"""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.credit.records import LedgerAnswer, QuotaRequest
from engine.records import ActivityRow, OrganisationEvent
from engine.stream_id import STREAM_START, StreamId

UsageKind = Literal["usage", "settle", "request", "return", "fence"]
MovementKind = Literal["grant", "hold", "capture", "release", "return", "fence", "reopen"]

# movement: (debit, credit), as in the journal.
MOVEMENTS: dict[MovementKind, tuple[str, str]] = {
    "grant": ("available", "granted"),
    "hold": ("granted", "held"),
    "capture": ("held", "captured"),
    "release": ("held", "available"),
    "return": ("granted", "available"),
    "fence": ("granted", "available"),
    # Only when Redis went back: a message the books had charged is in its queue again.
    "reopen": ("captured", "held"),
}


class UsageEntry(msgspec.Struct, frozen=True):
    """One entry of a shard's usage stream. `data` by kind, MessagePack:

    usage    [organisation, held, ...]           units a holder has held
    settle   [organisation, captured, released, ...]
    request  Request    return  Return    fence  empty

    The entries of a stream are a chain: `follows` is the link of the entry before, and `link`
    the digest of that, the entry's id and all it says. So two entries with the same link have
    the same history. Both are "" before the first, and in streams of an older version.
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
    """A place in a shard's usage stream: behind the entry at `position`, whose link it names."""

    position: StreamId = STREAM_START
    link: str = ""


class Account(msgspec.Struct):
    """Where an organisation's units are; `captured` only grows."""

    shard: int
    available: int
    granted: int
    held: int
    captured: int
    # The organisation is told when it falls below so many usable units; None: never.
    low_balance: int | None = None

    @property
    def usable(self) -> int:
        """What new messages can use: with the ledger, and with the holders."""
        return self.available + self.granted


class WaitingRequest(msgspec.Struct):
    """A request that waits for recalled quota; persisted so that a new ledger goes on with it."""

    shard: int
    holder: str
    epoch: int
    request: QuotaRequest
    # Holders asked to return their quota, not heard of since. Not persisted: a new
    # ledger asks again, and a holder that has nothing answers with an empty return.
    recalled: set[str] = msgspec.field(default_factory=set)
    # Its row, once written.
    row_id: int = 0


class Books(msgspec.Struct):
    """The accounts, quotas and waiting requests that a batch of entries concerns.

    `decide` changes them in place and appends to the lists below.
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
    # Rows of waiting requests that wait no more
    closed: list[int] = []
    # Organisations that fell below their threshold
    low: list[int] = []


class StoredAnswer(msgspec.Struct, frozen=True):
    """An answer that is committed, by its row."""

    row_id: int
    shard: int
    holder: str
    payload: bytes


class Applied(msgspec.Struct, frozen=True):
    """What became of a batch of entries: of each shard as many are applied as could be."""

    # To be sent, in order.
    answers: list[StoredAnswer]
    # How far each shard is applied now; a shard is absent when none of its entries was.
    marks: dict[int, StreamMark]
    # Shards whose next entry concerns an account that another transaction has locked.
    held_up: frozenset[int] = frozenset()


class Portion(msgspec.Struct, frozen=True):
    """The entries of a batch that one transaction takes."""

    # Applied as a whole, in order.
    whole: list[UsageEntry] = []
    # Fences of which only some quotas are ended now; the entry stays the shard's next one.
    begun: list[UsageEntry] = []
    # Shards whose next entry concerns an account that is locked.
    held_up: set[int] = set()


class BalanceEvent(msgspec.Struct, frozen=True):
    """An event of an organisation that is committed, by its row; rows count up."""

    row_id: int
    shard: int
    organisation_id: int
    event: OrganisationEvent
    # Usable units left.
    units: int
    # Of the transaction that brought it about; the same however often the event is sent.
    at_us: int

    def activity(self) -> ActivityRow:
        """The event as it is recorded."""
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


class ShardLife(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard of Redis says of itself, and of the mark it was asked about."""

    shard: int
    # None: it never had one, or lost it with everything else.
    generation: str | None
    # Of the server process that answered, and the one in which a ledger found the shard whole.
    run: str
    seen_run: str
    # The last id ever given in its usage stream; `STREAM_START` when there was none.
    last_position: StreamId
    # The link behind which stands what the stream has after the mark; the mark's own when the
    # stream has not lost it.
    follows: str
    # Row of the last answer that was put into an inbox there.
    delivered: int


class RemainingUnits(msgspec.Struct, frozen=True):
    """What a lost shard still has of one organisation, units."""

    # Held by its messages, or taken from that by settlements that are not in the books.
    held: int
    # How much of it was held by usage that the books have not applied.
    news: int


class Recovered(msgspec.Struct, frozen=True):
    # Of the shards that the books know.
    generations: dict[int, str]
    # How far their usage is applied.
    marks: dict[int, StreamMark]
    # Row of the last answer that is known to have been put into an inbox.
    delivered: dict[int, int]
    # Earlier generations, whose loss the books know of.
    former: dict[int, frozenset[str]]
    # Committed but perhaps never sent.
    answers: list[StoredAnswer]
    waiting: dict[int, list[WaitingRequest]]
