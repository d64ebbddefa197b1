"""Receipts that a carrier sends by SMPP, and what else it delivers; real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from engine.problem_records import ProblemKind
from engine.providers.smpp.body import ShortMessage, encode_message_id
from engine.providers.smpp.codes import Command, CommandStatus, Tag
from engine.providers.smpp.pdu import Pdu, pack
from engine.receipts.records import Receipt
from tests.providers.scripted import until
from tests.providers.sink import Sink
from tests.providers.smpp.scripted_smsc import RECEIPT, Peer, Verdicts, delivery, provider_to, smsc
from tests.providers.smpp.sm_writer import encode_data_sm


def kinds(verdicts: Verdicts) -> dict[ProblemKind, int]:
    """What the provider has noted since the last call, counted by kind."""
    return {noted.kind: noted.count for noted in verdicts.problems.collect() if noted.provider == "carrier"}


class HeldSink(Sink):
    """Says whether receipts are kept only when the test wants it to."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[Sequence[Receipt], Callable[[bool], None]]] = []

    def put(self, receipts: Sequence[Receipt], stored: Callable[[bool], None]) -> None:
        self.batches.append((receipts, stored))


async def test_a_receipt_is_answered_once_it_is_kept_and_not_before() -> None:
    sink = HeldSink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (provider, verdicts):
        await verdicts.one()
        sequence = carrier.peer.ask(Command.deliver_sm, delivery(RECEIPT % ("id1", "DELIVRD")))
        await until(lambda: len(sink.batches) == 1)
        enquiry = carrier.peer.ask(Command.enquire_link)
        await until(lambda: bool(carrier.peer.answers_to(enquiry)))
        assert not [pdu for pdu in carrier.peer.received if pdu.command_id == Command.deliver_sm_resp]
        [(receipts, stored)] = sink.batches
        assert [(r.provider, r.provider_message_id, r.state, r.to) for r in receipts] == [
            ("carrier", "id1", "delivered", "989120000001")
        ]
        stored(True)
        await until(lambda: bool(carrier.peer.answers_to(sequence)))
        [answer] = [pdu for pdu in carrier.peer.received if pdu.command_id == Command.deliver_sm_resp]
        assert (answer.sequence, answer.status, answer.body) == (sequence, 0, b"\0")
        assert provider.counts.receipts == 1


async def test_a_receipt_that_could_not_be_kept_is_asked_for_again() -> None:
    sink = Sink()
    sink.keeps = False
    async with smsc() as carrier, provider_to(carrier.port, sink) as (provider, verdicts):
        await verdicts.one()
        body = delivery(RECEIPT % ("id1", "UNDELIV"))
        sequence = carrier.peer.ask(Command.deliver_sm, body)
        await until(lambda: bool(carrier.peer.answers_to(sequence)))
        assert carrier.peer.answers_to(sequence)[0].status == CommandStatus.ESME_RX_T_APPN
        sink.keeps = True
        sequence = carrier.peer.ask(Command.deliver_sm, body)
        await until(lambda: bool(carrier.peer.answers_to(sequence)))
        assert carrier.peer.answers_to(sequence)[0].status == 0
        assert [r.state for r in sink.receipts] == ["undelivered"]
        assert (provider.counts.receipts, provider.counts.receipts_refused) == (1, 1)


async def test_receipts_that_come_together_are_kept_together() -> None:
    sink = HeldSink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (_, verdicts):
        await verdicts.one()
        bodies = [delivery(RECEIPT % (f"id{n}", "DELIVRD")) for n in range(30)]
        carrier.peer.write(b"".join(pack(Command.deliver_sm, 0, 100 + n, b) for n, b in enumerate(bodies)))
        await until(lambda: sum(len(receipts) for receipts, _ in sink.batches) == 30)
        assert len(sink.batches) <= 3
        for _, stored in sink.batches:
            stored(True)
        await until(lambda: all(carrier.peer.answers_to(100 + n) for n in range(30)))


async def test_a_receipt_before_the_answer_to_its_message_is_taken() -> None:
    def receipt_first(peer: Peer, pdu: Pdu) -> None:
        peer.ask(Command.deliver_sm, delivery(RECEIPT % ("id1", "DELIVRD")))
        peer.answer(pdu, 0, encode_message_id("id1"))

    sink = Sink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (_, verdicts):
        carrier.on_submit = receipt_first
        assert (await verdicts.one()).provider_message_id == "id1"
        await until(lambda: len(sink.receipts) == 1)


async def test_data_sm_brings_receipts_too() -> None:
    sink = Sink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (_, verdicts):
        await verdicts.one()
        parameters: dict[int, bytes] = {Tag.receipted_message_id: b"id9\0", Tag.message_state: b"\x02"}
        body = encode_data_sm(ShortMessage(source="4912", esm_class=4, parameters=parameters))
        sequence = carrier.peer.ask(Command.data_sm, body)
        await until(lambda: bool(carrier.peer.answers_to(sequence)))
        [answer] = carrier.peer.answers_to(sequence)
        assert (answer.command_id, answer.status) == (Command.data_sm_resp, 0)
        assert [(r.provider_message_id, r.state) for r in sink.receipts] == [("id9", "delivered")]


async def test_a_message_from_a_handset_is_answered_and_dropped() -> None:
    sink = Sink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (provider, verdicts):
        await verdicts.one()
        sequence = carrier.peer.ask(Command.deliver_sm, delivery(RECEIPT % ("id1", "DELIVRD"), esm_class=0))
        await until(lambda: bool(carrier.peer.answers_to(sequence)))
        assert carrier.peer.answers_to(sequence)[0].status == 0
        assert sink.receipts == []
        assert provider.counts.mo_dropped == 1


async def test_a_message_from_a_handset_is_acknowledged_when_it_is_kept_and_else_asked_for_again() -> None:
    inbound: Any = Sink()
    async with smsc() as carrier, provider_to(carrier.port, inbound=inbound) as (provider, verdicts):
        await verdicts.one()
        for keeps, status in ((False, CommandStatus.ESME_RX_T_APPN), (True, 0)):
            inbound.keeps = keeps
            sequence = carrier.peer.ask(Command.deliver_sm, delivery("STOP", esm_class=0))
            answered = partial(carrier.peer.answers_to, sequence)
            await until(lambda found=answered: bool(found()))  # type: ignore[misc]
            assert carrier.peer.answers_to(sequence)[0].status == status
        [(part, _, _)] = inbound.receipts
        assert (part.provider, part.utf16.decode("utf-16-be")) == ("carrier", "STOP")
        counts = provider.counts
        assert (counts.mo_kept, counts.mo_refused, counts.mo_dropped) == (1, 1, 0)


async def test_a_receipt_that_names_no_message_is_refused_and_noted() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (provider, verdicts):
        await verdicts.one()
        sequence = carrier.peer.ask(Command.deliver_sm, delivery("stat:DELIVRD"))
        await until(lambda: bool(carrier.peer.answers_to(sequence)))
        assert carrier.peer.answers_to(sequence)[0].status == CommandStatus.ESME_RX_P_APPN
        assert (provider.counts.receipts_nameless, provider.counts.mo_dropped) == (1, 0)
        assert kinds(verdicts) == {ProblemKind.receipt_unread: 1}


async def test_a_delivery_that_cannot_be_read_is_answered_with_its_fault() -> None:
    async with smsc() as carrier, provider_to(carrier.port) as (provider, verdicts):
        await verdicts.one()
        sequence = carrier.peer.ask(Command.deliver_sm, delivery("Hi")[:20])
        await until(lambda: bool(carrier.peer.answers_to(sequence)))
        assert carrier.peer.answers_to(sequence)[0].status == CommandStatus.ESME_RINVCMDLEN
        assert provider.counts.wrong_pdus == 1
        assert kinds(verdicts) == {ProblemKind.protocol_broken: 1}
        assert (await verdicts.one()).kind == "accepted"


async def test_a_session_that_ended_meanwhile_is_not_answered_and_the_next_one_gets_it_again() -> None:
    sink = HeldSink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (_, verdicts):
        await verdicts.one()
        body = delivery(RECEIPT % ("id1", "DELIVRD"))
        carrier.peer.ask(Command.deliver_sm, body)
        await until(lambda: len(sink.batches) == 1)
        carrier.peer.reset()
        await until(lambda: len(carrier.binds) == 2)
        sink.batches[0][1](True)
        carrier.peer.ask(Command.deliver_sm, body)
        await until(lambda: len(sink.batches) == 2)
        sink.batches[1][1](True)
        await until(lambda: any(p.command_id == Command.deliver_sm_resp for p in carrier.peer.received))


async def test_stopping_waits_for_receipts_to_be_kept() -> None:
    sink = HeldSink()
    async with smsc() as carrier, provider_to(carrier.port, sink) as (provider, verdicts):
        await verdicts.one()
        sequence = carrier.peer.ask(Command.deliver_sm, delivery(RECEIPT % ("id1", "DELIVRD")))
        await until(lambda: len(sink.batches) == 1)
        stopping = asyncio.create_task(provider.stop())
        await asyncio.sleep(0)
        sink.batches[0][1](True)
        await stopping
        assert len(carrier.peer.answers_to(sequence)) == 1
