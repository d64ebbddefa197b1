"""Rule: what becomes of a message by its provider's verdict, or when there is none to wait for.

    verdict                             event       the message
    accepted                            sent        is done
    permanent                           failed      is done
    unknown, as often as allowed        outcome_unknown or outcome_unknown_released
                                                    is done
    any other, another provider left    retrying    is due again, at once
    any other, none left in this round  retrying    is due again, later
    any other, no time left             expired     is done

This module decides the event. What the event does to the hold and to the queue entry is decided
by the table in `engine.lifecycle`, from which the settlement's outcome follows.

A send of unknown outcome may have reached the recipient. `UnknownOutcomes` bounds such sends of one
message: where the queue promises at-most-once it allows one, else a few. These count:

    an attempt that ended with the verdict `unknown`, also after a time-out or a hedge
    each time that the entry was taken over from another worker, which may have sent it before it died

The second is known from the deliveries that Redis counts for the entry, so it survives the death of any
worker. `Message.unknown_sends` keeps both when the message leaves its entry: to be tried again, put
off, or sent again after a receipt. A worker may die before it sends what it has read. Nobody can tell,
so it counts all the same: a message is sent too seldom rather than too often. What a worker hands back,
and what it drops unsent and reads again, does not count.

At the bound the message is at its end. Before it, the message is tried again, the recipient may get
it twice, and the organisation pays once, for the attempt that was accepted. Nothing is charged when
the validity ends first. Rows of unknown outcomes carry `outcome_unknown`.

An entry that has outlived `DELIVERIES_MAX` workers is a dead letter, also when that is the bound: it
may be what kills them, and an operator should see it.

A round is one attempt with each provider that can carry the message. There is a pause between rounds.
A provider that throttles has judged its own load, not the message: the pause is short.
"""

from __future__ import annotations

from functools import partial
from random import Random

import msgspec

from engine import message_format
from engine.activity.row import row_of
from engine.clocks.backoff import pause_after
from engine.lifecycle import MessageEvent
from engine.records import RECEIPTS_BY_ANY_ID, Entry, Message, Settlement, Verdict, due_at_us_of

# An entry given out more often than this has outlived as many workers, and is set aside.
DELIVERIES_MAX = 3


class RetryPauses(msgspec.Struct, frozen=True, kw_only=True):
    """How long a message pauses after a round that failed: doubles from `first_us` up to `max_us`."""

    first_us: int
    max_us: int

    def after_round(self, rounds: int, rng: Random) -> int:
        """The pause after round number `rounds`, from 1, microseconds; drawn as in `clocks.backoff`."""
        return int(pause_after(rounds, self.first_us, self.max_us, rng))


class UnknownOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """How often a queue lets one message be sent with an unknown outcome, and who pays at the bound."""

    # So many such sends end the message.
    sends_max: int = 3
    # Whether it is charged then.
    charged: bool = True

    @property
    def event(self) -> MessageEvent:
        """The event at the bound."""
        return "outcome_unknown" if self.charged else "outcome_unknown_released"

    def left(self, entry: Entry) -> int:
        """How many more sends of `entry` may have an unknown outcome; 0 or fewer: it must not be sent."""
        return self.sends_max - _unknown_sends(entry)


_USUAL = UnknownOutcomes()


def _unknown_sends(entry: Entry) -> int:
    """Sends of unknown outcome before the present one; each take-over of the entry counts as one."""
    return entry.message.unknown_sends + entry.deliveries - 1


def _message_of(entry: Entry) -> Message:
    """The message as it leaves its entry, whose deliveries are forgotten."""
    if entry.deliveries == 1:
        return entry.message
    return msgspec.structs.replace(entry.message, unknown_sends=_unknown_sends(entry))


def before_sending(entry: Entry, now_us: int, unknown: UnknownOutcomes = _USUAL) -> Settlement | None:
    """The settlement of an entry that must not be sent; None: send it. `unknown`: of its queue."""
    message = entry.message
    if entry.deliveries > DELIVERIES_MAX:
        return _settlement(
            entry, "dead", now_us, attempt=message.attempts, code="deliveries", goes_on_as=message
        )
    if unknown.left(entry) <= 0:
        # The dead worker's attempt, if it was made, has recorded no event. Without one, the setting has
        # been lowered since.
        lost = entry.deliveries > 1
        attempt, code = message.attempts + lost, "taken_over" if lost else "unknown_outcomes_max"
        return _settlement(entry, unknown.event, now_us, attempt=attempt, code=code, outcome_unknown=True)
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
    unknown: UnknownOutcomes = _USUAL,
    receipts_by: int = RECEIPTS_BY_ANY_ID,
) -> Settlement:
    """The settlement of an entry whose attempt ended with `verdict`.

    `others`: another provider can take the message now and has not failed it in this round.
    `reroute`: the message is sent again when a receipt says that it did not arrive, so its row
    keeps the message until then. `unknown`: of the queue. `receipts_by`: how the provider's receipts name
    the attempt; that of a test number comes in any case.
    """
    recorded = partial(
        _settlement, entry, now_us=now_us, attempt=entry.message.attempts + 1, verdict=verdict,
        receipts_by=RECEIPTS_BY_ANY_ID if verdict.is_test else receipts_by,
    )  # fmt: skip
    message, kind = entry.message, verdict.kind
    attempt = message.attempts + 1
    if kind == "accepted":
        kept = message_format.to_json(_message_of(entry)) if reroute else ""
        return recorded("sent", kept=kept)
    if kind == "permanent":
        return recorded("failed")
    if kind == "unknown" and unknown.left(entry) <= 1:
        return recorded(unknown.event, outcome_unknown=True)
    tried = (*message.tried, verdict.provider)
    due_at_us = now_us
    if not others:
        rounds = 1 if kind == "throttled" else max(1, attempt // len(tried))
        due_at_us += pauses.after_round(rounds, rng)
        tried = ()
    if due_at_us >= message.expires_at_us:
        return recorded("expired", outcome_unknown=kind == "unknown")
    sends = _unknown_sends(entry) + (kind == "unknown")
    again = msgspec.structs.replace(message, attempts=attempt, tried=tried, unknown_sends=sends)
    return recorded("retrying", due_at_us=due_at_us, goes_on_as=again, outcome_unknown=kind == "unknown")


def put_off(entry: Entry, due_at_us: int) -> Settlement:
    """The settlement of an entry that its worker has not begun to send: due then, for any worker.

    Nothing happened to the message, so no event is recorded.
    """
    return Settlement(entry=entry, row=None, due_at_us=due_at_us, message=_message_of(entry))


def put_off_in(entry: Entry, way: str, *, front: bool = False) -> Settlement:
    """The settlement of an entry that waits for room at its providers, in a way (`engine.delivery.ways`).
    `front`: before what waits there, because it came before that; so does what was recalled or tried.

    Nothing happened to the message, so no event is recorded.
    """
    return Settlement(entry=entry, row=None, message=_message_of(entry), way=way, front=front)


def put_back(entry: Entry) -> Settlement:
    """The settlement of an entry that its worker has not begun to send and will not, because its organisation
    is paused or the worker ends: back to the front of the organisation's backlog, or of what is put off where
    it was recalled.

    Nothing happened to the message, so no event is recorded.
    """
    if entry.way:
        return put_off_in(entry, entry.way)
    return Settlement(entry=entry, row=None, due_at_us=0, message=_message_of(entry))


def in_older_words(settlement: Settlement, unknown: UnknownOutcomes, due_at_us: int) -> Settlement:
    """What is done instead of an end after sends of unknown outcome, while a process of an older version
    runs beside this one that cannot read its event.

    A message that is released, or is never to be sent twice, has `failed`: so does the older version. Any
    other waits unsent, knows how often it was sent, and ends when it is next due. (A worker of the older
    version forgets that number, and sends the message again, as it always did.)
    """
    entry, row = settlement.entry, settlement.row
    if row is None:
        return settlement
    if unknown.sends_max == 1 or not unknown.charged:
        return msgspec.structs.replace(settlement, row=msgspec.structs.replace(row, event="failed"))
    if not row.provider:
        return put_off(entry, due_at_us)
    sends = _unknown_sends(entry) + 1
    again = msgspec.structs.replace(entry.message, attempts=row.attempt, unknown_sends=sends)
    retrying = msgspec.structs.replace(row, event="retrying", due_at_us=due_at_us)
    return Settlement(entry=entry, row=retrying, due_at_us=due_at_us, message=again)


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
    outcome_unknown: bool = False,
    kept: str = "",
    receipts_by: int = RECEIPTS_BY_ANY_ID,
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
        due_at_us=due_at_us_of(entry.message) if event == "sent" else due_at_us,
        outcome_unknown=outcome_unknown,
        kept=kept,
        receipts_by=receipts_by,
    )
    return Settlement(entry=entry, row=row, due_at_us=due_at_us, message=goes_on_as)
