"""Rule: the rows of one message -> what the API says about it.

The rows may come in any order, more than once (archived and not yet trimmed), and
without their beginning: see `engine.lifecycle` for why the status is the same still.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from engine.lifecycle import Charge, MessageEvent, Status, charge_after, status_after
from engine.records import ActivityRow, Encoding, Queue

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a message; times are RFC 3339 in UTC."""

    at: str
    event: MessageEvent
    # The status of the message once this event was known.
    status: Status
    # "" where no provider had a part in it.
    provider: str
    provider_message_id: str
    # The provider's raw answer code, or that of its receipt, or the engine's own reason.
    code: str
    # From 1; 0 before any attempt.
    attempt: int
    # Of a `receipt`: the number of the segment that has arrived, from 1; 0: none has yet.
    segment: int
    # How long the provider took to answer, milliseconds; 0 for receipts.
    latency_ms: float


class MessageView(msgspec.Struct, frozen=True, kw_only=True):
    """A message with its history: the body of `GET /v1/messages/{id}`."""

    id: str
    status: Status
    charge: Charge
    queue: Queue
    to: str
    sender: str = msgspec.field(name="from")
    encoding: Encoding
    segments: int
    # Units for each segment, as priced when it was accepted, and for all of them.
    price: int
    units: int
    reference: str
    accepted_at: str
    # None while the event of its admission has not been seen.
    expires_at: str | None
    # The provider that delivered it, else the last that took it, else the one tried last;
    # "" before any attempt.
    provider: str
    attempts: int
    # An attempt ended without an answer: the recipient may have got the message, or got
    # it twice.
    outcome_unknown: bool
    events: list[EventView]
    # False: the archiver is so far behind that the newest events could not be looked up; the
    # message may be further than `status` and `charge` say.
    history_complete: bool = True


def rfc3339(at_us: int) -> str:
    """ "2026-11-22T08:26:00.000001Z" from microseconds since 1970; always six decimals."""
    at = _EPOCH + timedelta(microseconds=at_us)
    return at.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def describe(rows: Iterable[ActivityRow], *, complete: bool = True) -> MessageView:
    """The message that all these rows are of; `complete`: whether later events cannot be missing.

    Raises ValueError when there is no row.
    """
    known = _distinct(rows)
    if not known:
        raise ValueError("a message without rows cannot be described")
    charge: Charge = "held"
    status: Status | None = None
    events = []
    for row in known:
        event = row.event
        # Of an organisation: such a row has no message's id.
        assert event != "low_balance"
        status = status_after(status, event)
        charge = charge_after(charge, event)
        events.append(_event_view(row, event, status))
    first = known[0]
    assert status is not None
    assert first.queue
    assert first.encoding
    # What is sent again after its receipt holds none any more.
    units = max(row.units for row in known)
    expires_at_us = max(row.expires_at_us for row in known)
    return MessageView(
        id=first.message_id,
        status=status,
        charge=charge,
        queue=first.queue,
        to=first.to,
        sender=first.sender,
        encoding=first.encoding,
        segments=first.segments,
        # Exact: the units of a message are its segments times the price.
        price=units // first.segments,
        units=units,
        reference=first.reference,
        accepted_at=rfc3339(first.accepted_at_us),
        expires_at=rfc3339(expires_at_us) if expires_at_us else None,
        provider=_provider(known),
        attempts=max(row.attempt for row in known),
        outcome_unknown=any(row.outcome_unknown for row in known),
        events=events,
        history_complete=complete,
    )


def _provider(known: Sequence[ActivityRow]) -> str:
    """The provider that delivered it, else the last that took it, else the one tried last, else ""."""
    tried = [row for row in known if row.provider]
    takers = (
        [row for row in tried if row.event == "delivered"]
        or [row for row in tried if row.event == "sent"]
        or tried
    )
    return takers[-1].provider if takers else ""


def _distinct(rows: Iterable[ActivityRow]) -> list[ActivityRow]:
    """Each event once, by time; an event is known by its name, its attempt and its time, and
    as receipts may come several at a time, by what it says."""
    by_key = {(row.at_us, row.attempt, row.event, row.segment, row.code): row for row in rows}
    return [by_key[key] for key in sorted(by_key)]


def _event_view(row: ActivityRow, event: MessageEvent, status: Status) -> EventView:
    return EventView(
        at=rfc3339(row.at_us),
        event=event,
        status=status,
        provider=row.provider,
        provider_message_id=row.provider_message_id,
        code=row.code,
        attempt=row.attempt,
        segment=row.segment,
        latency_ms=row.latency_us / 1000,
    )
