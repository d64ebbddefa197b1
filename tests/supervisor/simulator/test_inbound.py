"""Messages that a recipient writes: the simulator brings them over SMPP, until they are acknowledged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.inbound.assembly import assemble
from engine.inbound.records import KeptPart
from engine.providers.settings import SmppSettings
from engine.providers.smpp.body import decode_short_message
from engine.providers.smpp.codes import Command, CommandStatus
from engine.providers.smpp.inbound import InboundReader
from engine.stream_id import StreamId
from supervisor.simulator import Simulator, start_simulator
from tests.supervisor.simulator.http_client import ask
from tests.supervisor.simulator.smpp_client import SmppClient, bound

WRITTEN = {"from": "+4915112345678", "to": "12345", "text": "STOP"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    simulator = start_simulator(smpp_listen="127.0.0.1:0")
    yield simulator
    simulator.stop()


def acknowledged(client: SmppClient, status: int = 0) -> bytes:
    pdu = client.read()
    assert pdu.command_id == Command.deliver_sm
    client.write(Command.deliver_sm_resp, b"\0", sequence=pdu.sequence, status=status)
    return pdu.body


@pytest.mark.parametrize("text", ["STOP", "x" * 400, "سلام 😀" * 40, ""])
def test_a_message_is_brought_in_parts_that_the_engine_puts_together(simulator: Simulator, text: str) -> None:
    reader = InboundReader(SmppSettings(name="a", host="h", system_id="me"))
    with bound(simulator) as client:
        parts = ask(simulator, "POST", "/inbound", WRITTEN | {"text": text}).json["parts"]
        kept = []
        for number in range(parts):
            read = reader.read(decode_short_message(acknowledged(client)), 7)
            assert read is not None
            kept.append(KeptPart(StreamId(number, 0), read[0]))
        [message] = assemble(kept, 7, 100)
        assert (message.text, message.first.sender, message.first.recipient) == (
            text,
            "+4915112345678",
            "12345",
        )
        assert client.is_alive()


def test_one_that_is_refused_is_brought_again(simulator: Simulator) -> None:
    with bound(simulator) as client:
        ask(simulator, "POST", "/inbound", WRITTEN)
        first = acknowledged(client, int(CommandStatus.ESME_RX_T_APPN))
        assert acknowledged(client) == first
        assert client.is_alive()


def test_what_cannot_be_brought_is_refused(simulator: Simulator) -> None:
    for body, status in (
        (WRITTEN, 409),
        ({"from": "1"}, 400),
        (WRITTEN | {"url": "ftp://x"}, 400),
        (WRITTEN | {"more": 1}, 400),
    ):
        assert ask(simulator, "POST", "/inbound", body).status == status
