"""Rule: what the API says about a message, from the rows of its events.

Rows may come in any order. They may come twice, when they are archived and not removed from the stream
yet. The first ones may be missing. `engine.lifecycle` says why the status is the same all the same.
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
    # "" when no provider had a part in it.
    provider: str
    provider_message_id: str
    # The provider's raw answer code, or that of its receipt, or the engine's own reason.
    code: str
    # From 1; 0 before any attempt.
    attempt: int
    # For `receipt`: the number of the segment that has arrived, from 1; 0: none has yet.
    segment: int
    # How long the provider took to answer, milliseconds; 0 for receipts.
    latency_ms: float


class MessageSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A message without its events, as it stands in a list."""

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
    # None when the event of its admission is not among the rows.
    expires_at: str | None
    # The provider that delivered it; else the last one that took it; else the one that was tried last; ""
    # before any attempt.
    provider: str
    attempts: int
    # Whether an attempt ended without an answer: the recipient may have got the message, or got it twice.
    outcome_unknown: bool


class MessageView(MessageSummary, frozen=True, kw_only=True):
    """A message with its history: the body of `GET /v1/messages/{id}`."""

    events: list[EventView]
    # None: it is not recorded (`[activity] texts_days`), or not any more; nor shown to operators.
    text: str | None = None
    # False: ClickHouse gives no answer, or the archiver is so far behind that the newest events could not be
    # looked up, so that the message may be further than `status` and `charge` say.
    history_complete: bool = True


def rfc3339(at_us: int) -> str:
    """ "2026-11-22T08:26:00.000001Z" from microseconds since 1970; always six decimals."""
    at = _EPOCH + timedelta(microseconds=at_us)
    return at.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def describe(rows: Iterable[ActivityRow], *, complete: bool = True) -> MessageView:
    """The message that all these rows are about; `complete`: no later events can be missing.

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
        # That is an event of an organisation; its row has no id of a message.
        assert event != "low_balance"
        status = status_after(status, event)
        charge = charge_after(charge, event)
        events.append(_event_view(row, event, status))
    first = known[0]
    assert status is not None
    assert first.queue
    assert first.encoding
    # A message that is sent again after a receipt holds no units any more, so some rows have 0.
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
        text=next((row.text for row in known if row.text), None),
        history_complete=complete,
    )


def _provider(known: Sequence[ActivityRow]) -> str:
    """The provider to show; see `MessageView.provider`."""
    tried = [row for row in known if row.provider]
    takers = (
        [row for row in tried if row.event == "delivered"]
        or [row for row in tried if row.event == "sent"]
        or tried
    )
    return takers[-1].provider if takers else ""


def _distinct(rows: Iterable[ActivityRow]) -> list[ActivityRow]:
    """Each event once, by time.

    Two rows are the same event when name, attempt and time are the same, and also segment and code,
    because several receipts may come at one time.
    """
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
