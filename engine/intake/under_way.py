"""Service: one submission, from its addressed messages to its outcome, by callbacks.

A submission has no task of its own. It is one object that Redis's answer, or the end of its time, calls. Only
one that finds no credit in this process waits for the ledger in a task, and so does one of which nothing can
be accepted now while its Idempotency-Key is looked for: the first time it may have been accepted.

    its client gives up     what waits for credit or for its flush is taken back; what was sent to Redis
                            is as Redis says, and nobody is told
    its time is over        the same, and the client is told whether it may be admitted
    its key cannot be       the client is told that the messages may have been accepted the first time
    looked for
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count

import msgspec
import structlog

from engine._fastcredits import CreditMap
from engine.clocks.expiry import Expiry
from engine.credit.awaiting import Outcome as Admitted
from engine.credit.group_commit import NOT_WRITTEN, UNDECIDED, Admission
from engine.credit.quota import Quota
from engine.errors import EngineError, Refusal, Unavailable, Undecided
from engine.intake import kept_answer
from engine.intake._plain import outcomes_of
from engine.intake.kept_answer import Outcome
from engine.intake.refused_counts import RefusedCounts
from engine.limits.gate import Gate
from engine.records import Addressed, Replay, Submission

_log = structlog.get_logger(__name__)

# More units than any message costs.
_ABOVE_ANY_COST = 1 << 63


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


Render = Callable[[Sequence[Outcome]], bytes]
# Is told the answer, or the error that there is in its place: see `Ingest.begin`.
Done = Callable[[Submitted | Exception], None]
# (organisation id, key) → what the key was first used for; None: it was not. Raises Unavailable.
FirstUse = Callable[[int, str], Awaitable[Replay | None]]


class Rated:
    """A submission of an organisation with a `rate_max`: it leaves the gate when its outcome is known."""

    __slots__ = ("_count", "_done", "_gate", "_organisation_id", "rate_max")

    def __init__(self, gate: Gate, organisation_id: int, count: int, rate_max: float, done: Done) -> None:
        """It has entered the gate with `count` messages, and is held to `rate_max`."""
        self._gate: Gate | None = gate
        self._organisation_id = organisation_id
        self._count = count
        self._done = done
        self.rate_max = rate_max

    def end(self, outcome: Submitted | Exception) -> None:
        """Tell the client its outcome."""
        self.leave()
        self._done(outcome)

    def leave(self) -> None:
        """The outcome is known, or there is none that anybody waits for."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave(self._organisation_id, self._count)


class UnderWay:
    """A submission that is not decided yet."""

    __slots__ = (
        "_addressed",
        "_admission",
        "_answer",
        "_done",
        "_fingerprint",
        "_first",
        "_incarnation",
        "_key",
        "_organisation_id",
        "_quota",
        "_rated",
        "_refused",
        "_render",
        "_running",
        "_waiting",
    )

    def __init__(
        self,
        quota: Quota,
        running: Expiry[UnderWay],
        organisation_id: int,
        addressed: list[Addressed | Refusal],
        done: Done,
        render: Render,
        idempotency_key: str,
        fingerprint: bytes,
        rated: Rated | None,
        refused: RefusedCounts,
        first: FirstUse | None,
    ) -> None:
        """`running` ends it with `expire`, `rated` is there for one with a `rate_max`, `refused` counts its
        messages that are refused. The others are as in `Ingest` and `Ingest.begin`."""
        self._quota = quota
        self._running = running
        self._organisation_id = organisation_id
        self._addressed = addressed
        self._done = done
        self._render = render
        self._key = idempotency_key
        self._fingerprint = fingerprint
        self._rated = rated
        self._refused = refused
        self._first = first
        self._incarnation = quota.incarnation
        self._answer = b""
        self._admission: Admission | None = None
        # While it waits for credit, or for what is known of its key.
        self._waiting: asyncio.Task[None] | None = None

    def admit(self, held: int, waited_s: float = 0.0) -> None:
        """Have the messages written for which `held` units are reserved.

        `waited_s`: how long it has waited for them, seconds. Raises what `render` raises, and Unavailable.
        """
        outcomes, messages = outcomes_of(self._addressed)
        if len(messages) < len(outcomes):
            self._refused.add(outcomes)
        try:
            self._answer = self._render(outcomes)
        except Refusal as refusal:
            self._quota.release(self._organisation_id, held, self._incarnation)
            if not self._looks_for_first(refusal):
                raise
            return
        if not messages:
            if not self._looks_for_first(Submitted(self._answer, False)):
                asyncio.get_running_loop().call_soon(self._decided, None)
            return
        submission = Submission(
            organisation_id=self._organisation_id,
            messages=messages,
            units=held,
            idempotency_key=self._key,
            fingerprint=self._fingerprint,
            answer=kept_answer.pack(outcomes) if self._key else b"",
            rate_max=self._rated.rate_max if self._rated is not None else 0.0,
        )
        self._admission = self._quota.admit(submission, self._incarnation, self._decided)
        self._running.begin(self, waited_s)

    def wait_for_credit(self, counts: CreditWaits) -> None:
        """Wait until units are there for its messages, or the ledger refuses them; then go on."""
        self._waiting = asyncio.create_task(self._wait(counts), name="waits for credit")

    def give_up(self) -> None:
        """Nobody waits for the outcome any more, and nobody is told it: take back what can be taken back."""
        self._done = _nobody
        if self._rated is not None:
            self._rated.leave()
        if self._waiting is not None:
            self._waiting.cancel()
        elif self._admission is not None:
            self._running.stop(self)
            self._quota.take_back(self._admission)

    def expire(self) -> None:
        """Its time is over."""
        assert self._admission is not None
        taken_back = self._quota.take_back(self._admission)
        self._done(Unavailable(NOT_WRITTEN) if taken_back else Undecided(UNDECIDED))

    def _decided(self, outcome: Admitted) -> None:
        """What became of it in Redis."""
        self._running.stop(self)
        if outcome is None:
            self._done(Submitted(self._answer, False))
        elif isinstance(outcome, Unavailable):
            self._done(outcome)
        elif outcome.fingerprint != self._fingerprint:
            self._done(reused())
        else:
            try:
                answer = first_answer(
                    outcome.answer, len(self._addressed), self._render, self._organisation_id
                )
            except Exception as e:
                # Redis gave it: whatever is wrong with it, the client is told.
                self._done(e)
            else:
                self._done(Submitted(answer, True))

    def _looks_for_first(self, otherwise: Submitted | Refusal) -> bool:
        """Whether it has a key, by which its first answer is looked for now; `otherwise` when there is none.

        Credit, prices, opt-outs and senders may have changed since, so that what was accepted would be
        refused now. Who is told that sends it again under another key.
        """
        if not self._key or self._first is None:
            return False
        first = partial(self._first, self._organisation_id, self._key)
        answer = partial(
            first_answer,
            count=len(self._addressed),
            render=self._render,
            organisation_id=self._organisation_id,
        )

        async def look() -> None:
            self._done(
                await answer_of_first(first, self._fingerprint, answer, otherwise, Undecided(UNDECIDED))
            )

        self._waiting = asyncio.create_task(look(), name="looks for the first answer")
        return True

    async def _wait(self, counts: CreditWaits) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            held = await self._hold(counts, began_s + self._running.after_s)
            self._waiting = None
            self.admit(held, loop.time() - began_s)
        except Exception as e:
            # The top of this task: whatever it is, the client is told.
            self._done(e)

    async def _hold(self, counts: CreditWaits, deadline: float) -> int:
        """Reserve units for each message; returns how many. Messages that cannot be paid become refusals.

        Nothing stays reserved while it waits. Otherwise two processes that each had a part of an
        organisation's last units would wait for each other.
        """
        quota, organisation_id, addressed = self._quota, self._organisation_id, self._addressed
        costs = {i: a.message.units for i, a in enumerate(addressed) if isinstance(a, Addressed)}
        # At one time since the request came, the organisation had fewer unspent units than this.
        refused = _ABOVE_ANY_COST
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
            counts.waited += rounds == 0
            counts.waited_again += rounds == 1
            try:
                async with asyncio.timeout_at(deadline):
                    worth_a_try = await quota.wait(organisation_id, enough, sum(costs.values()))
            except TimeoutError:
                raise Unavailable("The ledger did not answer in time.") from None
            if self._incarnation != quota.incarnation:
                raise Unavailable("This process was fenced and registers anew.")
            if not worth_a_try:
                refused = enough
        raise AssertionError("counting ended")


async def answer_of_first(
    first: Callable[[], Awaitable[Replay | None]],
    fingerprint: bytes,
    answer: Callable[[bytes], bytes],
    otherwise: Submitted | Exception,
    unknown: Exception,
) -> Submitted | Exception:
    """What a request is told of which nothing is accepted now: its first answer, when it had one.

    `first`: what its key was first used for. `answer`: what was kept of the first answer → the answer; it may
    raise Refusal. `otherwise` when the key was not used, `unknown` when the store does not say.
    """
    try:
        known = await first()
        if known is None:
            return otherwise
        return Submitted(answer(known.answer), True) if known.fingerprint == fingerprint else reused()
    except Unavailable:
        return unknown
    except EngineError as e:
        return e


def first_answer(kept: bytes, count: int, render: Render, organisation_id: int) -> bytes:
    """What a request of `count` messages was answered the first time. Raises Refusal 409 when that cannot be
    read."""
    try:
        first = kept_answer.unpack(kept, count)
    except kept_answer.Unreadable as e:
        _log.warning("kept answer is unreadable", organisation_id=organisation_id, reason=str(e))
        raise _unreadable() from e
    return kept if first is None else render(first)


def _reserve(credit: CreditMap, organisation_id: int, costs: dict[int, int]) -> tuple[int, list[int]]:
    """Reserve as many of `costs` as there is quota for, in order; returns (units, keys of those left)."""
    total = sum(costs.values())
    if not costs or credit.reserve(organisation_id, total):
        return total, []
    left = [i for i, units in costs.items() if not credit.reserve(organisation_id, units)]
    return total - sum(costs[i] for i in left), left


def _nobody(_: Submitted | Exception) -> None:
    """In place of the client that has gone."""


def reused() -> Refusal:
    """The refusal of a request whose key was used for another."""
    return Refusal(
        "idempotency_key_reused",
        409,
        "This Idempotency-Key was used before with another body; use a new key for a new request.",
        "Idempotency-Key",
    )


def _unreadable() -> Refusal:
    """Of an answer that was kept and cannot be read. Its messages were accepted then, so neither may they be
    admitted again, nor is it of use to repeat the request until the key is forgotten."""
    return Refusal(
        "idempotency_key_used",
        409,
        "This Idempotency-Key was used before for the same request, which was accepted, but its answer"
        " can no longer be read; nothing is sent or charged again.",
        "Idempotency-Key",
    )


def _insufficient(cost: int) -> Refusal:
    return Refusal(
        "insufficient_credit",
        402,
        f"The message needs more units ({cost}) than the organisation has left; top up and send again.",
    )
