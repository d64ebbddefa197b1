"""What follows for a message from a provider's verdict, or from there being none to wait for.

    verdict                             the hold      the message               row
    accepted                            captured      is done                   sent
    temporary or unknown, time left     stays held    is due again, later       retrying
    temporary or unknown, no time left  released      is done                   expired
    permanent                           released      is done                   failed

An unknown outcome is tried again (at-least-once): the recipient may get it twice, the
organisation pays once, for the attempt that was accepted. When the validity ends on an
unknown outcome nothing is charged: nobody can show that it was sent. Rows of unknown
outcomes carry `outcome_unknown`.

The pause before attempt n + 1 is drawn evenly from the upper half of
min(max, first * 2 ** (n - 1)): "equal jitter" in Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from random import Random

import msgspec

from engine.records import ActivityRow, Entry, Event, Settlement, Verdict

# An entry given out more often than this has outlived as many workers, and is set aside.
DELIVERIES_MAX = 3


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Pause after a temporary failure: doubles from `first_us` up to `max_us`."""

    first_us: int
    max_us: int

    def pause_us(self, attempts: int, rng: Random) -> int:
        """Pause after attempt number `attempts`, from 1."""
        # Beyond 2 ** 40 any first pause is over its maximum.
        whole = min(self.max_us, self.first_us << min(attempts - 1, 40))
        return rng.randint(whole // 2, whole)


def before_sending(entry: Entry, now_us: int) -> Settlement | None:
    """What becomes of an entry that must not be sent; None: send it."""
    if entry.deliveries > DELIVERIES_MAX:
        row = _row(entry, "dead", now_us, attempt=entry.message.attempts, code="deliveries")
        return Settlement(entry=entry, outcome="dead", row=row, message=entry.message)
    if now_us >= entry.message.expires_at_us:
        row = _row(entry, "expired", now_us, attempt=entry.message.attempts, code="validity")
        return Settlement(entry=entry, outcome="released", row=row)
    return None


def after_verdict(entry: Entry, verdict: Verdict, now_us: int, backoff: Backoff, rng: Random) -> Settlement:
    """What becomes of an entry whose attempt ended with `verdict`."""
    message, kind = entry.message, verdict.kind
    attempt = message.attempts + 1
    if kind == "accepted":
        row = _row(entry, "sent", now_us, attempt=attempt, verdict=verdict)
        return Settlement(entry=entry, outcome="captured", row=row)
    if kind == "permanent":
        row = _row(entry, "failed", now_us, attempt=attempt, verdict=verdict)
        return Settlement(entry=entry, outcome="released", row=row)
    due_at_us = now_us + backoff.pause_us(attempt, rng)
    if due_at_us >= message.expires_at_us:
        row = _row(entry, "expired", now_us, attempt=attempt, verdict=verdict)
        return Settlement(entry=entry, outcome="released", row=row)
    return Settlement(
        entry=entry,
        outcome="retry",
        row=_row(entry, "retrying", now_us, attempt=attempt, verdict=verdict, due_at_us=due_at_us),
        due_at_us=due_at_us,
        message=msgspec.structs.replace(message, attempts=attempt),
    )


def handed_back(entry: Entry, now_us: int) -> Settlement:
    """An entry that its worker has not begun to send and will not: due at once, for any worker."""
    return Settlement(entry=entry, outcome="retry", row=None, due_at_us=now_us, message=entry.message)


def _row(
    entry: Entry,
    event: Event,
    now_us: int,
    *,
    attempt: int,
    verdict: Verdict | None = None,
    code: str = "",
    due_at_us: int = 0,
) -> ActivityRow:
    message = entry.message
    return ActivityRow(
        at_us=now_us,
        organisation_id=message.organisation_id,
        message_id=message.id,
        accepted_at_us=message.accepted_at_us,
        event=event,
        queue=entry.queue,
        to=message.to,
        sender=message.sender,
        encoding=message.encoding,
        segments=message.segments,
        units=message.units,
        attempt=attempt,
        provider=verdict.provider if verdict else "",
        provider_message_id=verdict.provider_message_id if verdict else "",
        code=verdict.code if verdict else code,
        latency_us=verdict.latency_us if verdict else 0,
        reference=message.reference,
        due_at_us=due_at_us,
        outcome_unknown=verdict is not None and verdict.kind == "unknown",
    )
