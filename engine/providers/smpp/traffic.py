"""Messages from `submit` to their verdict: sent as there is room, answered, late or lost.

Failures and times: see `engine.providers.smpp.provider`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from engine.problem_records import ProblemKind
from engine.providers.ports import Verdicts
from engine.providers.problems import Problems
from engine.providers.smpp._short_way import accepted_run, add_sendings
from engine.providers.smpp.body import AROUND_IDS, decode_message_id
from engine.providers.smpp.codes import CommandStatus
from engine.providers.smpp.connection import Connection, Line, Segments
from engine.providers.smpp.deliveries import Inbox
from engine.providers.smpp.hints import Hints
from engine.providers.smpp.message import ACCEPTED_CODE, Sending
from engine.providers.smpp.send_queue import Waiting
from engine.providers.smpp.session import Answers, Counts, IncomingBatch
from engine.providers.smpp.verdicts import code, kind
from engine.records import Message, Verdict

_log = structlog.get_logger("smpp")

# (messages, time in microseconds since 1970) to the bodies of the submit_sm of each; a ValueError where there
# can be none.
Encode = Callable[[Sequence[Message], int], list[Sequence[bytes] | ValueError]]

# A message of which the provider has taken nothing is held so long: see `engine.providers.smpp.provider`.
HOLD_S = 1.0
# Messages that may wait for room; the caller's own bound is far below.
_WAITING_MAX = 100_000

# Before the sample of an acceptance without an id, the body of which is often empty.
_WITHOUT_ID = "submit_sm_resp, status 0, without a message_id: "


class Traffic:
    """All messages of one provider that have no verdict yet.

    encode    makes the bodies of messages' submit_sm
    waiting   must know its sessions before the first `submit`
    tick_s    how often `sweep` is called
    """

    def __init__(
        self,
        name: str,
        encode: Encode,
        waiting: Waiting,
        inbox: Inbox,
        counts: Counts,
        problems: Problems,
        *,
        timeout_s: float,
        tick_s: float,
        now_us: Callable[[], int],
    ) -> None:
        self._name = name
        self._encode = encode
        self._waiting = waiting
        self._messages = waiting.messages
        self._inbox = inbox
        self._counts = counts
        self._problems = problems
        self._timeout_s = timeout_s
        self._tick_s = tick_s
        self._now_us = now_us
        # Until this time messages wait although no session is bound.
        self.patient_to_s = 0.0
        self.stopping = False
        self._hints = Hints(name)
        # Set when it is stopping and no message is left.
        self.idle = asyncio.Event()
        # Called when there is something to sweep again.
        self.stir: Callable[[], None] = _nobody

    def submit_all(self, messages: Sequence[Message], first: int, verdicts: Verdicts) -> None:
        """See `engine.providers.ports.BatchProvider`."""
        # One look at each clock for all of them.
        now_s, loop = time.monotonic(), asyncio.get_running_loop()
        begun: list[Sending] = []
        self.stir()
        found = self._encode(messages, self._now_us())
        at = 0
        while (at := add_sendings(begun, found, at, verdicts, first, now_s)) < len(found):
            token, bodies = first + at, found[at]
            at += 1
            if isinstance(bodies, ValueError):
                # SMPP cannot carry it, so no provider could take it this way.
                verdict = Verdict(kind="permanent", provider=self._name, code=f"invalid: {bodies}")
                loop.call_soon(verdicts.ended, token, verdict)
                continue
            begun.append(Sending(verdicts, token, bodies, now_s, len(bodies) == 1))
            if len(bodies) > 1:
                self._counts.segments_unpaid += max(0, len(bodies) - messages[token - first].segments)
        waiting = self._messages
        if not waiting:
            reason = self._hopeless(now_s)
            loop.call_soon(self._waiting.pump_all, now_s)
        else:
            reason = "window" if len(waiting) >= _WAITING_MAX else ""
        if not reason:
            waiting.extend(begun)
            return
        for sending in begun:
            sending.give_up(reason)
            loop.call_soon(self._look, sending, now_s)

    def sweep(self) -> float:
        """Give the verdicts of messages whose time is over. Called every `tick_s`, or after so long as it
        returns, seconds: nothing is late before then, unless `stir` is called."""
        now_s = time.monotonic()
        # Messages that would be overdue at the next sweep end now, so that none ends too late.
        overdue_s = now_s + self._tick_s - self._timeout_s
        for line in self._waiting.lines:
            self._unanswered(line.tick(now_s, overdue_s), "timeout", now_s)
        self._waiting.tick()
        half_s = self._timeout_s / 2
        due_s = now_s + self._tick_s
        for sending in self._waiting.take_older(due_s - min(half_s, HOLD_S), due_s - half_s):
            self._give_up(sending, "window" if self._waiting.open else "not_bound", now_s)
        self._refuse_hopeless(now_s)
        self._waiting.pump_all(now_s)
        self._inbox.sweep(now_s)
        self._look_idle()
        if self.stopping or self._waiting.busy or self._inbox.busy:
            return 0.0
        return min(line.calm_s for line in self._waiting.lines)

    def stop(self) -> None:
        """Begin no further message; `idle` is set once every message that was begun has ended."""
        self.stopping = True
        self.stir()
        for line in self._waiting.lines:
            self._waiting.close_for(line, [])
        self._refuse_hopeless(time.monotonic())
        self._look_idle()

    # -- what the sessions report (`connection.Owner`)

    def bound(self, line: Line) -> None:
        """See `connection.Owner`: messages go out on this line from now on."""
        if line.transmits and not self.stopping:
            self._waiting.open_for(line)
            self._waiting.pump_all(time.monotonic())

    def received(self, line: Line, on: Connection, batch: IncomingBatch[Sending], now_s: float) -> None:
        """See `connection.Owner`: verdicts for what was answered, receipts to the inbox, then more is
        sent."""
        if batch.answers:
            self._answered(line, batch.answers, now_s)
        if batch.deliveries:
            self.stir()
            self._inbox.take(batch.deliveries, on)
        self._waiting.pump(line, now_s, _WAITING_MAX)
        if self.stopping:
            self._look_idle()

    def unbound(self, line: Line, reason: str, sent: Segments, unsent: Segments) -> None:
        """See `connection.Owner`: nothing goes out on this line; its segments get verdicts or another
        line."""
        now_s = time.monotonic()
        self.stir()
        self._waiting.close_for(line, unsent)
        self._unanswered(sent, reason, now_s)
        self._refuse_hopeless(now_s)
        self._waiting.pump_all(now_s)

    # -- one message

    def _answered(self, line: Line, answers: Answers[Sending], now_s: float) -> None:
        accepted = at = 0
        while at < len(answers):
            # Nearly all: what `Sending` comes to when it has one segment, by the short way.
            end, verdicts, tokens, ids, latency_us = accepted_run(answers, at, now_s)
            if verdicts is not None:
                accepted += end - at
                at = end
                verdicts.accepted(tokens, ids, latency_us, ACCEPTED_CODE)
                continue
            (sending, part, _), status, body = answers[at]
            at += 1
            try:
                if status:
                    self._refused(line, sending, part, status, now_s)
                    continue
                accepted += 1
                message_id = _read_id(body, self._name, self._problems)
                if sending.single:
                    took_us = int((now_s - sending.sent_s) * 1e6)
                    sending.verdicts.accepted([sending.token], [message_id], [took_us], ACCEPTED_CODE)
                else:
                    sending.accepted(part, message_id)
                    self._look(sending, now_s)
            except Exception as e:  # a fault in reading one answer costs the others nothing
                _log.error("answer not understood", provider=self._name, exc_info=e)
                self._unanswered([(sending, part, b"")], "fault", now_s)
        line.slowdown.taken(accepted, now_s)

    def _refused(self, line: Line, sending: Sending, part: int, status: int, now_s: float) -> None:
        verdict = kind(status)
        if verdict == "throttled":
            self._counts.throttled += 1
            line.slowdown.throttled(now_s)
            sending.throttled(part, code(status))
            self._waiting.put_off(line, sending)
        else:
            sending.failed(verdict, code(status))
            self._hints.refused(status)
            if status == CommandStatus.ESME_RINVBNDSTS:
                line.bind_anew(now_s)
        self._look(sending, now_s)

    def _unanswered(self, segments: Segments, why: str, now_s: float) -> None:
        """They went out and may have arrived."""
        for sending, *_ in segments:
            sending.failed("unknown", why)
            self._look(sending, now_s)

    def _give_up(self, sending: Sending, why: str, now_s: float) -> None:
        """One that was just taken from a queue."""
        sending.queued = False
        sending.give_up(why)
        self._look(sending, now_s)

    def _look(self, sending: Sending, now_s: float) -> None:
        """Give the verdict if it can be given."""
        if sending.over and not sending.verdict_given:
            sending.verdict_given = True
            sending.verdicts.ended(sending.token, sending.verdict(self._name, now_s))

    # -- all of them

    def _hopeless(self, now_s: float) -> str:
        """Why a message cannot even wait; "" when it can."""
        if self.stopping:
            return "stopped"
        return "not_bound" if not self._waiting.open and now_s >= self.patient_to_s else ""

    def _refuse_hopeless(self, now_s: float) -> None:
        if self._messages and (reason := self._hopeless(now_s)):
            for sending in self._waiting.take_all():
                self._give_up(sending, reason, now_s)

    def _look_idle(self) -> None:
        if self.stopping and not (self._inbox.unanswered or self._waiting.busy):
            self.idle.set()


def _nobody() -> None:
    """Nobody rests."""


def _read_id(body: bytes, name: str, problems: Problems) -> str:
    """The provider's id in the body of an acceptance; "" when it gives none."""
    message_id = decode_message_id(body).replace(",", "%2C").strip(AROUND_IDS)
    if not message_id:
        # Status 0 is the acceptance; but no receipt can name the message by an id of theirs.
        problems.note(name, ProblemKind.answer_unread, body, lead=_WITHOUT_ID)
    return message_id
