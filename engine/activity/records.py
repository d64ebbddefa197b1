"""Records of the activity on its way from the streams to ClickHouse.

Those that are `array_like` are MessagePack arrays: their order is the wire format, and
fields may only be added at the end, with a default.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from engine.batches import Batch
from engine.errors import Unavailable
from engine.lifecycle import Status
from engine.records import (
    ActivityRow,
    Encoding,
    Event,
    Queue,
)
from engine.stream_id import StreamId


class ActivityEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of an activity stream: a batch of rows, still encoded."""

    shard: int
    id: StreamId
    # A MessagePack array32 of `ActivityRow` arrays.
    blob: bytes


class ShardRange(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The entries of one shard's activity stream from `first` to `last`, both included."""

    shard: int
    first: StreamId
    last: StreamId


class BlockPlan(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Which entries go to ClickHouse together, as one block. It is written to Redis before the insert."""

    # In the order of the shards; a shard without entries is missing.
    ranges: list[ShardRange]


class ActivityBlock(msgspec.Struct, frozen=True, kw_only=True):
    """Rows as columns: those of `ActivityRow` in order but for `kept`, then shard, stream_ms, stream_seq."""

    rows: int
    # The values of each column, packed as `engine.activity._columns` says.
    columns: list[bytes]
    # (message id, attempt, `kept`) of each row that has one.
    kept: list[tuple[str, int, str]]


class MessageKey(msgspec.Struct, frozen=True, gc=False):
    """What a message is looked up by."""

    organisation_id: int
    message_id: str
    # When it was accepted, microseconds; it may be cut to its millisecond, as the id has it.
    accepted_at_us: int


class MessageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages of an organisation are listed; "", 0 and None let all through."""

    status: Status | None = None
    to: str = ""
    reference: str = ""
    queue: Queue | Literal[""] = ""
    # Accepted from then on, and before then, microseconds.
    since_us: int = 0
    until_us: int = 0
    batch: Batch | None = None


class RecentRows(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one message that still wait in the stream."""

    rows: list[ActivityRow]
    # False: the search ended at its bound, and later events may be missing.
    complete: bool
    # Whether it is all that there is: the acceptance still waits in the stream, and so does all behind it.
    whole: bool = False
    # Whether nothing is missing of what the store had not yet when the look-up began: see
    # `ActivityStream.recent_rows_of`.
    gapless: bool = False


class MessageRows(RecentRows, frozen=True, kw_only=True):
    """What is known of one message. Not `complete`: later events may be missing."""

    # Why the store gave no answer; None: it gave one.
    missing: Unavailable | None = None


class Cancellation(msgspec.Struct):
    """What became of messages that were to be canceled, by their ids; of others nothing was found."""

    canceled: set[str] = msgspec.field(default_factory=set)
    # A worker has them in hand: a provider is being given them.
    in_hand: set[str] = msgspec.field(default_factory=set)
    # A worker that ended had them in hand, so that a provider may have been given them.
    given_before: set[str] = msgspec.field(default_factory=set)

    def __len__(self) -> int:
        return len(self.canceled) + len(self.in_hand) + len(self.given_before)


class CampaignPlace(msgspec.Struct, frozen=True, kw_only=True):
    """How far a walk is that cancels a campaign; see `CancelStore.cancel_campaign`."""

    queue: Queue
    where: Literal["due", "list", "ready"] = "due"
    # In `due`: (when due, microseconds; the kind of the payload; the id of the message); in `list`: (chunk,),
    # or (chunk, number of a way) in one of what is put off; () at the end, from which such a walk begins.
    at: tuple[str, ...] = ()


class CampaignStep(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of such a walk has done."""

    found: Cancellation
    # Released.
    units: int
    # Where to go on; None at the end.
    next: CampaignPlace | None


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """How much of one shard's activity stream is not archived."""

    shard: int
    entries: int
    # Id of the oldest entry; None when there is none.
    first: StreamId | None


class AttemptRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """One event of an attempt, as it is filed under each id that the provider gave for it.

    The record of the attempt itself has all fields. Records of what a receipt made of it have only the
    first five.
    """

    # For the attempt itself: `sent`, or how an attempt ended whose outcome is not known. For what a
    # receipt made of it: `receipt`, `delivered`, `undelivered`, or `retrying` when it was sent again.
    event: Event
    message_id: str
    attempt: int
    code: str
    segment: int = 0
    at_us: int = 0
    provider: str = ""
    # As in `Verdict`: the ids of all segments, with commas in between.
    provider_message_id: str = ""
    organisation_id: int = 0
    accepted_at_us: int = 0
    queue: Queue = "normal"
    to: str = ""
    sender: str = ""
    encoding: Encoding = "GSM-7"
    segments: int = 1
    units: int = 0
    reference: str = ""
    callback_url: str = ""
