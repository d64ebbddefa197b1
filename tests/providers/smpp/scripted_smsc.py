"""A carrier's SMSC of a few lines that does just what a test wants, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

from engine.inbound.ports import InboundSink
from engine.providers.problems import Problems
from engine.providers.settings import SmppSettings
from engine.providers.smpp.body import (
    ShortMessage,
    decode_bind,
    decode_short_message,
    encode_bind_resp,
    encode_message_id,
    encode_short_message,
)
from engine.providers.smpp.codes import ANSWER, Command, CommandStatus
from engine.providers.smpp.pdu import Pdu, Reader, pack
from engine.providers.smpp.provider import SmppProvider
from engine.records import Message, Verdict
from tests.providers.scripted import until
from tests.providers.sink import Sink

BINDS = {Command.bind_receiver, Command.bind_transmitter, Command.bind_transceiver}
RECEIPT = "id:%s sub:001 dlvrd:001 submit date:2611221200 done date:2611221201 stat:%s err:000 text:Hi"


class Peer(asyncio.Protocol):
    """One connection of the client under test."""

    def __init__(self, smsc: ScriptedSmsc) -> None:
        self.smsc = smsc
        self.reader = Reader()
        self.bind: int = 0
        self.received: list[Pdu] = []
        self.closed = False
        self.sequences = itertools.count(1)

    def answer(self, request: Pdu, status: int = 0, body: bytes = b"") -> None:
        self.write(pack(request.command_id | ANSWER, status, request.sequence, body))

    def accept(self, submit: Pdu, message_id: str | None = None) -> None:
        self.answer(submit, 0, encode_message_id(self.smsc.next_id() if message_id is None else message_id))

    def ask(self, command: int, body: bytes = b"") -> int:
        """Send a request; its sequence number."""
        sequence = next(self.sequences)
        self.write(pack(command, 0, sequence, body))
        return sequence

    def write(self, raw: bytes) -> None:
        self.transport.write(raw)

    def close(self) -> None:
        """In good order (FIN), as far as what it has written."""
        self.transport.close()

    def reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def answers_to(self, sequence: int) -> list[Pdu]:
        """What the client has answered to our request."""
        return [pdu for pdu in self.received if pdu.command_id & ANSWER and pdu.sequence == sequence]

    def asked(self, command: int) -> list[Pdu]:
        return [pdu for pdu in self.received if pdu.command_id == command]

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.smsc.peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True

    def data_received(self, data: bytes) -> None:
        for pdu in self.reader.feed(data):
            assert isinstance(pdu, Pdu), pdu
            self.received.append(pdu)
            if pdu.command_id in BINDS:
                self.bind = pdu.command_id
                self.smsc.on_bind(self, pdu)
            elif pdu.command_id == Command.submit_sm:
                self.smsc.submits.append((self, pdu))
                self.smsc.on_submit(self, pdu)
            elif pdu.command_id == Command.enquire_link:
                self.smsc.on_enquire_link(self, pdu)
            elif pdu.command_id == Command.unbind:
                self.answer(pdu)


Script = Callable[[Peer, Pdu], None]


def nothing(peer: Peer, pdu: Pdu) -> None:
    """Leaves the client without an answer."""


def accept_bind(peer: Peer, pdu: Pdu) -> None:
    peer.answer(pdu, 0, encode_bind_resp("scripted"))


class ScriptedSmsc:
    """What came in; how it is answered may be changed at any time."""

    def __init__(self) -> None:
        self.port = 0
        self.on_bind: Script = accept_bind
        self.on_submit: Script = Peer.accept
        self.on_enquire_link: Script = Peer.answer
        self.peers: list[Peer] = []
        self.submits: list[tuple[Peer, Pdu]] = []
        self._ids = itertools.count(1)
        self._server: asyncio.Server | None = None

    def next_id(self) -> str:
        return f"id{next(self._ids)}"

    @property
    def peer(self) -> Peer:
        """The connection made last."""
        return self.peers[-1]

    @property
    def texts(self) -> list[bytes]:
        return [decode_short_message(pdu.body).short_message for _, pdu in self.submits]

    @property
    def binds(self) -> list[Pdu]:
        return [pdu for peer in self.peers for pdu in peer.received if pdu.command_id in BINDS]

    def bound(self, count: int = 1) -> bool:
        """So many connections are open and have asked to be bound."""
        return sum(bool(peer.bind) and not peer.closed for peer in self.peers) >= count

    def system_ids(self) -> list[str]:
        return [decode_bind(pdu.body).system_id for pdu in self.binds]

    async def listen(self, context: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        self.stop_listening()
        for peer in self.peers:
            peer.transport.abort()


@contextlib.asynccontextmanager
async def smsc(context: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedSmsc]:
    scripted = ScriptedSmsc()
    await scripted.listen(context)
    try:
        yield scripted
    finally:
        scripted.close()


def settings(port: int, **changes: object) -> SmppSettings:
    values: dict[str, object] = {
        "name": "carrier", "host": "127.0.0.1", "port": port, "system_id": "me", "password": "secret",
        "timeout_s": 5.0, "reconnect_s": 0.02, "reconnect_max_s": 0.1, **changes,
    }  # fmt: skip
    return SmppSettings(**values)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def provider_to(
    port: int, sink: Sink | None = None, inbound: InboundSink | None = None, **changes: object
) -> AsyncIterator[tuple[SmppProvider, Verdicts]]:
    problems = Problems()
    provider = SmppProvider(settings(port, **changes), sink or Sink(), problems, inbound=inbound)
    await provider.start()
    try:
        yield provider, Verdicts(provider, problems)
    finally:
        async with asyncio.timeout(60):
            await provider.stop()


def message(text: str = "Hi", segments: int = 1, to: str = "+989120000001", sender: str = "Demo") -> Message:
    now_us = time.time_ns() // 1000
    return Message(
        id="01930000-0000-7000-8000-000000000001", organisation_id=1, to=to, sender=sender, text=text,
        encoding="GSM-7", segments=segments, units=segments, accepted_at_us=now_us,
        expires_at_us=now_us + 3_600_000_000,
    )  # fmt: skip


def long_message(segments: int) -> Message:
    """One letter for each segment: aaa…bbb…"""
    return message("".join(chr(ord("a") + n) * 153 for n in range(segments)), segments)


def delivery(text: str, esm_class: int = 4, **fields: object) -> bytes:
    """Body of a deliver_sm."""
    values: dict[str, object] = {"source": "989120000001", "esm_class": esm_class, **fields}
    return encode_short_message(ShortMessage(short_message=text.encode("latin-1"), **values))  # type: ignore[arg-type]


class Verdicts:
    """Submits messages and collects what becomes of each."""

    def __init__(self, provider: SmppProvider, problems: Problems) -> None:
        self._provider = provider
        # What the provider did not understand.
        self.problems = problems
        self.by_message: dict[int, list[Verdict]] = {}

    def submit(self, what: Message | str = "Hi") -> int:
        number = len(self.by_message)
        verdicts = self.by_message[number] = []
        inside = True

        def done(verdict: Verdict) -> None:
            assert not inside, "called back from inside submit()"
            verdicts.append(verdict)

        self._provider.submit(message(what) if isinstance(what, str) else what, done)
        inside = False
        return number

    async def of(self, *numbers: int) -> list[Verdict]:
        await until(lambda: all(self.by_message[number] for number in numbers))
        return [self.by_message[number][0] for number in numbers]

    async def one(self, what: Message | str = "Hi") -> Verdict:
        """Submit one and wait for its verdict."""
        return (await self.of(self.submit(what)))[0]

    async def all(self) -> list[Verdict]:
        """The verdicts of all, once each has its own; exactly one each."""
        verdicts = await self.of(*self.by_message)
        assert {len(found) for found in self.by_message.values()} <= {1}
        return verdicts


THROTTLED, QUEUE_FULL = CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RMSGQFUL
