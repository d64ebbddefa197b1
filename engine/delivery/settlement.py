"""Rule: what follows for a message from a provider's verdict, or from there being none to wait for.

    verdict                             event       the message
    accepted                            sent        is done
    permanent                           failed      is done
    unknown, at most once               failed      is done
    any other, another provider left    retrying    is due again, at once
    any other, none left in this round  retrying    is due again, later
    any other, no time left             expired     is done

This module decides the event. What the event does to the hold and to the queue entry is decided
by the table in `engine.lifecycle`, from which the settlement's outcome follows.

An unknown outcome is tried again where the queue promises at-least-once: the recipient may
get the message twice, and the organisation pays once, for the attempt that was accepted. Where the
queue promises at-most-once the message is given up. Nothing is charged then, nor when the
validity ends on an unknown outcome, because nobody can show that the message was sent. Rows of unknown
outcomes carry `outcome_unknown`.

A round is one attempt with each provider that can carry the message. There is a pause between rounds.
A provider that throttles has judged its own load, not the message: the pause is short.
"""

from __future__ import annotations

from random import Random

import msgspec

from engine.activity.row import row_of
from engine.backoff import pause_after
from engine.lifecycle import MessageEvent
from engine.records import Entry, Message, Settlement, Verdict

# An entry given out more often than this has outlived as many workers, and is set aside.
DELIVERIES_MAX = 3


class RetryPauses(msgspec.Struct, frozen=True, kw_only=True):
    """How long a message pauses after a round that failed: doubles from `first_us` up to `max_us`."""

    first_us: int
    max_us: int

    def after_round(self, rounds: int, rng: Random) -> int:
        """The pause after round number `rounds`, from 1, microseconds; drawn as in `engine.backoff`."""
        return int(pause_after(rounds, self.first_us, self.max_us, rng))


def before_sending(entry: Entry, now_us: int) -> Settlement | None:
    """The settlement of an entry that must not be sent; None: send it."""
    message = entry.message
    if entry.deliveries > DELIVERIES_MAX:
        return _settlement(
            entry, "dead", now_us, attempt=message.attempts, code="deliveries", goes_on_as=message
        )
    if now_us >= message.expires_at_us:
        return _settlement(entry, "expired", now_us, attempt=message.attempts, code="validity")
    return None


def after_verdict(
    entry: Entry,
    verdict: Verdict,
    now_us: int,
    pauses: RetryPauses,
    rng: Random,
    *,
    others: bool = False,
    reroute: bool = False,
    at_most_once: bool = False,
) -> Settlement:
    """The settlement of an entry whose attempt ended with `verdict`.

    `others`: another provider can take the message now and has not failed it in this round.
    `reroute`: the message is sent again when a receipt says that it did not arrive, so its row
    keeps the message until then. `at_most_once`: what the queue promises.
    """
    message, kind = entry.message, verdict.kind
    attempt = message.attempts + 1
    if kind == "accepted":
        kept = msgspec.json.encode(message).decode() if reroute else ""
        return _settlement(entry, "sent", now_us, attempt=attempt, verdict=verdict, kept=kept)
    if kind == "permanent" or (kind == "unknown" and at_most_once):
        return _settlement(entry, "failed", now_us, attempt=attempt, verdict=verdict)
    tried = (*message.tried, verdict.provider)
    due_at_us = now_us
    if not others:
        rounds = 1 if kind == "throttled" else max(1, attempt // len(tried))
        due_at_us += pauses.after_round(rounds, rng)
        tried = ()
    if due_at_us >= message.expires_at_us:
        return _settlement(entry, "expired", now_us, attempt=attempt, verdict=verdict)
    again = msgspec.structs.replace(message, attempts=attempt, tried=tried)
    return _settlement(
        entry, "retrying", now_us, attempt=attempt, verdict=verdict, due_at_us=due_at_us, goes_on_as=again
    )


def put_off(entry: Entry, due_at_us: int) -> Settlement:
    """The settlement of an entry that its worker has not begun to send: due then, for any worker.

    Nothing happened to the message, so no event is recorded.
    """
    return Settlement(entry=entry, row=None, due_at_us=due_at_us, message=entry.message)


def unroutable(entry: Entry, now_us: int) -> Settlement:
    """The settlement of an entry that no route matches: its units are released."""
    return _settlement(entry, "failed", now_us, attempt=entry.message.attempts, code="no_route")


def _settlement(
    entry: Entry,
    event: MessageEvent,
    now_us: int,
    *,
    attempt: int,
    verdict: Verdict | None = None,
    code: str = "",
    due_at_us: int = 0,
    goes_on_as: Message | None = None,
    kept: str = "",
) -> Settlement:
    """The settlement that records `event`; its outcome follows from the event."""
    row = row_of(
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
        kept=kept,
    )
    return Settlement(entry=entry, row=row, due_at_us=due_at_us, message=goes_on_as)
