"""The SMPP provider with somebody else's SMSC: the server of smpp34, written in Rust."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from engine.providers.smpp.codes import Tag
from tests.providers.scripted import until
from tests.providers.sink import Sink
from tests.providers.smpp.scripted_smsc import RECEIPT, long_message, message, provider_to

smpp34 = pytest.importorskip("smpp34", reason="a second opinion on SMPP: pip install smpp34")


class Smsc:
    """Accepts every message, and may send a receipt for each."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.server = smpp34.Server(host="127.0.0.1", port=port, system_id="smpp34")
        self.esmes: list[Any] = []
        self.submits: list[Any] = []
        self.unbound = 0
        self.receipt_answers: list[Any] = []
        self.decide: Callable[[Any, int], None] = lambda event, number: event.accept(f"{number:08x}")
        self._delivering: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        while True:
            event = await self.server.next()
            if isinstance(event, smpp34.Esme):
                self.esmes.append(event)
            elif isinstance(event, smpp34.SubmitSmEvent):
                self.submits.append(event)
                self.decide(event, len(self.submits))
            elif isinstance(event, smpp34.Unbound):
                self.unbound += 1

    async def deliver(self, **fields: Any) -> None:
        answer = await self.esmes[-1].deliver_sm("Demo", source_addr="989120000001", esm_class=4, **fields)
        self.receipt_answers.append(answer)


@contextlib.asynccontextmanager
async def third_party() -> AsyncIterator[Smsc]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    smsc = Smsc(port)
    await smsc.server.start()
    serving = asyncio.create_task(smsc.serve())
    try:
        yield smsc
    finally:
        serving.cancel()
        await smsc.server.stop()


async def test_it_binds_and_every_message_arrives_as_it_was_sent() -> None:
    async with third_party() as smsc, provider_to(smsc.port, window=20) as (_, verdicts):
        for number in range(300):
            verdicts.submit(message(f"m{number} @£$", to=f"+98912{number:07}"))
        found = await verdicts.all()
        assert {verdict.kind for verdict in found} == {"accepted"}
        assert len({verdict.provider_message_id for verdict in found}) == 300
        got = {(event.destination_addr, bytes(event.short_message)) for event in smsc.submits}
        assert got == {(f"98912{number:07}", b"m%d \0\1\2" % number) for number in range(300)}
        first = smsc.submits[0]
        assert (first.source_addr, first.source_addr_ton, first.dest_addr_ton) == ("Demo", 5, 1)
        assert (first.data_coding, first.registered_delivery) == (0, 1)


async def test_segments_and_their_header_arrive() -> None:
    """It hands submits on in any order, and answers as they come."""
    async with third_party() as smsc, provider_to(smsc.port) as (_, verdicts):
        smsc.decide = lambda event, number: event.accept(f"id{event.short_message[5]}")
        assert (await verdicts.one(long_message(3))).provider_message_id == "id1,id2,id3"
        texts = sorted(bytes(event.short_message) for event in smsc.submits)
        assert [text[:3] + text[4:7] for text in texts] == [
            bytes((5, 0, 3, 3, number)) + letter for number, letter in ((1, b"a"), (2, b"b"), (3, b"c"))
        ]
        assert len({text[3] for text in texts}) == 1
        assert {event.esm_class for event in smsc.submits} == {0x40}


async def test_what_it_refuses_is_refused() -> None:
    def decide(event: Any, number: int) -> None:
        event.reject((smpp34.ESME_RINVDSTADR, smpp34.ESME_RSYSERR)[number - 1])

    async with third_party() as smsc, provider_to(smsc.port) as (_, verdicts):
        smsc.decide = decide
        assert (await verdicts.one()).kind == "permanent"
        assert (await verdicts.one()).kind == "temporary"


async def test_throttled_by_it_a_message_arrives_later() -> None:
    def decide(event: Any, number: int) -> None:
        if number % 2:
            event.reject(smpp34.ESME_RTHROTTLED)
        else:
            event.accept("taken")

    async with third_party() as smsc, provider_to(smsc.port) as (provider, verdicts):
        smsc.decide = decide
        assert (await verdicts.one()).provider_message_id == "taken"
        assert provider.counts.throttled == 1


async def test_its_receipts_are_kept_and_answered() -> None:
    sink = Sink()
    async with third_party() as smsc, provider_to(smsc.port, sink) as (_, verdicts):
        verdict = await verdicts.one()
        text = RECEIPT % (verdict.provider_message_id, "DELIVRD")
        await smsc.deliver(short_message=text.encode())
        await smsc.deliver(
            tlvs=[
                smpp34.Tlv(Tag.receipted_message_id, b"00000001\0"),
                smpp34.Tlv(Tag.message_state, b"\x05"),
            ]
        )
        assert [answer.command_status for answer in smsc.receipt_answers] == [0, 0]
        assert [(r.provider_message_id, r.state) for r in sink.receipts] == [
            ("00000001", "delivered"),
            ("00000001", "undelivered"),
        ]
        sink.keeps = False
        await smsc.deliver(short_message=text.encode())
        assert smsc.receipt_answers[-1].command_status == 0x64


async def test_it_sees_the_session_unbound_in_good_order() -> None:
    async with third_party() as smsc:
        async with provider_to(smsc.port, sessions=2) as (_, verdicts):
            await until(lambda: len(smsc.esmes) == 2)
            await verdicts.one()
        await until(lambda: smsc.unbound == 2)


async def test_unbound_by_it_the_session_is_bound_again() -> None:
    async with third_party() as smsc, provider_to(smsc.port) as (_, verdicts):
        await verdicts.one()
        async with asyncio.timeout(60):
            await smsc.esmes[0].unbind()
        await until(lambda: len(smsc.esmes) == 2)
        assert (await verdicts.one()).kind == "accepted"
