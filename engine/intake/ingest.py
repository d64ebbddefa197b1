"""Service: accept messages: check, price, hold, admit.

The answers 202 and 402 are binding. A submission is answered with its outcomes only when it is in
Redis. Its units were reserved from this process's quota before, and they are held from the atomic step
in which the messages enter their queue. A message is refused for lack of credit only when the
ledger has said so (see `engine.credit.holder`).

    killed before the step    nothing was admitted; the reserved units are the process's quota, and the ledger
                              takes that back
    killed after the step     the messages are admitted, and the caller has no answer; with the same
                              Idempotency-Key it is given the first one
    Redis or the ledger do    Unavailable when the time is over; a submission that was written meanwhile
    not answer                counts; a repetition with the same Idempotency-Key adds nothing
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import NamedTuple

import msgspec
import structlog

from engine._fastcredits import CreditMap
from engine.credit.group_commit import NOT_WRITTEN, UNDECIDED
from engine.credit.quota import Quota
from engine.errors import Refusal, Unavailable, Undecided
from engine.ids import MessageIds
from engine.intake import kept_answer, phone_numbers, segments
from engine.intake.kept_answer import Outcome
from engine.intake.ports import Prices
from engine.limits.gate import Gate
from engine.records import (
    QUEUE_DEFAULT,
    Accepted,
    Addressed,
    Message,
    MessageDraft,
    Queue,
    Replay,
    Submission,
)

_VALIDITY_MAX_S = 7 * 86400
_SEND_AT_MAX_S = 30 * 86400
_SEGMENTS_MAX = 10
_REFERENCE_MAX = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# More units than any message costs.
_ABOVE_ANY_COST = 1 << 63

_log = structlog.get_logger(__name__)


class CreditWaits(msgspec.Struct):
    """How many submissions there were, and how many of them had to wait for credit."""

    submissions: int = 0
    # Those that waited for the ledger, and those that waited for it a second time.
    waited: int = 0
    waited_again: int = 0


class Submitted(msgspec.Struct, frozen=True):
    """The answer to a submission."""

    # The rendered outcomes; for a repeated Idempotency-Key the first answer.
    answer: bytes
    replayed: bool


class _Request(NamedTuple):
    """What `Ingest.submit` is given, and the rate that it is held to."""

    organisation_id: int
    drafts: Sequence[MessageDraft | Refusal]
    render: Callable[[Sequence[Outcome]], bytes]
    idempotency_key: str
    fingerprint: bytes
    rate_max: float


class Ingest:
    """Takes in the messages that come over the API."""

    def __init__(
        self,
        quota: Quota,
        prices: Prices,
        validity_s: Mapping[Queue, int],
        ids: MessageIds,
        *,
        now_us: Callable[[], int],
        timeout_s: float,
        check: Callable[[], None] = lambda: None,
        gate: Gate,
    ) -> None:
        """`validity_s`: by queue, of messages that name no validity. `timeout_s` bounds a submission.

        `check` raises Unavailable while nothing is to be taken in. `gate`: the limits of organisations.
        """
        self._gate = gate
        self._quota = quota
        self._prices = prices
        self._validity_default_s = validity_s
        self._ids = ids
        self._now_us = now_us
        self._timeout_s = timeout_s
        self._check = check
        self.counts = CreditWaits()

    async def submit(
        self,
        organisation_id: int,
        drafts: Sequence[MessageDraft | Refusal],
        *,
        render: Callable[[Sequence[Outcome]], bytes],
        idempotency_key: str = "",
        fingerprint: bytes = b"",
    ) -> Submitted:
        """Accept or refuse each draft on its own; `render` makes the answer from the outcomes.

        Raises TooMany when the organisation is over a limit of its own, Refusal 409 when the key was used
        for another request, or what was kept of its answer cannot be read, Full when Redis has little memory
        left, and Unavailable when the messages could not be decided or written in time: none of them ever is
        written. Undecided: they may be.
        """
        self._check()
        self._quota.check()
        rate_max = self._gate.enter(organisation_id, len(drafts))
        try:
            request = _Request(organisation_id, drafts, render, idempotency_key, fingerprint, rate_max)
            return await self._submitted(request)
        finally:
            if rate_max:
                self._gate.leave(organisation_id, len(drafts))

    async def _submitted(self, request: _Request) -> Submitted:
        organisation_id, drafts, render, idempotency_key, fingerprint, rate_max = request
        now_us = self._now_us() // 1000 * 1000
        ids = self._ids.make(now_us // 1000, len(drafts))
        # There is no await in between, so that all messages have the prices of one instant.
        addressed: list[Addressed | Refusal] = [
            self._address(organisation_id, message_id, draft, now_us)
            for message_id, draft in zip(ids, drafts, strict=True)
        ]
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        incarnation = self._quota.incarnation
        held = await self._hold(organisation_id, addressed, deadline)
        messages = [a for a in addressed if isinstance(a, Addressed)]
        outcomes = [_outcome(a) for a in addressed]
        try:
            answer = render(outcomes)
        except Refusal:
            self._quota.release(organisation_id, held, incarnation)
            raise
        if not messages:
            return Submitted(answer=answer, replayed=False)
        submission = Submission(
            organisation_id=organisation_id,
            messages=messages,
            units=held,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            answer=kept_answer.pack(outcomes) if idempotency_key else b"",
            rate_max=rate_max,
        )
        replay = await self._admitted(submission, incarnation, deadline)
        if replay is None:
            return Submitted(answer=answer, replayed=False)
        return Submitted(answer=_first_answer(replay, render, organisation_id, len(drafts)), replayed=True)

    async def _admitted(self, submission: Submission, incarnation: int, deadline: float) -> Replay | None:
        """Wait until the submission is in Redis; returns None, or what its key was first used for."""
        admission = self._quota.admit(submission, incarnation)
        try:
            async with asyncio.timeout_at(deadline):
                replay = await asyncio.shield(admission.outcome)
        except (TimeoutError, asyncio.CancelledError) as e:
            # Nobody waits for the outcome any more.
            admission.outcome.add_done_callback(lambda f: f.cancelled() or f.exception())
            taken_back = self._quota.take_back(admission)
            if isinstance(e, asyncio.CancelledError):
                raise
            raise (Unavailable(NOT_WRITTEN) if taken_back else Undecided(UNDECIDED)) from None
        if replay is not None and replay.fingerprint != submission.fingerprint:
            raise Refusal(
                "idempotency_key_reused",
                409,
                "This Idempotency-Key was used before with another body; use a new key for a new request.",
                "Idempotency-Key",
            )
        return replay

    async def _hold(self, organisation_id: int, addressed: list[Addressed | Refusal], deadline: float) -> int:
        """Reserve units for each message; returns how many. Messages that cannot be paid become refusals.

        Nothing stays reserved while it waits. Otherwise two processes that each had a part of an
        organisation's last units would wait for each other.
        """
        quota = self._quota
        incarnation = quota.incarnation
        costs = {i: a.message.units for i, a in enumerate(addressed) if isinstance(a, Addressed)}
        # At one time since the request came, the organisation had fewer unspent units than this.
        refused = _ABOVE_ANY_COST
        self.counts.submissions += 1
        for rounds in count():
            held, left = _reserve(quota.credit, organisation_id, costs)
            if not left:
                return held
            enough = held + min(costs[i] for i in left)
            if enough >= refused:
                for i in left:
                    addressed[i] = _insufficient(costs[i])
                return held
            if held:
                quota.credit.release(organisation_id, held)
            self.counts.waited += rounds == 0
            self.counts.waited_again += rounds == 1
            try:
                async with asyncio.timeout_at(deadline):
                    worth_a_try = await quota.wait(organisation_id, enough, sum(costs.values()))
            except TimeoutError:
                raise Unavailable("The ledger did not answer in time.") from None
            if incarnation != quota.incarnation:
                raise Unavailable("This process was fenced and registers anew.")
            if not worth_a_try:
                refused = enough
        raise AssertionError("counting ended")

    def _address(
        self, organisation_id: int, message_id: str, draft: MessageDraft | Refusal, now_us: int
    ) -> Addressed | Refusal:
        if isinstance(draft, Refusal):
            return draft
        try:
            to = phone_numbers.e164(draft.to)
            sender = phone_numbers.sender(draft.sender) if draft.sender else ""
            measured = segments.measure(_text(draft.text))
            if measured.segments > _SEGMENTS_MAX:
                raise _invalid(
                    "text", f"at most {_SEGMENTS_MAX} segments; this text needs {measured.segments}"
                )
            due_at_us = _due_at_us(draft.send_at, now_us)
            validity_s = self._validity_s(draft)
            if draft.reference and len(draft.reference) > _REFERENCE_MAX:
                raise _invalid("reference", f"at most {_REFERENCE_MAX} characters")
        except Refusal as refusal:
            return refusal
        message = Message(
            id=message_id,
            organisation_id=organisation_id,
            to=to,
            text=draft.text,
            sender=sender,
            encoding=measured.encoding,
            segments=measured.segments,
            units=measured.segments * self._prices.units_per_segment(to),
            accepted_at_us=now_us,
            expires_at_us=(due_at_us or now_us) + validity_s * 1_000_000,
            reference=draft.reference or "",
        )
        return Addressed(queue=draft.queue or QUEUE_DEFAULT, message=message, due_at_us=due_at_us)

    def _validity_s(self, draft: MessageDraft) -> int:
        if draft.validity is None:
            return self._validity_default_s[draft.queue or QUEUE_DEFAULT]
        if not 1 <= draft.validity <= _VALIDITY_MAX_S:
            raise _invalid("validity", f"from 1 to {_VALIDITY_MAX_S} seconds")
        return draft.validity


def _reserve(credit: CreditMap, organisation_id: int, costs: dict[int, int]) -> tuple[int, list[int]]:
    """Reserve as many of `costs` as there is quota for, in order; returns (units, keys of those left)."""
    total = sum(costs.values())
    if not costs or credit.reserve(organisation_id, total):
        return total, []
    left = [i for i, units in costs.items() if not credit.reserve(organisation_id, units)]
    return total - sum(costs[i] for i in left), left


def _text(text: str) -> str:
    if not text:
        raise _invalid("text", "at least one character")
    if "\0" in text:
        # It ends the text for many a provider; whoever sends it has padded a buffer.
        raise Refusal("invalid_text", 422, "`text` must be without the character U+0000.", "text")
    return text


def _due_at_us(send_at: str | None, now_us: int) -> int:
    if send_at is None:
        return 0
    try:
        at = datetime.fromisoformat(send_at)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise _invalid("send_at", "an RFC 3339 time with an offset, such as 2030-01-31T09:00:00Z")
    # A difference cannot overflow. A time in UTC can: 9999-12-31T23:59:59-01:00 is in the year 10000.
    due_at_us = (at - _EPOCH) // timedelta(microseconds=1)
    if not now_us < due_at_us <= now_us + _SEND_AT_MAX_S * 1_000_000:
        raise _invalid("send_at", "in the future, at most 30 days from now")
    return due_at_us


def _invalid(field: str, allowed: str) -> Refusal:
    return Refusal("invalid_field", 422, f"`{field}` must be {allowed}.", field)


def _insufficient(cost: int) -> Refusal:
    return Refusal(
        "insufficient_credit",
        402,
        f"The message costs {cost} units, more than the organisation has left; top up and send again.",
    )


def _first_answer(
    replay: Replay, render: Callable[[Sequence[Outcome]], bytes], organisation_id: int, count: int
) -> bytes:
    """What the request with these `count` messages was answered the first time.

    Raises Refusal 409 when what was kept of it cannot be read. Its messages were accepted then, so neither
    may they be admitted again, nor is it of use to repeat the request until the key is forgotten.
    """
    try:
        first = kept_answer.unpack(replay.answer, count)
    except kept_answer.Unreadable as e:
        _log.warning("kept answer is unreadable", organisation_id=organisation_id, reason=str(e))
        raise Refusal(
            "idempotency_key_used",
            409,
            "This Idempotency-Key was used before for the same request, which was accepted, but its answer"
            " can no longer be read; nothing is sent or charged again.",
            "Idempotency-Key",
        ) from e
    return replay.answer if first is None else render(first)


def _outcome(addressed: Addressed | Refusal) -> Outcome:
    if isinstance(addressed, Refusal):
        return addressed
    message = addressed.message
    return Accepted(
        id=message.id,
        status="scheduled" if addressed.due_at_us else "accepted",
        queue=addressed.queue,
        segments=message.segments,
        encoding=message.encoding,
        units=message.units,
    )
