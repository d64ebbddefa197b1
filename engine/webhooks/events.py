"""Rule: which rows of activity are told to organisations, and what the body of a delivery says.

An event id is derived from the row alone: its message, event, time, attempt and segment. So the same row
gives the same id, from whatever store and however often it is read.

`sequence` orders the events of an organisation: it grows with the place of the row in the activity stream of
its shard. Rows that were recorded in one step have the same one. It is a whole number below 2**53, so that
every reader of JSON keeps it exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from engine.records import ActivityRow
from engine.stream_id import StreamId
from engine.webhooks.records import WebhookEvent

# By event of a row, the type that a receiver reads.
TYPES = {
    "sent": "message.sent",
    "failed": "message.failed",
    "expired": "message.expired",
    "canceled": "message.canceled",
    "outcome_unknown": "message.outcome_unknown",
    "outcome_unknown_released": "message.outcome_unknown",
    "delivered": "message.delivered",
    "undelivered": "message.undelivered",
    "low_balance": "balance.low",
}
# The types that an endpoint may be told of; a test is told to the endpoint that it is for.
EVENT_TYPES = tuple(sorted({*TYPES.values(), "message.received"}))
# The places of fields in a row.
FIELDS = {name: place for place, name in enumerate(ActivityRow.__struct_fields__)}
_AT, _ORGANISATION, _MESSAGE, _EVENT = (
    FIELDS[name] for name in ("at_us", "organisation_id", "message_id", "event")
)
_ATTEMPT, _SEGMENT, _CALLBACK = FIELDS["attempt"], FIELDS["segment"], FIELDS["callback_url"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Entries of a stream in one millisecond that have sequences of their own.
_IN_MS = 4096
_encode = msgspec.json.Encoder().encode


def sequence_of(entry: StreamId) -> int:
    """The sequence of the events of an entry of a stream."""
    return entry.ms * _IN_MS + min(entry.sequence, _IN_MS - 1)


def time_text(at_us: int) -> str:
    """A time as RFC 3339 has it, UTC, to the microsecond."""
    return f"{(_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec='microseconds')[:26]}Z"


def callback_of(row: Sequence[Any]) -> str:
    """The callback URL of a row, whose last fields may be missing."""
    return row[_CALLBACK] if len(row) > _CALLBACK else ""


def event_of(row: Sequence[Any], entry: StreamId) -> WebhookEvent | None:
    """The event that a row stands for, at its place in the stream; None: nobody is told of such rows.

    `row`: the values of an `ActivityRow`, which may lack the last ones. Raises IndexError, TypeError and
    ValueError for what is no row.
    """
    kind = TYPES.get(row[_EVENT])
    if kind is None:
        return None
    at_us, organisation_id, message_id = row[_AT], row[_ORGANISATION], row[_MESSAGE]
    segment = row[_SEGMENT] if len(row) > _SEGMENT else 0
    named = f"{organisation_id} {message_id} {row[_EVENT]} {at_us} {row[_ATTEMPT]} {segment}"
    return WebhookEvent(
        id="evt_" + hashlib.blake2b(named.encode(), digest_size=16).hexdigest(),
        organisation_id=organisation_id,
        type=kind,
        at_us=at_us,
        data=_encode(_data(row, kind, sequence_of(entry))).decode(),
        callback_url=callback_of(row),
    )


def body_of(event: WebhookEvent) -> bytes:
    """The body of the deliveries of an event: `type`, `timestamp` and `data`, as Standard Webhooks has
    them."""
    return b'{"type":%b,"timestamp":"%b","data":%b}' % (
        _encode(event.type), time_text(event.at_us).encode(), event.data.encode(),
    )  # fmt: skip


def _data(row: Sequence[Any], kind: str, sequence: int) -> dict[str, Any]:
    if kind == "balance.low":
        return {"organisation_id": row[_ORGANISATION], "units": row[FIELDS["units"]], "sequence": sequence}
    return {
        "id": row[_MESSAGE],
        "status": kind.partition(".")[2],
        "to": row[FIELDS["to"]],
        "from": row[FIELDS["sender"]],
        "reference": row[FIELDS["reference"]] if len(row) > FIELDS["reference"] else "",
        "queue": row[FIELDS["queue"]],
        "segments": row[FIELDS["segments"]],
        "units": row[FIELDS["units"]],
        "attempt": row[_ATTEMPT],
        "code": row[FIELDS["code"]],
        "accepted_at": time_text(row[FIELDS["accepted_at_us"]]),
        "sequence": sequence,
    }
