"""Rule: which attempt a receipt is about, and what it adds to that attempt's history.

The state of an attempt only moves forward, as the status of its message does (see
`engine.lifecycle`):

    nothing < receipt (on its way, or some segments arrived) < undelivered < delivered

What is known of an attempt, `Known`, is a join of what the store has and of what was written since
and is not in the store yet. The order does not matter, nor how often something is joined. A receipt
that adds nothing to what is known writes nothing. So a receipt may come twice, days apart, and a
batch of receipts may be worked through twice, and nothing is recorded twice.

When segments have ids of their own, they have receipts of their own. Each segment that arrives is
recorded as a `receipt` with the segment's number; the last one is recorded as `delivered`, for the whole
message. Segments without an id count for nothing, and those that share an id count once: no receipt
can tell them apart. The first segment that does not arrive makes the message `undelivered`. If that was
provisional, and all segments arrive in the end, `delivered` follows. A later receipt that leads back
(undelivered after delivered, on its way after either) is not recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from engine.activity.numbers import PLAIN, Numbers, numbers_agree
from engine.activity.records import AttemptRecord
from engine.activity.row import row_of
from engine.receipts.ids import IdForms, digits_of, ids_of, likeliest, normal, others
from engine.receipts.records import Receipt
from engine.records import ActivityRow, Event, Message

# Why a receipt has no attempt. `unknown`: no attempt has its id. `recipient`: an attempt has it, but was
# sent to another number. `ambiguous`: several attempts have it, and nothing shows which one is meant.
Reason = Literal["unknown", "recipient", "ambiguous"]


class Match(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The attempt a receipt is about."""

    attempt: AttemptRecord
    # Number of the segment, from 1; 0: the whole message.
    segment: int


class Known(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is recorded about one attempt since the provider took it."""

    # Numbers of the segments that arrived, of a message of several.
    arrived: frozenset[int] = frozenset()
    # Codes of the receipts that were recorded without anything having arrived.
    codes: frozenset[str] = frozenset()
    # Also true of an attempt whose message was sent again because of it.
    undelivered: bool = False
    delivered: bool = False

    def joined(self, other: Known) -> Known:
        """All that `self` or `other` knows; the order does not matter."""
        if other is NOTHING:
            return self
        if self is NOTHING:
            return other
        return Known(
            arrived=self.arrived | other.arrived,
            codes=self.codes | other.codes,
            undelivered=self.undelivered or other.undelivered,
            delivered=self.delivered or other.delivered,
        )


NOTHING = Known()


def match(
    receipt: Receipt,
    filed: Iterable[AttemptRecord],
    how: IdForms,
    *,
    settled: bool,
    numbers: Numbers = PLAIN,
) -> Match | Reason:
    """The one attempt among `filed` that the receipt is about, or why there is none.

    `settled`: all that was sent before the receipt came is in the store. Before that, a match
    counts only when the id is the same as written, or when the recipient's number agrees. The
    reason: an id read in another base is sooner or later the id of another message too. `numbers`: how
    recipients' numbers are stored.
    """
    taken = [f for f in filed if f.organisation_id and f.provider == receipt.provider]
    if receipt.message_id:
        return _by_our_id(receipt, taken, how)
    if not taken:
        return "unknown"
    matches = _with_form(taken, likeliest(receipt.provider_message_id, how))
    numbered = how == "auto" and numbers_agree(receipt.to, "") is not None
    agreeing = _agreeing(receipt, matches, numbers) or _from_sender(receipt, matches) if numbered else matches
    if agreeing:
        return _latest(receipt, agreeing, numbers)
    if numbered or settled:
        guessed = [m for form in others(receipt.provider_message_id, how) for m in _with_form(taken, form)]
        agreeing = _agreeing(receipt, guessed, numbers) if numbered else guessed
        if agreeing:
            return _latest(receipt, agreeing, numbers)
        matches += guessed
    return "recipient" if matches else "unknown"


def _with_form(taken: Iterable[AttemptRecord], form: str) -> list[Match]:
    found: list[Match] = []
    for attempt in taken if form else ():
        ids = ids_of(attempt.provider_message_id, attempt.message_id)
        if form in ids:
            found.append(Match(attempt=attempt, segment=ids.index(form) + 1))
    return found


def _by_our_id(receipt: Receipt, taken: Iterable[AttemptRecord], how: IdForms) -> Match | Reason:
    """The attempt of the message that the receipt names: the one with the provider's id, else the one
    that was accepted, else the last."""
    ours = normal(receipt.message_id)
    attempts = [f for f in taken if normal(f.message_id) == ours]
    given = receipt.provider_message_id
    for form in (likeliest(given, how), *others(given, how)):
        if matches := _with_form(attempts, form):
            return max(matches, key=lambda m: (m.attempt.event == "sent", m.attempt.attempt))
    if not attempts:
        return "unknown"
    best = max(attempts, key=lambda f: (f.event == "sent", f.attempt))
    return Match(attempt=best, segment=0)


def _agreeing(receipt: Receipt, matches: Iterable[Match], numbers: Numbers) -> list[Match]:
    return [m for m in matches if numbers.agree(receipt.to, m.attempt.to)]


def _from_sender(receipt: Receipt, matches: Iterable[Match]) -> list[Match]:
    """Those whose sender has the receipt's number. Providers that copy both addresses of the message into
    its receipt, instead of changing them over, give the sender's number for the recipient's."""
    return [m for m in matches if numbers_agree(receipt.to, digits_of(m.attempt.sender))]


def _latest(receipt: Receipt, rivals: Sequence[Match], numbers: Numbers) -> Match | Reason:
    """The match among several with one id, or why there is none.

    A provider that begins to count anew gives one id to several messages. The recipient's number shows
    which messages are meant; of those the latest counts.
    """
    if len(rivals) == 1:
        return rivals[0]
    agreeing = _agreeing(receipt, rivals, numbers)
    if not agreeing and len({m.attempt.message_id for m in rivals}) > 1:
        return "ambiguous"
    return max(agreeing or rivals, key=lambda m: (m.attempt.event == "sent", m.attempt.at_us))


def known_of(attempt: AttemptRecord, filed: Iterable[AttemptRecord]) -> Known:
    """What the store knows about an attempt; `filed`: all that is filed under the attempt's ids."""
    known = NOTHING
    for f in filed:
        if f.organisation_id == 0 and (f.message_id, f.attempt) == (attempt.message_id, attempt.attempt):
            known = known.joined(learnt(f.event, f.code, f.segment))
    return known


def learnt(event: Event, code: str, segment: int) -> Known:
    """What one recorded event adds to the knowledge about its attempt."""
    match event:
        case "delivered":
            return Known(delivered=True)
        case "undelivered" | "retrying":
            return Known(undelivered=True)
        case "receipt" if segment:
            return Known(arrived=frozenset((segment,)))
        case "receipt":
            return Known(codes=frozenset((code,)))
    return NOTHING


def rows_for(
    attempt: AttemptRecord, known: Known, receipts: Sequence[tuple[int, Receipt]]
) -> list[ActivityRow]:
    """The rows that receipts add to what is known; `receipts`: (segment, receipt) in the order in which
    they came."""
    rows: list[ActivityRow] = []
    for segment, receipt in receipts:
        if rows:
            last = rows[-1]
            known = known.joined(learnt(last.event, last.code, last.segment))
        row = _row_for(attempt, known, segment, receipt)
        if row is not None:
            rows.append(row)
    return rows


def _row_for(attempt: AttemptRecord, known: Known, segment: int, receipt: Receipt) -> ActivityRow | None:
    if known.delivered:
        return None
    # Some providers give one id for all segments, or none for some of them.
    several = len(set(ids_of(attempt.provider_message_id, attempt.message_id)) - {""})
    if receipt.state == "delivered":
        if not segment or len(known.arrived | {segment}) == several:
            return _row(attempt, "delivered", receipt)
        return None if segment in known.arrived else _row(attempt, "receipt", receipt, segment)
    if known.undelivered or segment in known.arrived:
        return None
    if receipt.state == "undelivered":
        return _row(attempt, "undelivered", receipt)
    return None if receipt.code in known.codes else _row(attempt, "receipt", receipt)


def sent_again(row: ActivityRow, kept: Message, now_us: int) -> tuple[ActivityRow, Message] | None:
    """How the message of an `undelivered` row is sent again by another provider.

    Returns the row to record instead, and the message as it goes on; None when it is not sent
    again, because its validity is over, or because the same provider has failed it before. The
    message is paid for, so what goes on holds no units.
    """
    if now_us >= kept.expires_at_us or row.provider in kept.tried:
        return None
    again = msgspec.structs.replace(kept, units=0, attempts=row.attempt, tried=(*kept.tried, row.provider))
    return msgspec.structs.replace(row, event="retrying", due_at_us=now_us), again


def _row(attempt: AttemptRecord, event: Event, receipt: Receipt, segment: int = 0) -> ActivityRow:
    return row_of(
        attempt,
        attempt.message_id,
        attempt.queue,
        event,
        receipt.at_us,
        attempt=attempt.attempt,
        provider=attempt.provider,
        provider_message_id=attempt.provider_message_id,
        code=receipt.code,
        segment=segment,
    )
