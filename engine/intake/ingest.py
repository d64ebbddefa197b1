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
from functools import partial

from engine.clocks.expiry import Expiry
from engine.credit.quota import Quota
from engine.errors import Closed, Refusal, TooMany
from engine.ids import MessageIds
from engine.intake.addressing import Addressing, Free, Permit, any_sender, never_free
from engine.intake.estimate import Estimate, estimated
from engine.intake.ports import Prices
from engine.intake.refused_counts import RefusedCounts
from engine.intake.under_way import (
    CreditWaits,
    Done,
    FirstUse,
    Rated,
    Render,
    Submitted,
    UnderWay,
    first_answer,
)
from engine.intake.while_closed import RepeatedWhileClosed
from engine.limits.gate import Gate
from engine.records import MessageDraft, Queue


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
        gate: Gate,
        check: Callable[[Sequence[MessageDraft | Refusal]], None] = lambda drafts: None,
        permit: Permit = any_sender,
        free: Free = never_free,
        first: FirstUse | None = None,
    ) -> None:
        """`validity_s`: by queue, of messages that name no validity. `timeout_s` bounds a submission.

        `check` raises Unavailable when a request with these messages is not to be taken in now. `gate`: the
        limits of organisations. `permit`: whether a message may be sent, and under which sender; `free`:
        whose messages need none. `first`: what a key of an organisation was first used for.
        """
        self._first = first
        self._gate = gate
        self._quota = quota
        addressing = Addressing(prices, validity_s, permit, free)
        self._address = addressing.address
        self._address_all = addressing.address_all
        self._ids = ids
        self._now_us = now_us
        self._running = Expiry(timeout_s, UnderWay.expire)
        self._check = check
        self.counts = CreditWaits()
        self.refused = RefusedCounts()

    @property
    def under_way(self) -> int:
        """How many submissions have no outcome yet."""
        return len(self._running)

    def begin(
        self,
        organisation_id: int,
        drafts: Sequence[MessageDraft | Refusal],
        done: Done,
        *,
        render: Render,
        idempotency_key: str = "",
        fingerprint: bytes = b"",
    ) -> UnderWay | RepeatedWhileClosed:
        """Accept or refuse each draft on its own; `render` makes the answer from the outcomes.

        `done` is told the answer, once and never within this call: a `Submitted`; Refusal 409 when the key
        was used for another request, or what was kept of its answer cannot be read; Full when Redis has
        little memory left; Unavailable when the messages could not be decided or written in time, and then
        none of them ever is written; Undecided, when they may be. What is known to fail at once is raised:
        TooMany when the organisation is over a limit of its own, and what `render` raises; then nothing was
        accepted and `done` is told nothing.
        """
        try:
            self._check(drafts)
            self._quota.check()
            rate_max = self._gate.enter(organisation_id, len(drafts))
        except (Closed, TooMany) as reason:
            if not idempotency_key or self._first is None:
                raise
            answer = partial(first_answer, count=len(drafts), render=render, organisation_id=organisation_id)
            first = partial(self._first, organisation_id, idempotency_key)
            return RepeatedWhileClosed(first, fingerprint, answer, reason, done)
        if not rate_max:
            return self._begin(organisation_id, drafts, done, render, idempotency_key, fingerprint)
        rated = Rated(self._gate, organisation_id, len(drafts), rate_max, done)
        try:
            return self._begin(
                organisation_id, drafts, rated.end, render, idempotency_key, fingerprint, rated
            )
        except BaseException:
            # Whatever it is, the request has its outcome.
            rated.leave()
            raise

    def _begin(
        self,
        organisation_id: int,
        drafts: Sequence[MessageDraft | Refusal],
        done: Done,
        render: Render,
        idempotency_key: str,
        fingerprint: bytes,
        rated: Rated | None = None,
    ) -> UnderWay:
        quota = self._quota
        now_us = self._now_us() // 1000 * 1000
        ids = self._ids.make(now_us // 1000, len(drafts))
        # There is no await in between, so that all messages have the prices of one instant.
        addressed, units = self._address_all(organisation_id, ids, drafts, now_us)
        under_way = UnderWay(
            quota,
            self._running,
            organisation_id,
            addressed,
            done,
            render,
            idempotency_key,
            fingerprint,
            rated,
            self.refused,
            self._first,
        )
        self.counts.submissions += 1
        if not units or quota.credit.reserve(organisation_id, units):
            under_way.admit(units)
        else:
            under_way.wait_for_credit(self.counts)
        return under_way

    def estimate(self, organisation_id: int, draft: MessageDraft, available: int) -> Estimate:
        """What a message would come to, for an organisation that has `available` units.

        Raises Refusal for a text that is none, Unavailable while no prices are known.
        """
        now_us = self._now_us()
        return estimated(
            draft,
            partial(self._address, organisation_id, "", draft, now_us),
            partial(self._check, (draft,)),
            available,
        )

    async def submit(
        self,
        organisation_id: int,
        drafts: Sequence[MessageDraft | Refusal],
        *,
        render: Render,
        idempotency_key: str = "",
        fingerprint: bytes = b"",
    ) -> Submitted:
        """As `begin`, for one that waits: returns the answer, and raises what `done` would be told.

        Canceled, it gives the submission up.
        """
        answer: asyncio.Future[Submitted] = asyncio.get_running_loop().create_future()
        begun = self.begin(
            organisation_id,
            drafts,
            partial(_tell, answer),
            render=render,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
        )
        try:
            return await answer
        except asyncio.CancelledError:
            begun.give_up()
            raise


def _tell(answer: asyncio.Future[Submitted], outcome: Submitted | Exception) -> None:
    if answer.done():
        return
    if isinstance(outcome, Submitted):
        answer.set_result(outcome)
    else:
        answer.set_exception(outcome)
