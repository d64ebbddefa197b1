"""Every record that crosses a process or module border.

Records on a Redis stream are MessagePack arrays (`array_like`): the order of the
fields below is the wire format. Fields may only be added at the end, with a default.
Times are UTC in microseconds since 1970 (`_us`), amounts are integer units.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.lifecycle import MessageEvent, SettlementOutcome, outcome_of

Queue = Literal["express", "normal"]
QUEUES: tuple[Queue, ...] = ("express", "normal")
QUEUE_DEFAULT: Queue = "normal"  # of a message that names none

Encoding = Literal["GSM-7", "UCS-2"]

# Of an organisation, not of a message.
OrganisationEvent = Literal[
    "low_balance",  # its usable units fell below its threshold; `units` are those left
]
Event = MessageEvent | OrganisationEvent


class Message(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One message as it lies in a queue stream, field `m` of its entry."""

    # UUIDv7 as text; sorts by time of acceptance.
    id: str
    organisation_id: int
    # E.164, with the leading "+".
    to: str
    text: str
    # Sender id shown to the recipient; "" leaves it to the provider.
    sender: str
    encoding: Encoding
    segments: int
    # Units of credit held for it: segments times the price of its destination.
    units: int
    accepted_at_us: int
    # Not sent at or after this time.
    expires_at_us: int
    # Attempts already made that ended in a temporary failure.
    attempts: int = 0
    # The organisation's own name for it, "" when none was given.
    reference: str = ""
    # Providers that failed it since its last pause: the others are tried first.
    tried: tuple[str, ...] = ()


class ActivityRow(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One event of one message. But for `kept`, column for column the ClickHouse table `activity`.

    An event of an organisation has "" and 0 where a message would have something to say;
    its `accepted_at_us` is its time, which places it in the table.
    """

    at_us: int
    organisation_id: int
    message_id: str
    # From the message: with the organisation and the id, the table's sort key.
    accepted_at_us: int
    event: Event
    queue: Queue | Literal[""]
    to: str
    sender: str
    encoding: Encoding | Literal[""]
    segments: int
    units: int
    # Number of the attempt this event belongs to, from 1; 0 before any attempt.
    attempt: int = 0
    provider: str = ""
    provider_message_id: str = ""
    # The provider's raw answer code, or the engine's own reason.
    code: str = ""
    # How long the provider took to answer, microseconds.
    latency_us: int = 0
    reference: str = ""
    # For `retrying` and `scheduled`: not sent before this time; else 0.
    due_at_us: int = 0
    # For `accepted` and `scheduled`: when the validity ends; else 0.
    expires_at_us: int = 0
    # The request had gone out when the attempt failed: it may have been delivered.
    outcome_unknown: bool = False
    # For `receipt`: the number of the segment that has arrived, from 1; 0: none has yet.
    segment: int = 0
    # For `sent`, of a message that is to be sent again when a receipt says that it did not
    # arrive: the message, JSON (the functions in Redis look into rows, and cannot read the
    # binary type of MessagePack). Kept apart from the activity, until its validity ends.
    kept: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A message as read from its queue stream, to be settled by `entry_id`."""

    shard: int
    queue: Queue
    entry_id: bytes
    message: Message
    # How many workers have been given this entry, this one included.
    deliveries: int = 1


VerdictKind = Literal["accepted", "temporary", "throttled", "permanent", "unknown"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's answer to one attempt.

    accepted   the provider has the message; `provider_message_id` is its id for it
    temporary  it has not; the same message may be taken later or elsewhere
    throttled  it has not, only because it was sent too much at once; no fault of its
    permanent  it will never take this message
    unknown    the request went out whole but no answer came in time
    """

    kind: VerdictKind
    provider: str
    # When it took each segment by itself: the ids of all, in order, with commas in between
    # (a comma inside an id is written %2C).
    provider_message_id: str = ""
    code: str = ""
    latency_us: int = 0


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one entry. Exactly one settlement of an entry counts.

    captured  charge the hold; released  give it back; retry  hold on, put it on the
    due set until `due_at_us`; dead  hold on, move it to the dead-letter stream.
    """

    entry: Entry
    # The event to record if this settlement is the one that counts; None: nothing happened, and
    # the entry is put off.
    row: ActivityRow | None
    due_at_us: int = 0
    # For `retry` and `dead`: the message as it goes on.
    message: Message | None = None

    @property
    def outcome(self) -> SettlementOutcome:
        """What Redis is to do, by the event of the row (`engine.lifecycle`); `retry` without a row.

        Raises ValueError for an event that settles no entry.
        """
        return "retry" if self.row is None else outcome_of(self.row.event)


class Addressed(msgspec.Struct, frozen=True, kw_only=True):
    """An admitted message with its place: a queue now (`due_at_us` 0) or its due set."""

    queue: Queue
    message: Message
    due_at_us: int = 0


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """Messages of one organisation that are admitted together or not at all."""

    organisation_id: int
    messages: list[Addressed]
    # The sum of the messages' units, already reserved by the holder.
    units: int
    # "" when the caller gave no Idempotency-Key.
    idempotency_key: str = ""
    # Digest of the request, to tell a repetition from another use of the same key.
    fingerprint: bytes = b""
    # The answer that a repetition is given, packed (see kept_answer).
    answer: bytes = b""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What an idempotency key was first used for."""

    fingerprint: bytes
    answer: bytes


class MessageDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message as a caller asks for it: the body of `POST /v1/messages`."""

    to: str
    text: str
    sender: str | None = msgspec.field(default=None, name="from")
    # None: `QUEUE_DEFAULT`.
    queue: Queue | None = None
    # Seconds from acceptance (from `send_at` when given); None: the queue's default.
    validity: int | None = None
    # RFC 3339 with offset; None: now.
    send_at: str | None = None
    reference: str | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one accepted message: the body of a 202."""

    id: str
    status: Literal["accepted", "scheduled"]
    queue: Queue
    segments: int
    encoding: Encoding
    units: int


class PriceSheet(msgspec.Struct, frozen=True, kw_only=True):
    """All prices at one time."""

    # Goes up with each change.
    version: int
    # Units a segment by prefix of the destination; the longest that matches counts.
    prices: dict[str, int]


class IdempotentCall(msgspec.Struct, frozen=True, kw_only=True):
    """An Idempotency-Key: what it is given with is done at most once."""

    # Whose key it is: keys of different scopes are different keys.
    scope: str
    key: str
    # Digest of the request, to tell a repetition from another use of the same key.
    fingerprint: bytes
