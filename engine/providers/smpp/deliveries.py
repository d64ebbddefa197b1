"""What a provider sends without being asked: receipts, by deliver_sm or data_sm, and messages from
handsets.

A receipt, or a message from a handset (MO), is answered ESME_ROK only when it is kept for good. The provider
sends an unanswered one again, so none is lost, whatever dies in between. Where nothing takes messages from
handsets (`smsengine provider test`), they are answered, counted and dropped.

    what came                          answer                   when
    receipt, kept                      ESME_ROK                 when the sink says so
    receipt, the sink could not        ESME_RX_T_APPN           when the sink says so
    receipt, too many unanswered       ESME_RX_T_APPN           at once
    receipt whose state is not known   ESME_ROK                 as the first: it is kept as pending
    a receipt that names no message    ESME_RX_P_APPN           at once, again: slowly
    message, kept                      ESME_ROK                 when the sink says so
    message, the sink could not        ESME_RX_T_APPN           when the sink says so
    neither of both                    ESME_ROK                 at once
    cannot be read                     ESME_RINVCMDLEN          at once, again: slowly
    a fault of ours in reading it      ESME_RX_T_APPN           at once, again: slowly

What was not understood is never answered ESME_ROK: the provider would hold it for delivered to us,
and nobody would ask it why. ESME_RX_P_APPN is the status that says "not now and not later" (5.1.3), so a
provider that knows it does not send the receipt again; ESME_RX_T_APPN would ask for it. Others send
again whatever they are told, some at once, and so for ever at full speed. So a delivery that comes
again with the same octets is answered later each time, up to REPEAT_S_MAX: such a provider sends it no faster
than its window allows in that time. The first of each is answered at once, so that a few that
cannot be read do not hold up the good ones behind them in the window.

Killed or frozen before the answer: the provider sends it again, on this session or the next.
Answered twice: never. The session ended meanwhile: not answered, and so sent again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import structlog

from engine.inbound.ports import InboundSink
from engine.problem_records import ProblemKind
from engine.providers.problems import Problems
from engine.providers.smpp.body import ShortMessage, decode_data_sm, decode_short_message
from engine.providers.smpp.codes import Command, CommandStatus
from engine.providers.smpp.inbound import InboundReader
from engine.providers.smpp.pdu import Pdu, WrongPdu
from engine.providers.smpp.receipt import ReceiptReader
from engine.providers.smpp.session import Counts
from engine.receipts.ports import ReceiptSink
from engine.receipts.records import Receipt

_log = structlog.get_logger("smpp")

# Receipts of one provider that may wait for the sink.
UNANSWERED_MAX = 10_000
# How much later a delivery that was refused is answered each time it comes again, at most, seconds.
REPEAT_S, REPEAT_S_MAX = 1.0, 8.0
# How many refused deliveries are known again, and how many of them may wait for their answer.
_REFUSED_KEPT, _WAITING_MAX = 4096, 1000
_DATA_SM = int(Command.data_sm)


class Answering(Protocol):
    """The session that the deliveries came on."""

    def answer(self, deliveries: Sequence[Pdu], status: int) -> None:
        """Answer these deliveries with a status; does nothing once the session has ended."""


class _Late(NamedTuple):
    """A refusal that is due at a time of the monotonic clock."""

    due_s: float
    pdu: Pdu
    status: int
    answering: Answering


class Messages(NamedTuple):
    """What reads messages from handsets, and where they go."""

    reader: InboundReader
    sink: InboundSink


class Inbox:
    """Takes the deliveries of all sessions of the provider `name`; `reader` says what each of them is."""

    def __init__(
        self,
        name: str,
        reader: ReceiptReader,
        receipts: ReceiptSink,
        counts: Counts,
        problems: Problems,
        now_us: Callable[[], int],
        messages: Messages | None = None,
    ) -> None:
        """`messages`: what reads messages from handsets, and where they go; None: they are dropped."""
        self._messages = messages
        self._name = name
        self._reader = reader
        self._receipts = receipts
        self._counts = counts
        self._problems = problems
        self._now_us = now_us
        # Receipts given to the sink that are neither kept nor refused yet.
        self.unanswered = 0
        # How often each of the deliveries refused last has come, by the hash of its octets.
        self._refused: dict[int, int] = {}
        self._late: deque[_Late] = deque()

    def take(self, deliveries: Sequence[Pdu], answering: Answering) -> None:
        """Take deliveries that were read together: their receipts go to the sink together."""
        at_us = self._now_us()
        found: list[Receipt] = []
        kept: list[Pdu] = []
        for pdu in deliveries:
            try:
                decode = decode_data_sm if pdu.command_id == _DATA_SM else decode_short_message
                one, problem = self._reader.read(decode(pdu.body), at_us)
            except WrongPdu as e:
                self._counts.wrong_pdus += 1
                self._problems.note(self._name, ProblemKind.protocol_broken, pdu.body)
                self._refuse(pdu, e.status, answering)
                continue
            except Exception as e:  # a fault in reading one delivery costs the others nothing
                _log.error("delivery not understood", provider=self._name, exc_info=e)
                self._note(ProblemKind.receipt_unread, pdu)
                self._refuse(pdu, CommandStatus.ESME_RX_T_APPN, answering)
                continue
            if problem is not None:
                self._note(problem, pdu)
            if one is None:
                if problem is ProblemKind.receipt_unread:
                    self._refuse(pdu, CommandStatus.ESME_RX_P_APPN, answering)
                else:
                    self._take_message(pdu, decode(pdu.body), at_us, answering)
            elif self.unanswered >= UNANSWERED_MAX:
                self._counts.receipts_refused += 1
                answering.answer((pdu,), CommandStatus.ESME_RX_T_APPN)
            else:
                self.unanswered += 1
                found.append(one)
                kept.append(pdu)
        if found:
            stored: Callable[[bool], None] = partial(self._stored, kept, answering)
            self._receipts.put(found, stored)

    def _take_message(self, pdu: Pdu, message: ShortMessage, at_us: int, answering: Answering) -> None:
        part = self._messages.reader.read(message, at_us) if self._messages else None
        if self._messages is None or part is None:
            self._counts.mo_dropped += 1
            answering.answer((pdu,), CommandStatus.ESME_ROK)
        elif self.unanswered >= UNANSWERED_MAX:
            self._counts.mo_refused += 1
            answering.answer((pdu,), CommandStatus.ESME_RX_T_APPN)
        else:
            self.unanswered += 1
            self._messages.sink.put((part,), partial(self._message_stored, pdu, answering))

    def _message_stored(self, pdu: Pdu, answering: Answering, kept: bool) -> None:
        self.unanswered -= 1
        if kept:
            self._counts.mo_kept += 1
        else:
            self._counts.mo_refused += 1
        answering.answer((pdu,), CommandStatus.ESME_ROK if kept else CommandStatus.ESME_RX_T_APPN)

    @property
    def busy(self) -> bool:
        """Whether deliveries are not answered yet."""
        return bool(self.unanswered or self._late)

    def sweep(self, now_s: float) -> None:
        """Give the refusals that are due."""
        late = self._late
        for _ in range(len(late)):
            refusal = late.popleft()
            if refusal.due_s <= now_s:
                refusal.answering.answer((refusal.pdu,), refusal.status)
            else:
                late.append(refusal)

    def _note(self, problem: ProblemKind, pdu: Pdu) -> None:
        self._problems.note(self._name, problem, pdu.body)
        match problem:
            case ProblemKind.receipt_state:
                self._counts.receipts_unknown_state += 1
            case ProblemKind.receipt_unmarked:
                self._counts.receipts_unmarked += 1
                if self._counts.receipts_unmarked == 1:
                    _log.warning(
                        "a text looks like a receipt but is not marked as one, so it is taken for a message "
                        "from a handset; if this provider marks none, set receipts_by_text",
                        provider=self._name,
                        setting=f"providers.{self._name}.receipts_by_text",
                    )
            case _:
                self._counts.receipts_nameless += 1

    def _refuse(self, pdu: Pdu, status: int, answering: Answering) -> None:
        """Answer at once, or later when the same octets were refused before: see the top."""
        refused, key = self._refused, hash(pdu.body)
        times = refused.pop(key, 0)
        refused[key] = times + 1
        if len(refused) > _REFUSED_KEPT:
            del refused[next(iter(refused))]
        if times and len(self._late) < _WAITING_MAX:
            pause_s = min(REPEAT_S * 2 ** min(times - 1, 10), REPEAT_S_MAX)
            self._late.append(_Late(time.monotonic() + pause_s, pdu, status, answering))
        else:
            answering.answer((pdu,), status)

    def _stored(self, deliveries: Sequence[Pdu], answering: Answering, kept: bool) -> None:
        self.unanswered -= len(deliveries)
        if kept:
            self._counts.receipts += len(deliveries)
        else:
            self._counts.receipts_refused += len(deliveries)
        answering.answer(deliveries, CommandStatus.ESME_ROK if kept else CommandStatus.ESME_RX_T_APPN)
