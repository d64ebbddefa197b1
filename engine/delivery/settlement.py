"""What follows for a message from a provider's verdict, or from there being none to wait for.

    verdict                             the hold      the message               row
    accepted                            captured      is done                   sent
    permanent                           released      is done                   failed
    unknown, at most once               released      is done                   failed
    any other, another provider left    stays held    is due again, at once     retrying
    any other, none left in this round  stays held    is due again, later       retrying
    any other, no time left             released      is done                   expired

An unknown outcome is tried again where the queue promises at-least-once: the recipient may
get it twice, the organisation pays once, for the attempt that was accepted. Where it
promises at-most-once the message is given up. Nothing is charged then, nor when the
validity ends on an unknown outcome: nobody can show that it was sent. Rows of unknown
outcomes carry `outcome_unknown`.

A round is one attempt with each provider that can carry the message; between rounds it
pauses. A provider that throttles has judged itself, not the message: the pause is short.

The pause after a round is drawn evenly from the upper half of its length, as in `backoff`.
"""

from __future__ import annotations

from random import Random

import msgspec

from engine.activity.row import row_of
from engine.backoff import pause_after
from engine.records import ActivityRow, Entry, Event, Settlement, Verdict

# An entry given out more often than this has outlived as many workers, and is set aside.
DELIVERIES_MAX = 3


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Pause after a temporary failure: doubles from `first_us` up to `max_us`."""

    first_us: int
    max_us: int

    def pause_us(self, rounds: int, rng: Random) -> int:
        """Pause after round number `rounds`, from 1."""
        whole = int(pause_after(rounds, self.first_us, self.max_us))
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


def after_verdict(
    entry: Entry,
    verdict: Verdict,
    now_us: int,
    backoff: Backoff,
    rng: Random,
    *,
    others: bool = False,
    reroute: bool = False,
    at_most_once: bool = False,
) -> Settlement:
    """What becomes of an entry whose attempt ended with `verdict`.

    `others`: another provider can take it now and has not failed it in this round.
    `reroute`: it is to be sent again when a receipt says that it did not arrive, and so
    must be kept until then.
    """
    message, kind = entry.message, verdict.kind
    attempt = message.attempts + 1
    if kind == "accepted":
        row = _row(entry, "sent", now_us, attempt=attempt, verdict=verdict)
        if reroute:
            row = msgspec.structs.replace(row, kept=msgspec.json.encode(message).decode())
        return Settlement(entry=entry, outcome="captured", row=row)
    if kind == "permanent" or (kind == "unknown" and at_most_once):
        row = _row(entry, "failed", now_us, attempt=attempt, verdict=verdict)
        return Settlement(entry=entry, outcome="released", row=row)
    tried = (*message.tried, verdict.provider)
    due_at_us = now_us
    if not others:
        rounds = 1 if kind == "throttled" else max(1, attempt // len(tried))
        due_at_us += backoff.pause_us(rounds, rng)
        tried = ()
    if due_at_us >= message.expires_at_us:
        row = _row(entry, "expired", now_us, attempt=attempt, verdict=verdict)
        return Settlement(entry=entry, outcome="released", row=row)
    return Settlement(
        entry=entry,
        outcome="retry",
        row=_row(entry, "retrying", now_us, attempt=attempt, verdict=verdict, due_at_us=due_at_us),
        due_at_us=due_at_us,
        message=msgspec.structs.replace(message, attempts=attempt, tried=tried),
    )


def put_off(entry: Entry, due_at_us: int) -> Settlement:
    """An entry that its worker has not begun to send: due then, for any worker."""
    return Settlement(entry=entry, outcome="retry", row=None, due_at_us=due_at_us, message=entry.message)


def unroutable(entry: Entry, now_us: int) -> Settlement:
    """An entry that no route leads anywhere: refunded."""
    row = _row(entry, "failed", now_us, attempt=entry.message.attempts, code="no_route")
    return Settlement(entry=entry, outcome="released", row=row)


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
    return row_of(
        entry.message,
        entry.message.id,
        entry.queue,
        event,
        now_us,
        attempt=attempt,
        provider=verdict.provider if verdict else "",
        provider_message_id=verdict.provider_message_id if verdict else "",
        code=verdict.code if verdict else code,
        latency_us=verdict.latency_us if verdict else 0,
        due_at_us=due_at_us,
        outcome_unknown=verdict is not None and verdict.kind == "unknown",
    )
