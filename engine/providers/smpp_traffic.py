"""Which segment goes out when and on which session, and the verdict when all is said.

A message's segments go out on one session, in order, as its window and its slowdown allow;
what finds no room on any session waits here, first come first served. Only what a session
lost before it was sent moves to another. Failures and times: see `engine.providers.smpp`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from engine.ports import Done
from engine.providers.smpp_body import MESSAGE_ID_OCTETS, decode_message_id
from engine.providers.smpp_connection import Connection, Line, Segments
from engine.providers.smpp_inbox import Inbox
from engine.providers.smpp_pdu import Pdu
from engine.providers.smpp_sending import ACCEPTED_CODE, Sending
from engine.providers.smpp_session import Answers, Counts, Heard
from engine.providers.smpp_verdicts import code, kind
from engine.records import Message, Verdict, VerdictKind

# Given a message and the time of day, microseconds.
Encode = Callable[[Message, int], list[bytes]]

# Messages that may wait for room; the caller's own bound is far below.
_WAITING_MAX = 100_000


class Traffic:
    """All messages of one provider that have no verdict yet.

    encode    the bodies of a message's submit_sm; raises ValueError for what has none
    tick_s    how often `sweep` is called
    """

    def __init__(
        self, name: str, encode: Encode, inbox: Inbox, counts: Counts, *, timeout_s: float, tick_s: float
    ) -> None:
        self._name = name
        self._encode = encode
        self._inbox = inbox
        self._counts = counts
        self._timeout_s = timeout_s
        self._tick_s = tick_s
        # Sessions that carry messages now, and whose turn it is.
        self._open: list[Line] = []
        self._turn = 0
        # Messages that wait for a session with room.
        self._waiting: deque[Sending] = deque()
        # Until then they wait even while no session is bound.
        self.patient_to_s = 0.0
        # The time, monotonic and of day, while callbacks are told verdicts; else 0.
        self._turn_s = 0.0
        self._turn_us = 0
        self.lines: list[Line] = []
        self.stopping = False
        self.idle = asyncio.Event()

    def submit(self, message: Message, done: Done) -> None:
        """See `engine.ports.Provider`."""
        try:
            bodies = self._encode(message, self._turn_us or time.time_ns() // 1000)
        except ValueError as e:
            # No carrier that is spoken to by SMPP could take it.
            verdict = Verdict(kind="permanent", provider=self._name, code=f"invalid: {e}")
            asyncio.get_running_loop().call_soon(tell, done, verdict)
            return
        now_s = self._turn_s or time.monotonic()
        sending = Sending(done, bodies, now_s, len(bodies) == 1)
        waiting = self._waiting
        if not waiting:
            if reason := self._hopeless(now_s):
                self._refuse(sending, reason)
                return
            # Once for all that is submitted in this turn of the loop.
            asyncio.get_running_loop().call_soon(self._pump_all)
        elif len(waiting) >= _WAITING_MAX:
            self._refuse(sending, "window")
            return
        waiting.append(sending)

    def sweep(self) -> None:
        """Let time pass."""
        now_s = time.monotonic()
        # What would be overdue at the next sweep ends now: within the time-out, not after.
        overdue_s = now_s + self._tick_s - self._timeout_s
        unsent_s = overdue_s + self._timeout_s / 2
        for line in self.lines:
            for late, *_ in line.tick(now_s, overdue_s):
                self._fail(late, "unknown", "timeout", now_s)
            line.queue.extend(line.later)
            line.later.clear()
            for sending in [s for s in line.queue if s.begun_s <= unsent_s]:
                line.queue.remove(sending)
                self._give_up(sending, "window", now_s)
        while self._waiting and self._waiting[0].begun_s <= unsent_s:
            self._give_up(self._waiting.popleft(), "window", now_s)
        if self._waiting and (reason := self._hopeless(now_s)):
            self.refuse_waiting(reason)
        self._pump_all()
        self._look_idle()

    def refuse_waiting(self, reason: str) -> None:
        """Give up what has a segment to send and no session for it."""
        now_s = time.monotonic()
        refused, self._waiting = self._waiting, deque()
        for sending in refused:
            self._give_up(sending, reason, now_s)

    def stop(self) -> None:
        """Begin nothing any more; `idle` is set once all that was begun has ended."""
        self.stopping = True
        for line in self.lines:
            self._move(line)
        self.refuse_waiting("stopped")
        self._look_idle()

    # -- what the sessions report (`smpp_connection.Owner`)

    def bound(self, line: Line) -> None:
        if line.transmits:
            self._open.append(line)
            self._pump_all()

    def heard(self, line: Line, on: Connection, heard: Heard[Sending], now_s: float) -> None:
        if heard.answers:
            # While callbacks run, time stands still for what they submit.
            self._turn_s, self._turn_us = now_s, time.time_ns() // 1000
            try:
                self._answered(line, heard.answers, now_s)
            finally:
                self._turn_s = self._turn_us = 0
        if heard.deliveries:
            self._inbox.take(heard.deliveries, on)
        self._pump(line, now_s, _WAITING_MAX)
        if self.stopping:
            self._look_idle()

    def unbound(self, line: Line, reason: str, sent: Segments, unsent: Segments) -> None:
        now_s = time.monotonic()
        if line in self._open:
            self._open.remove(line)
        for sending, part, _ in unsent:
            sending.give_back(part)
            if sending.wants and not sending.queued:
                sending.queued = True
                line.queue.append(sending)
        self._move(line)
        for sending, *_ in sent:
            self._fail(sending, "unknown", reason, now_s)
        if self._waiting and (hopeless := self._hopeless(now_s)):
            self.refuse_waiting(hopeless)
        self._pump_all()

    # -- one message

    def _answered(self, line: Line, answers: Answers[Sending], now_s: float) -> None:
        name, accepted, sent_s, latency_us = self._name, 0, -1.0, 0
        for (sending, part, _), pdu in answers:
            if pdu.status:
                self._refused(line, sending, part, pdu, now_s)
                continue
            accepted += 1
            # As `decode_message_id`, in a third of its time, for ids as they should be.
            message_id = pdu.body.rstrip(b"\0").decode("latin-1")
            if "," in message_id or "\0" in message_id or len(message_id) >= MESSAGE_ID_OCTETS:
                message_id = decode_message_id(pdu.body).replace(",", "%2C")
            if not sending.single:
                sending.accepted(part, message_id)
                self._look(sending, now_s)
                continue
            # Nearly all: what `Sending` comes to when it has one segment, by the short way.
            if sending.sent_s != sent_s:
                sent_s = sending.sent_s
                latency_us = int((now_s - sent_s) * 1e6)
            verdict = Verdict(
                kind="accepted", provider=name, provider_message_id=message_id, code=ACCEPTED_CODE,
                latency_us=latency_us,
            )  # fmt: skip
            try:
                sending.done(verdict)
            except Exception as e:  # as in `tell`, which would be one call more
                report(e)
        line.slowdown.taken(accepted, now_s)

    def _refused(self, line: Line, sending: Sending, part: int, pdu: Pdu, now_s: float) -> None:
        verdict = kind(pdu.status)
        if verdict == "throttled":
            self._counts.throttled += 1
            line.slowdown.throttled(now_s)
            sending.throttled(part, code(pdu.status))
            if sending in line.queue:
                line.queue.remove(sending)
                sending.queued = False
            if sending.wants and not sending.queued:
                sending.queued = True
                line.later.append(sending)
        else:
            sending.failed(verdict, code(pdu.status))
        self._look(sending, now_s)

    def _fail(self, sending: Sending, verdict: VerdictKind, why: str, now_s: float) -> None:
        sending.failed(verdict, why)
        self._look(sending, now_s)

    def _give_up(self, sending: Sending, why: str, now_s: float) -> None:
        """One that was just taken from a queue."""
        sending.queued = False
        sending.give_up(why)
        self._look(sending, now_s)

    def _refuse(self, sending: Sending, why: str) -> None:
        """One that was never begun; not from inside `submit`."""
        sending.give_up(why)
        asyncio.get_running_loop().call_soon(self._look, sending, 0.0)

    def _look(self, sending: Sending, now_s: float) -> None:
        """Give the verdict if it can be given."""
        if sending.over and not sending.told:
            sending.told = True
            tell(sending.done, sending.verdict(self._name, now_s))

    # -- the queues

    def _pump_all(self) -> None:
        """Send what waits, by even shares as far as windows allow."""
        now_s = time.monotonic()
        lines = self._open
        for left in range(len(lines), 0, -1):
            self._turn = (self._turn + 1) % len(lines)
            line = lines[self._turn]
            self._pump(line, now_s, -(-len(self._waiting) // left))
            line.flush()

    def _pump(self, line: Line, now_s: float, share: int) -> None:
        """Send what waits, as far as this session has room; of new messages at most `share`."""
        room = line.room(now_s)
        if not room:
            return
        queue, waiting = line.queue, self._waiting
        segments: Segments = []
        while len(segments) < room:
            if queue:
                sending = queue.popleft()
            elif share > 0 and waiting:
                sending = waiting.popleft()
                share -= 1
                if sending.single and not sending.sent_s:
                    # Nearly all: as below, by the short way (see `Sending`).
                    sending.sent_s = now_s
                    segments.append((sending, 0, sending.bodies[0]))
                    continue
            else:
                break
            sending.queued = False
            while sending.wants:
                if len(segments) == room:
                    sending.queued = True
                    queue.appendleft(sending)
                    break
                part = sending.take(now_s)
                segments.append((sending, part, sending.bodies[part]))
        line.send(segments)

    def _move(self, line: Line) -> None:
        """What is queued for a session that carries no more goes before all that waits."""
        self._waiting.extendleft(reversed([*line.queue, *line.later]))
        line.queue.clear()
        line.later.clear()

    def _hopeless(self, now_s: float) -> str:
        """Why a message cannot even wait; "" when it can."""
        if self.stopping:
            return "stopped"
        return "not_bound" if not self._open and now_s >= self.patient_to_s else ""

    def _look_idle(self) -> None:
        busy = self._inbox.owed or self._waiting or any(line.busy for line in self.lines)
        if self.stopping and not busy:
            self.idle.set()


def tell(done: Done, verdict: Verdict) -> None:
    """Call back; a fault of the caller's is reported to the loop and costs nobody else a verdict."""
    try:
        done(verdict)
    except Exception as e:  # whatever it is, other messages wait behind this one
        report(e)


def report(fault: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": "A message's callback failed.", "exception": fault}
    )
