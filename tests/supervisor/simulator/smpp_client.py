"""SMPP to the simulator, one PDU at a time under a test's control, by the engine's codec."""

from __future__ import annotations

import socket
from collections import deque

from engine.providers.smpp.body import Bind, ShortMessage, decode_short_message, encode_short_message
from engine.providers.smpp.codes import Command
from engine.providers.smpp.pdu import Pdu, Reader, pack
from supervisor.simulator import Simulator
from supervisor.simulator.submit import MESSAGE_ID_TAG


class SmppClient:
    """One connection. Reading fails after 20 seconds, and with ConnectionResetError at its end."""

    def __init__(self, simulator: Simulator | int) -> None:
        port = simulator if isinstance(simulator, int) else simulator.smpp_port
        assert port is not None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._reader = Reader()
        self._read: deque[Pdu] = deque()
        self._sequence = 0

    def __enter__(self) -> SmppClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def write(self, command: int, body: bytes = b"", *, status: int = 0, sequence: int = 0) -> int:
        """Its sequence number, the next one unless given."""
        if not sequence:
            self._sequence += 1
            sequence = self._sequence
        self.socket.sendall(pack(command, status, sequence, body))
        return sequence

    def read(self) -> Pdu:
        while not self._read:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionResetError("closed")
            for pdu in self._reader.feed(data):
                assert isinstance(pdu, Pdu), pdu
                self._read.append(pdu)
        return self._read.popleft()

    def ask(self, command: int, body: bytes = b"") -> Pdu:
        """The answer to a request, which has to be what comes next."""
        sequence = self.write(command, body)
        answer = self.read()
        assert (answer.command_id, answer.sequence) == (command | 0x80000000, sequence)
        return answer

    def bind(
        self, command: int = Command.bind_transceiver, system_id: str = "demo", password: str = "word"
    ) -> Pdu:
        return self.ask(command, Bind(system_id, password).encode())

    def submit(self, message: ShortMessage) -> int:
        return self.write(Command.submit_sm, encode_short_message(message))

    def receipt(self, status: int = 0) -> ShortMessage:
        """The next PDU, which has to be a deliver_sm; it is answered with `status`."""
        pdu = self.read()
        assert pdu.command_id == Command.deliver_sm, pdu
        self.write(Command.deliver_sm_resp, b"\0", status=status, sequence=pdu.sequence)
        return decode_short_message(pdu.body)

    def is_alive(self) -> bool:
        return self.ask(Command.enquire_link).status == 0


def bound(
    simulator: Simulator | int, command: int = Command.bind_transceiver, system_id: str = "demo"
) -> SmppClient:
    client = SmppClient(simulator)
    assert client.bind(command, system_id).status == 0
    return client


def message_of(message_id: str = "", text: bytes = b"hi", **fields: object) -> ShortMessage:
    """To +98912; named by the parameter that the simulator counts by, unless `message_id` is ""."""
    given = {
        "source_ton": 5, "source": "Demo", "destination_ton": 1, "destination_npi": 1,
        "destination": "98912", "registered_delivery": 1, "short_message": text,
        "parameters": {MESSAGE_ID_TAG: message_id.encode()} if message_id else {}, **fields,
    }  # fmt: skip
    return ShortMessage(**given)  # type: ignore[arg-type]
