"""Rule: the row that an event of a message is recorded as."""

from __future__ import annotations

from engine.activity.records import AttemptRecord
from engine.records import RECEIPTS_BY_ANY_ID, ActivityRow, Event, Message, Queue


def row_of(
    subject: Message | AttemptRecord,
    message_id: str,
    queue: Queue,
    event: Event,
    at_us: int,
    *,
    attempt: int = 0,
    provider: str = "",
    provider_message_id: str = "",
    code: str = "",
    latency_us: int = 0,
    due_at_us: int = 0,
    expires_at_us: int = 0,
    outcome_unknown: bool = False,
    segment: int = 0,
    kept: str = "",
    receipts_by: int = RECEIPTS_BY_ANY_ID,
) -> ActivityRow:
    """The row of `event`, which happened at `at_us`, microseconds since 1970.

    No event is before the acceptance of its message: times of two processes differ (`clocks.store_clock`).
    `subject`: the message, or an attempt as it is filed for receipts. The others are the row's fields.
    """
    return ActivityRow(
        at_us=max(at_us, subject.accepted_at_us),
        organisation_id=subject.organisation_id,
        message_id=message_id,
        accepted_at_us=subject.accepted_at_us,
        event=event,
        queue=queue,
        to=subject.to,
        sender=subject.sender,
        encoding=subject.encoding,
        segments=subject.segments,
        units=subject.units,
        attempt=attempt,
        provider=provider,
        provider_message_id=provider_message_id,
        code=code,
        latency_us=latency_us,
        reference=subject.reference,
        due_at_us=due_at_us,
        expires_at_us=expires_at_us,
        outcome_unknown=outcome_unknown,
        segment=segment,
        kept=kept,
        callback_url=subject.callback_url,
        receipts_by=receipts_by,
    )
