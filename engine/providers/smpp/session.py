"""One session of SMPP 3.4 as its client sees it: octets and the time in, octets and events out.

    state      what it waits for                         left by
    new        its connection                            begin
    binding    the answer to its bind                    ESME_ROK: bound; refused, late: ended
    bound      traffic                                   unbind: unbinding; asked to: leaving;
               told that it is not bound: unbinding
    leaving    answers to what it has sent: the provider  all are there, or a second is over: ended
               has asked to unbind, is answered last
    unbinding  the answer to our unbind                  that, or it is late: ended
    ended      nothing; `reason` says why

Commands: 4.1 to 4.11 of the specification (Issue 1.2). No I/O and no clock here: what is to
be written gathers in `out`, and `now_s` is the caller's monotonic clock.

Under failure:
- no answer to a submit: `overdue` hands it out when it is late; an answer that
  comes after that, or twice, or to nothing that was sent, is counted and ignored;
- nothing received for `enquire_link_s`: the provider is asked whether it lives (enquire_link); still
  nothing after the time-out: ended. Any PDU proves that it lives;
- framing lost: answered with generic_nack and ended, because the next answer could go to the
  wrong message;
- a request that a client does not serve: generic_nack with ESME_RINVCMDID;
- the provider has forgotten the session (it was restarted behind a proxy, say) and answers
  ESME_RINVBNDSTS, to a submit or to enquire_link: the session unbinds, and another is bound;
- generic_nack with sequence number 0, by which a provider says that it could not even read a header:
  the answer to the only submit that has none, and counted when there are more;
- deliveries before the answer to our bind: taken. The provider has bound us when it sends them, and
  may send one that is refused never again;
- connection gone: `abandon` separates what may have arrived from what was never sent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from engine.providers.smpp._short_way import pack_submits, take_answers
from engine.providers.smpp.codes import ANSWER, Command, CommandStatus
from engine.providers.smpp.pdu import (
    HEADER_BYTES,
    PDU_BYTES_MAX,
    Pdu,
    Reader,
    pack,
    unpack_header,
)

# How long answers are waited for when the provider has asked to unbind, seconds.
LEAVE_S = 1.0
# Why a session ended whose provider does not know of it.
NOT_BOUND = "not-bound"
_SEQUENCE_MAX = 0x7FFF_FFFF

# Members of an enum are slow to reach; these are needed for every PDU.
_ENQUIRE_LINK = int(Command.enquire_link)
_ENQUIRE_LINK_RESP = int(Command.enquire_link_resp)
_GENERIC_NACK = int(Command.generic_nack)
_UNKNOWN_ERROR = int(CommandStatus.ESME_RUNKNOWNERR)
_NOT_BOUND = int(CommandStatus.ESME_RINVBNDSTS)
_UNBIND = int(Command.unbind)
_UNBIND_RESP = int(Command.unbind_resp)
_DELIVERIES = frozenset({int(Command.deliver_sm), int(Command.data_sm)})
# Requests that have no answer (4.1.7, 4.12).
_UNANSWERED = frozenset({int(Command.outbind), int(Command.alert_notification)})
_BINDS = frozenset({
    int(Command.bind_receiver_resp), int(Command.bind_transmitter_resp), int(Command.bind_transceiver_resp),
})  # fmt: skip


class Timed(Protocol):
    """Whatever is sent: a message."""

    begun_s: float


Token = TypeVar("Token", bound=Timed)
# A submit: the message, which of its segments it is, and the body of its submit_sm.
Segment = tuple[Token, int, bytes]
# Submits, each with the status and the body of its answer.
Answers = list[tuple[Segment[Token], int, bytes]]
State = Literal["new", "binding", "bound", "leaving", "unbinding", "ended"]


class Counts(msgspec.Struct):
    """Counts of what happened at one provider since it was built, all its sessions together."""

    # Sessions bound again after they had been bound before; binds refused; sessions lost.
    rebinds: int = 0
    binds_refused: int = 0
    sessions_lost: int = 0
    # Answers ESME_RTHROTTLED and ESME_RMSGQFUL.
    throttled: int = 0
    # Submits without an answer in time, and answers to nothing that waits for one: late,
    # given twice, or never asked for.
    timeouts: int = 0
    late_responses: int = 0
    # PDUs that could not be read, requests a client does not serve, generic_nacks received.
    wrong_pdus: int = 0
    unknown_commands: int = 0
    generic_nacks: int = 0
    # Receipts taken, receipts the provider was asked to send again, receipts without an id,
    # messages from handsets.
    receipts: int = 0
    receipts_refused: int = 0
    receipts_nameless: int = 0
    mo_dropped: int = 0
    # Messages from handsets that are kept, and those that the provider was asked to send again.
    mo_kept: int = 0
    mo_refused: int = 0
    # Of the receipts taken, those whose state is not known; of the messages from handsets, texts in
    # the form of a receipt.
    receipts_unknown_state: int = 0
    receipts_unmarked: int = 0
    # Segments sent beyond those that were counted at intake: see `text`.
    segments_unpaid: int = 0


class IncomingBatch(NamedTuple, Generic[Token]):
    """What was read in one piece of the stream, for the caller to act on."""

    # Submits with the answer to each.
    answers: Answers[Token]
    # Requests deliver_sm and data_sm, to be answered with `answer_delivery`.
    deliveries: list[Pdu]


class Session(Generic[Token]):
    """One session; see the module. `timeout_s` is for the answers to bind, unbind and enquire_link."""

    __slots__ = (
        "_bind",
        "_bind_body",
        "_counts",
        "_due_s",
        "_enquire_link_s",
        "_enquired",
        "_input_at_s",
        "_reader",
        "_sequence",
        "_timeout_s",
        "_unbind_reason",
        "_unbind_sequence",
        "_written",
        "out",
        "pending",
        "reason",
        "state",
    )  # fmt: skip

    def __init__(
        self, bind: Command, bind_body: bytes, counts: Counts, *, timeout_s: float, enquire_link_s: float
    ) -> None:
        self._bind = int(bind)
        self._bind_body = bind_body
        self._counts = counts
        self._timeout_s = timeout_s
        self._enquire_link_s = enquire_link_s
        self._reader = Reader()
        self._sequence = 0
        # The last sequence number that has left.
        self._written = 0
        self._unbind_sequence = 0
        self._unbind_reason = ""
        self._input_at_s = 0.0
        # When the answer to bind, enquire_link or unbind is late.
        self._due_s = 0.0
        self._enquired = False
        self.state: State = "new"
        self.reason = ""
        # Octets to be written, in order.
        self.out: list[bytes] = []
        # Submits without an answer by sequence number: the window.
        self.pending: dict[int, Segment[Token]] = {}

    def begin(self, now_s: float) -> None:
        """The connection stands: write the bind."""
        self.state = "binding"
        self._input_at_s = now_s
        self._due_s = now_s + self._timeout_s
        self.out.append(pack(self._bind, 0, self._next(), self._bind_body))

    def submit(self, segments: Sequence[Segment[Token]]) -> None:
        """Write each as a submit_sm. Call it only while bound; the caller keeps to the window."""
        octets, self._sequence = pack_submits(segments, self.pending, self._sequence)
        self.out.append(octets)

    def written(self) -> None:
        """All of `out` was written to the connection: empty it."""
        self.out.clear()
        self._written = self._sequence

    def receive(self, data: bytes, now_s: float) -> IncomingBatch[Token]:
        """Read octets of the connection; what the caller must act on."""
        # It cuts the stream as `Reader.feed` does.
        batch: IncomingBatch[Token] = IncomingBatch([], [])
        reader = self._reader
        chunk = reader.begin(data) if self.state != "ended" else b""
        at, end = 0, len(chunk)
        while self.state != "ended":
            # Nearly all octets; what it leaves is cut here.
            at = take_answers(chunk, at, self.pending, batch.answers)
            if end - at < HEADER_BYTES:
                break
            length, command, status, sequence = unpack_header(chunk, at)
            if not HEADER_BYTES <= length <= PDU_BYTES_MAX:
                wrong = reader.lose(length)
                self._counts.wrong_pdus += 1
                self.out.append(pack(_GENERIC_NACK, wrong.status, wrong.sequence or 0))
                self._end("framing")
                break
            after = at + length
            if after > end:
                break
            body = chunk[at + HEADER_BYTES : after]
            at = after
            self._take(Pdu(command, status, sequence, body), batch, now_s)
        reader.keep(chunk, at)
        self._input_at_s = now_s
        if self._enquired:
            self._enquired = False
            self._due_s = 0.0
        return batch

    def answer_delivery(self, delivery: Pdu, status: int) -> None:
        """Answer a request from `IncomingBatch.deliveries`; the id in it is empty, as 4.6.2 wants it."""
        if self.state != "ended":
            self.out.append(pack(delivery.command_id | ANSWER, status, delivery.sequence, b"\0"))

    def overdue(self, begun_s: float) -> list[Segment[Token]]:
        """Take out the submits of messages that were begun at `begun_s` or before.

        All are looked at: this costs nothing when a submit is sent or answered, and they do
        not stand in that order, since a message may have waited before it was sent.
        """
        late = [s for s, segment in self.pending.items() if segment[0].begun_s <= begun_s]
        self._counts.timeouts += len(late)
        return [self.pending.pop(sequence) for sequence in late]

    def tick(self, now_s: float) -> float:
        """Let time pass: ask whether the provider lives, end what is late.

        Returns for how long this has nothing to do as long as nothing is sent, seconds.
        """
        if self.state in ("new", "ended"):
            return 0.0
        if self.state == "leaving" and (not self.pending or now_s >= self._due_s):
            self.out.append(pack(_UNBIND_RESP, 0, self._unbind_sequence))
            self._end("unbound")
        elif self._due_s and now_s >= self._due_s:
            self._end({"binding": "bind-timeout", "unbinding": "unbind-timeout"}.get(self.state, "silent"))
        elif (
            self.state == "bound" and not self._enquired and now_s >= self._input_at_s + self._enquire_link_s
        ):
            self._enquired = True
            self._due_s = now_s + self._timeout_s
            self.out.append(pack(_ENQUIRE_LINK, 0, self._next()))
        if self.state != "bound" or self._enquired:
            return 0.0
        return self._input_at_s + self._enquire_link_s - now_s

    def unbind(self, now_s: float, reason: str = "stopped") -> None:
        """Write the unbind; a session that is not bound ends at once. `reason` says why it ended."""
        if self.state in ("bound", "leaving"):
            self.state = "unbinding"
            self._unbind_reason = reason
            self._enquired = False
            self._due_s = now_s + self._timeout_s
            self.out.append(pack(_UNBIND, 0, self._next()))
        elif self.state != "unbinding":
            self._end(reason)

    def abandon(self, reason: str) -> tuple[list[Segment[Token]], list[Segment[Token]]]:
        """End the session, because its connection is gone or is to be closed. The submits that may have
        arrived, and those that were never sent. `reason` counts unless it had ended before."""
        self._end(reason)
        sent: list[Segment[Token]] = []
        unsent: list[Segment[Token]] = []
        for sequence, segment in self.pending.items():
            # After the numbers have begun anew all count as sent, which is the safe side.
            (unsent if self.out and sequence > self._written else sent).append(segment)
        self.pending.clear()
        self.out.clear()
        return sent, unsent

    def _next(self) -> int:
        self._sequence = self._sequence % _SEQUENCE_MAX + 1
        return self._sequence

    def _end(self, reason: str) -> None:
        if self.state != "ended":
            self.state = "ended"
            self.reason = reason

    def _take(self, pdu: Pdu, batch: IncomingBatch[Token], now_s: float) -> None:
        """Anything but the answer to a submit that waits for one."""
        command = pdu.command_id
        if command in _DELIVERIES:
            batch.deliveries.append(pdu)
        elif command == _GENERIC_NACK and (sequence := _refused_by(pdu, self.pending, self._enquired)):
            self._counts.generic_nacks += 1
            # Such an answer accepts nothing, whatever its status is.
            batch.answers.append((self.pending.pop(sequence), pdu.status or _UNKNOWN_ERROR, pdu.body))
        elif command & ANSWER:
            self._answered(pdu, now_s)
        else:
            self._asked(pdu, now_s)

    def _answered(self, pdu: Pdu, now_s: float) -> None:
        """An answer, but not to a submit."""
        command = pdu.command_id
        if self.state == "binding" and (command in _BINDS or command == _GENERIC_NACK):
            if command == _GENERIC_NACK or pdu.status:
                self._counts.binds_refused += 1
                self._end(f"bind-refused-0x{pdu.status:08X}")
            else:
                self.state = "bound"
                self._due_s = 0.0
        elif command == _UNBIND_RESP and self.state == "unbinding":
            self._end(self._unbind_reason)
        elif command == _ENQUIRE_LINK_RESP and pdu.status == _NOT_BOUND and self.state == "bound":
            self.unbind(now_s, NOT_BOUND)
        elif command == _GENERIC_NACK:
            self._counts.generic_nacks += 1
        elif command != _ENQUIRE_LINK_RESP:
            self._counts.late_responses += 1

    def _asked(self, pdu: Pdu, now_s: float) -> None:
        """A request, but nothing delivered."""
        command, sequence = pdu.command_id, pdu.sequence
        if command == _ENQUIRE_LINK:
            self.out.append(pack(_ENQUIRE_LINK_RESP, 0, sequence))
        elif command == _UNBIND and self.state == "bound":
            self.state = "leaving"
            self._unbind_sequence = sequence
            self._enquired = False
            self._due_s = now_s + LEAVE_S
        elif command == _UNBIND:
            self.out.append(pack(_UNBIND_RESP, 0, sequence))
            self._end("unbound")
        elif command not in _UNANSWERED:
            self._counts.unknown_commands += 1
            self.out.append(pack(_GENERIC_NACK, CommandStatus.ESME_RINVCMDID, sequence))


def _refused_by(nack: Pdu, pending: Collection[int], enquired: bool) -> int:
    """The sequence number of the submit that a generic_nack answers; 0: none.

    One whose own number is 0 answers the only submit there is, unless it may be about an enquire_link.
    """
    if not nack.sequence and len(pending) == 1 and not enquired:
        return next(iter(pending))
    return nack.sequence if nack.sequence in pending else 0
