"""What a provider sends without being asked: receipts, by deliver_sm or data_sm, and messages from
handsets.

A receipt is answered ESME_ROK only when it is kept for good. The provider sends an unanswered one
again, so none is lost, whatever dies in between. Messages from handsets (MO) are answered, counted
and dropped: the engine has no use for them.

    what came                          answer                   when
    receipt, kept                      ESME_ROK                 when the sink says so
    receipt, the sink could not        ESME_RX_T_APPN           when the sink says so
    receipt, too many unanswered       ESME_RX_T_APPN           at once
    a receipt that names no message    ESME_ROK                 at once
    no receipt                         ESME_ROK                 at once
    cannot be read                     the fault's status       at once

Killed or frozen before the answer: the provider sends it again, on this session or the next.
Answered twice: never. The session ended meanwhile: not answered, and so sent again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from engine.providers.problems import ProblemKind, Problems
from engine.providers.smpp.body import decode_data_sm, decode_short_message
from engine.providers.smpp.codes import Command, CommandStatus
from engine.providers.smpp.pdu import Pdu, WrongPdu
from engine.providers.smpp.receipt import is_receipt, receipt
from engine.providers.smpp.session import Counts
from engine.receipts.ports import ReceiptSink
from engine.receipts.records import Receipt

# Receipts of one provider that may wait for the sink.
UNANSWERED_MAX = 10_000
_DATA_SM = int(Command.data_sm)


class Answering(Protocol):
    """The session that the deliveries came on."""

    def answer(self, deliveries: Sequence[Pdu], status: int) -> None:
        """Answer these deliveries with a status; does nothing once the session has ended."""


class Inbox:
    """Takes the deliveries of all sessions of the provider `name`."""

    def __init__(self, name: str, receipts: ReceiptSink, counts: Counts, problems: Problems) -> None:
        self._name = name
        self._receipts = receipts
        self._counts = counts
        self._problems = problems
        # Receipts given to the sink that are neither kept nor refused yet.
        self.unanswered = 0

    def take(self, deliveries: Sequence[Pdu], answering: Answering) -> None:
        """Take deliveries that were read together: their receipts go to the sink together."""
        at_us = time.time_ns() // 1000
        found: list[Receipt] = []
        kept: list[Pdu] = []
        for pdu in deliveries:
            try:
                decode = decode_data_sm if pdu.command_id == _DATA_SM else decode_short_message
                message = decode(pdu.body)
            except WrongPdu as e:
                self._counts.wrong_pdus += 1
                self._problems.note(self._name, ProblemKind.protocol_broken, pdu.body)
                answering.answer((pdu,), e.status)
                continue
            one = receipt(message, self._name, at_us)
            if one is None:
                if is_receipt(message):
                    self._counts.receipts_nameless += 1
                    self._problems.note(self._name, ProblemKind.receipt_unread, pdu.body)
                else:
                    self._counts.mo_dropped += 1
                answering.answer((pdu,), CommandStatus.ESME_ROK)
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

    def _stored(self, deliveries: Sequence[Pdu], answering: Answering, kept: bool) -> None:
        self.unanswered -= len(deliveries)
        if kept:
            self._counts.receipts += len(deliveries)
        else:
            self._counts.receipts_refused += len(deliveries)
        answering.answer(deliveries, CommandStatus.ESME_ROK if kept else CommandStatus.ESME_RX_T_APPN)
