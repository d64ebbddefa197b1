"""The carrier's side of a provider of type "http": a server of its answers, and the address
where the engine would take its receipts. Real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from engine.providers.http.description import ReceiptReader, receipt_reader
from engine.providers.ports import Provider
from engine.providers.settings import HttpSettings
from engine.receipts.records import Receipt
from engine.records import Encoding, Message, Verdict

TOKEN = "only-the-carrier-knows"
MESSAGE_ID = "01930000-0000-7000-8000-{:012x}"


class Asked(NamedTuple):
    """One request, as it came over the wire."""

    method: str
    # Path and query, still escaped.
    target: str
    # Names in lower case.
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> bytes:
        return unquote_to_bytes(self.target.partition("?")[0])

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


class Reply(NamedTuple):
    """What it is answered with."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: str = ""


Script = Callable[[Asked], Reply]


async def _read(reader: asyncio.StreamReader) -> Asked:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
    return Asked(method, target, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


class CarrierServer:
    """Answers by a script, and keeps what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.url = ""
        self._open: dict[asyncio.StreamWriter, asyncio.Event] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = self._open[writer] = asyncio.Event()
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    asked = await _read(reader)
                    self.asked.append(asked)
                    reply = self.script(asked)
                    head = f"HTTP/1.1 {reply.status} X\r\nContent-Type: {reply.kind}\r\n{reply.headers}"
                    writer.write(f"{head}Content-Length: {len(reply.body)}\r\n\r\n".encode() + reply.body)
                    await writer.drain()
        finally:
            del self._open[writer]
            writer.close()
            ended.set()

    async def end(self) -> None:
        for writer, ended in list(self._open.items()):
            writer.close()
            await asyncio.wait_for(ended.wait(), 60)


@contextlib.asynccontextmanager
async def answering(script: Script) -> AsyncIterator[CarrierServer]:
    server = CarrierServer(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await server.end()


class ReceiptAddress:
    """Takes receipts for one provider, as the API does, and remembers them."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.refused: list[str] = []
        self.arrived = asyncio.Event()
        self.reader: ReceiptReader | None = None
        self.name = ""

    def script(self, asked: Asked) -> Reply:
        assert self.reader
        if asked.path.decode() != f"/v1/providers/{self.name}/receipts/{self.reader.token}":
            self.refused.append(asked.target)
            return Reply(404)
        found, refusal = self.reader.read(
            asked.method, asked.query, asked.headers.get("content-type", ""), asked.body,
            time.time_ns() // 1000,
        )  # fmt: skip
        self.receipts.extend(found)
        self.arrived.set()
        if refusal is not None:
            self.refused.append(refusal.detail)
            return Reply(refusal.status)
        reply = self.reader.reply
        return Reply(reply.status, reply.body.encode(), reply.content_type)

    async def until(self, condition: Callable[[list[Receipt]], bool]) -> list[Receipt]:
        async with asyncio.timeout(60):
            while not condition(self.receipts):
                self.arrived.clear()
                await self.arrived.wait()
        return self.receipts


@contextlib.asynccontextmanager
async def taking_receipts(
    settings: Callable[[str], HttpSettings],
) -> AsyncIterator[tuple[HttpSettings, ReceiptAddress, CarrierServer]]:
    """`settings` is given the public_url under which the receipts are taken."""
    address = ReceiptAddress()
    async with answering(address.script) as server:
        made = settings(server.url)
        address.reader, address.name = receipt_reader(made), made.name
        yield made, address, server


def message(
    number: int = 1,
    text: str = 'Your "code" is\n123456 €',
    *,
    sender: str = "Demo",
    to: str = "+989120000000",
    encoding: Encoding = "GSM-7",
    segments: int = 1,
) -> Message:
    return Message(
        id=MESSAGE_ID.format(number), organisation_id=1, to=to, text=text, sender=sender, encoding=encoding,
        segments=segments, units=segments, accepted_at_us=0,
        expires_at_us=time.time_ns() // 1000 + 3_600_000_000,
    )  # fmt: skip


async def verdicts(provider: Provider, messages: list[Message]) -> list[Verdict]:
    """One verdict for each message, in order; fails when one has none, or two, or at once."""
    ended = asyncio.Event()
    given: dict[str, Verdict] = {}

    def submit(one: Message) -> None:
        def done(verdict: Verdict) -> None:
            assert not inside, "called back from inside submit()"
            assert one.id not in given
            given[one.id] = verdict
            if len(given) == len(messages):
                ended.set()

        inside = True
        provider.submit(one, done)
        inside = False

    for one in messages:
        submit(one)
    await asyncio.wait_for(ended.wait(), 60)
    await asyncio.sleep(0)  # a second verdict would come about now
    return [given[one.id] for one in messages]
