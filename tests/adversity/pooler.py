"""A pooler before PostgreSQL, as PgBouncer is one: by session, or by transaction.

It speaks the protocol on both sides (version 3.0, simple and extended). Clients need no password. By
transaction, a client has a server connection from its first message until the server is idle again, and
the connection given back last is handed out first. By session it keeps it until it leaves; `DISCARD ALL`
follows.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import struct
from types import TracebackType
from urllib.parse import unquote, urlsplit, urlunsplit

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_PROTOCOL, _SSL_REQUEST, _CANCEL = 196608, 80877103, 80877102


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    (size,) = struct.unpack("!i", await reader.readexactly(4))
    return kind, await reader.readexactly(size - 4)


class _Link:
    """A client on a server connection."""

    def __init__(self, streams: _Streams, client: asyncio.StreamWriter, free: list[_Streams] | None) -> None:
        """`free`: where the server connection goes when it is idle again; None: the client keeps it."""
        self.streams = streams
        self._client = client
        self._free = free
        # Messages since the last Sync, and how many answers to a Sync or a Query are to come.
        self._unsynced = False
        self._due = 0
        self.given_back = False
        self._answers = asyncio.create_task(self._pass_answers())

    def ask(self, kind: bytes, body: bytes) -> None:
        self._unsynced = kind not in (b"Q", b"S")
        self._due += not self._unsynced
        self.streams[1].write(message(kind, body))

    async def end(self) -> None:
        self._answers.cancel()
        await asyncio.wait([self._answers])

    async def _pass_answers(self) -> None:
        while not self.given_back:
            kind, body = await read_message(self.streams[0])
            self._client.write(message(kind, body))
            if kind == b"Z":
                self._due -= 1
                idle = body == b"I" and not self._due and not self._unsynced
                if idle and self._free is not None:
                    self.given_back = True
                    self._free.append(self.streams)


class Pooler:
    """`async with Pooler(url, mode) as pooler`; `pooler.url` leads through it."""

    def __init__(self, url: str, mode: str) -> None:
        """`mode`: "session" or "transaction"."""
        self._parts = urlsplit(url)
        self._mode = mode
        self._free: list[_Streams] = []
        self._greeting = b""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Pooler:
        self._free.append(await self._login())
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for writer in self._open:
            writer.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        place = f"sms@127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return urlunsplit(self._parts._replace(netloc=place, query="sslmode=disable"))

    async def _login(self) -> _Streams:
        """A new server connection, by SCRAM-SHA-256 (RFC 5802, RFC 7677)."""
        reader, writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        self._open.add(writer)
        user, password = self._parts.username or "", unquote(self._parts.password or "").encode()
        database = self._parts.path.strip("/")
        body = struct.pack("!i", _PROTOCOL) + f"user\0{user}\0database\0{database}\0\0".encode()
        writer.write(struct.pack("!i", len(body) + 4) + body)
        await read_message(reader)
        ours = "n=,r=" + base64.b64encode(os.urandom(18)).decode()
        first = f"n,,{ours}".encode()
        writer.write(message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first))
        theirs = (await read_message(reader))[1][4:].decode()
        fields = dict(field.split("=", 1) for field in theirs.split(","))
        salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(fields["s"]), int(fields["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        last = f"c=biws,r={fields['r']}"
        signed = hmac.digest(
            hashlib.sha256(client_key).digest(), f"{ours},{theirs},{last}".encode(), "sha256"
        )
        proof = bytes(a ^ b for a, b in zip(client_key, signed, strict=True))
        writer.write(message(b"p", f"{last},p={base64.b64encode(proof).decode()}".encode()))
        greeting = b""
        while True:
            kind, body = await read_message(reader)
            assert kind != b"E", body
            if kind == b"S":
                greeting += message(kind, body)
            if kind == b"Z":
                self._greeting = greeting
                return reader, writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if await self._greet(reader, writer):
                await self._relay(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            (size,) = struct.unpack("!i", await reader.readexactly(4))
            (code,) = struct.unpack("!i", (await reader.readexactly(size - 4))[:4])
            if code == _CANCEL:
                return False
            if code != _SSL_REQUEST:
                break
            writer.write(b"N")
        # As PgBouncer does, it names a process that is none.
        key = message(b"K", struct.pack("!ii", 0x7FFF0000, 1))
        writer.write(message(b"R", struct.pack("!i", 0)) + self._greeting + key + message(b"Z", b"I"))
        return True

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link: _Link | None = None
        try:
            while True:
                kind, body = await read_message(reader)
                if kind == b"X":
                    return
                if link is None or link.given_back:
                    streams = self._free.pop() if self._free else await self._login()
                    link = _Link(streams, writer, self._free if self._mode == "transaction" else None)
                link.ask(kind, body)
        finally:
            if link is not None and not link.given_back:
                await link.end()
                await self._take_back(link.streams)

    async def _take_back(self, streams: _Streams) -> None:
        """A client left: what it left behind on the server is undone."""
        reader, writer = streams
        if self._mode == "transaction":
            writer.close()
            return
        writer.write(message(b"Q", b"ROLLBACK\0") + message(b"Q", b"DISCARD ALL\0"))
        ready = 0
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while ready < 2:
                ready += (await read_message(reader))[0] == b"Z"
            self._free.append(streams)
