"""The records that several rooms use. A record of one room is in the `records.py` of that room.

Records on a Redis stream are MessagePack arrays (`array_like`): the order of the
fields below is the wire format. New fields may only be added at the end, with a default.
Times are UTC in microseconds since 1970 (`_us`), amounts are integer units.

Records of which there is one for each message are made with `gc=False`: they refer to nothing that could
refer to them, so the garbage collector need not look at them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.lifecycle import MessageEvent, SettlementOutcome, outcome_of

Queue = Literal["express", "normal"]
QUEUES: tuple[Queue, ...] = ("express", "normal")
QUEUE_DEFAULT: Queue = "normal"  # for a message that names none

Encoding = Literal["GSM-7", "UCS-2"]

# What msgspec raises for MessagePack that is no such record: of another shape, with text that is not
# UTF-8, or nested too deep.
NO_RECORD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# Events of an organisation.
OrganisationEvent = Literal[
    "low_balance",  # its usable units fell below its threshold; `units` are those left
]
Event = MessageEvent | OrganisationEvent


class Message(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """One message as it lies in a queue stream: the field `m` of its entry, or a part of the bundle there."""

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
    # Sends whose outcome nobody knows: those that ended so, and those that a dead worker may have made.
    # Without those of the present entry; see `engine.delivery.settlement`.
    unknown_sends: int = 0
    # Where its events are told as well as at the organisation's endpoints; "": nowhere.
    callback_url: str = ""


class ScheduledMessage(Message, frozen=True, array_like=True, kw_only=True, gc=False):
    """A message that was given a later time (`send_at`). It has a field more than others, which so are no
    larger and are read together (`engine.message_format`)."""

    # When it was to be sent, as its caller said; it keeps that through retries. 0: it had no such time.
    due_at_us: int


def due_at_us_of(message: Message) -> int:
    """When its caller wanted it sent, microseconds since 1970; 0: at once."""
    return message.due_at_us if isinstance(message, ScheduledMessage) else 0


# How the receipts of an attempt name it: by the id that the provider gave it, or by ours, as far as anybody
# knows; by the provider's alone; not at all, because the provider gives none.
RECEIPTS_BY_ANY_ID, RECEIPTS_BY_THEIR_ID, NO_RECEIPTS = 0, 1, 2


class ActivityRow(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """One event of one message. But for `kept`, column for column the ClickHouse table `activity`.

    In an event of an organisation the fields of a message are "" and 0. Its `accepted_at_us` is its
    time, which is part of the table's sort key.
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
    # For `retrying` and `scheduled`: not sent before this time. For `sent`: that of `scheduled`, from which
    # its age counts. Else 0.
    due_at_us: int = 0
    # For `accepted` and `scheduled`: when the validity ends; else 0.
    expires_at_us: int = 0
    # The request had gone out, or may have, when the attempt ended: it may have been delivered.
    outcome_unknown: bool = False
    # For `receipt`: the number of the segment that has arrived, from 1; 0: none has yet.
    segment: int = 0
    # For `sent`, when the message is to be sent again if a receipt says that it did not arrive:
    # the message, JSON. (The functions in Redis read rows, and cannot read the binary type of
    # MessagePack.) It is kept in a table of its own until its validity ends.
    kept: str = ""
    # The message's own.
    callback_url: str = ""
    # For `accepted` and `scheduled`, where `[activity] texts_days` says so: the text.
    text: str = ""
    # Of an attempt: how its receipts name it. The table has it for its views alone.
    receipts_by: int = RECEIPTS_BY_ANY_ID


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A message as read from its queue stream, to be settled by `entry_id` and `place`."""

    shard: int
    queue: Queue
    entry_id: bytes
    message: Message
    # How often this message was given to a worker, this time included.
    deliveries: int = 1
    # Where it is in a bundle (`engine.bundle_format`), from 0, and of how many messages.
    place: int = 0
    bundle: int = 1
    # The entry in which it became ready, when that was another: a bundle that was taken apart, or an entry
    # that was written again because something in it, or before it, was canceled. Else b"".
    first_id: bytes = b""
    # What it waited for when it was put off and recalled (`engine.delivery.ways`); "" for any other.
    way: str = ""


VerdictKind = Literal["accepted", "temporary", "throttled", "permanent", "unknown"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A provider's answer to one attempt.

    accepted   the provider has the message; `provider_message_id` is its id for it
    temporary  it has not; it or another provider may take the same message later
    throttled  it has not, because it was sent too many at once; the provider is not at fault
    permanent  it will never take this message
    unknown    the request went out whole but no answer came in time
    """

    kind: VerdictKind
    provider: str
    # When it took each segment by itself: the ids of all of them, in order, with commas between
    # (a comma inside an id is written %2C).
    provider_message_id: str = ""
    code: str = ""
    latency_us: int = 0
    # The provider never saw the message: it went to a test number, whose receipt comes in any case.
    is_test: bool = False


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What becomes of one entry. Exactly one settlement of an entry counts.

    captured  charge the units held
    released  give the units back
    retry     keep them held, and put the message on the due set until `due_at_us`; 0: not there, but back
              to the front of its organisation's backlog; with a `way`, to what is put off
    dead      keep them held, and move the message to the dead-letter stream
    """

    entry: Entry
    # The event to record if this settlement is the one that counts; None: nothing happened, and
    # the entry is put off.
    row: ActivityRow | None
    due_at_us: int = 0
    # For `retry` and `dead`: the message as it is kept.
    message: Message | None = None
    # What a message that is put off waits for (`engine.delivery.ways`); "" for any other.
    way: str = ""
    # It waits at the front of what is put off there, because it came before that.
    front: bool = False

    @property
    def outcome(self) -> SettlementOutcome:
        """What Redis is to do, by the event of the row (`engine.lifecycle`); `retry` without a row.

        Raises ValueError for an event that settles no entry.
        """
        return "retry" if self.row is None else outcome_of(self.row.event)


class Addressed(msgspec.Struct, frozen=True, kw_only=True):
    """An admitted message and where it goes: its queue (`due_at_us` 0) or the due set of that."""

    queue: Queue
    message: Message
    due_at_us: int = 0
    # How many characters of its text smart encoding has replaced.
    replaced: int = 0


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
    # The answer that a repetition is given, packed (`engine.intake.kept_answer`).
    answer: bytes = b""
    # The most messages of the organisation that are accepted, a second; 0: no such limit.
    rate_max: float = 0.0


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
    # A URL that is told what becomes of the message (docs/webhooks.md).
    callback_url: str | None = None
    # Whether typographic quotes, dashes and spaces may become those of GSM-7; None: no.
    smart_encoding: bool | None = None


# By the name of a field of a draft in JSON: what it may be, for the sentence of a refusal.
DRAFT_FIELDS = {
    "to": 'a phone number in E.164 as a string, such as "+14155550123"',
    "text": "a string",
    "from": "a sender id as a string",
    "queue": '"express" or "normal"',
    "validity": "a whole number of seconds",
    "send_at": 'an RFC 3339 time with an offset as a string, such as "2030-01-31T09:00:00Z"',
    "reference": "a string",
    "callback_url": "a URL as a string",
    "smart_encoding": "true or false",
}


class Accepted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to one accepted message: the body of a 202."""

    id: str
    status: Literal["accepted", "scheduled"]
    queue: Queue
    segments: int
    encoding: Encoding
    units: int
    # How many characters smart encoding has replaced.
    replaced: int = 0


class PriceSheet(msgspec.Struct, frozen=True, kw_only=True):
    """All prices at one time."""

    # Goes up with each change.
    version: int
    # Units a segment by prefix of the destination; the longest that matches counts.
    prices: dict[str, int]


class IdempotentCall(msgspec.Struct, frozen=True, kw_only=True):
    """An Idempotency-Key: the request that has it is carried out at most once."""

    # Whose key it is: keys of different scopes are different keys.
    scope: str
    key: str
    # Digest of the request, to tell a repetition from another use of the same key.
    fingerprint: bytes
