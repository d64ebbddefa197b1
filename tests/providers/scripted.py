"""An HTTP server of a few lines that answers just what a test wants, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from engine.providers.http_client.pool import HttpOutcome, HttpPool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# Given the body of each request and the connection's writer. What it returns is written
# as the answer, None writes nothing.
Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[bytes | None]]


class ScriptedServer:
    """What came in, and where to find it."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.connections = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                assert length, "every request says how long it is"
                body = await reader.readexactly(int(length[1]))
                self.heads.append(head)
                self.bodies.append(body)
                answer = await self._script(body, writer)
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            self._writers.discard(writer)
            writer.close()

    def close_all(self) -> None:
        """Close every connection in good order (FIN)."""
        for writer in self._writers:
            writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        server.close_all()


@contextlib.asynccontextmanager
async def pool_to(
    port: int,
    *,
    connections_max: int = 4,
    timeout_s: float = 5.0,
    idle_s: float = 4.0,
    waiting_max: int = 10_000,
    body_bytes_max: int = 1 << 20,
) -> AsyncIterator[HttpPool]:
    pool = HttpPool(
        "127.0.0.1",
        port,
        connections_max=connections_max,
        timeout_s=timeout_s,
        idle_s=idle_s,
        waiting_max=waiting_max,
        body_bytes_max=body_bytes_max,
    )
    pool.start()
    try:
        yield pool
    finally:
        await pool.stop(0)


class Outcomes:
    """Sends requests and collects what becomes of each."""

    def __init__(self, pool: HttpPool) -> None:
        self._pool = pool
        self._changed = asyncio.Event()
        self.by_request: dict[int, list[HttpOutcome]] = {}

    @property
    def all(self) -> list[HttpOutcome]:
        return [outcome for outcomes in self.by_request.values() for outcome in outcomes]

    def send(self, body: bytes = b"{}") -> None:
        number = len(self.by_request)
        outcomes = self.by_request[number] = []
        inside = True

        def done(outcome: HttpOutcome) -> None:
            assert not inside, "called back from inside request()"
            outcomes.append(outcome)
            self._changed.set()

        self._pool.request(b"POST", b"/send", b"X-Test: yes\r\n", body, done)
        inside = False

    async def one(self, body: bytes = b"{}") -> HttpOutcome:
        """Send one request and wait for its outcome."""
        number = len(self.by_request)
        self.send(body)
        await self.wait(lambda: bool(self.by_request[number]))
        return self.by_request[number][0]

    async def ended(self) -> list[HttpOutcome]:
        """The outcomes of all, once each has its own; exactly one each."""
        await self.wait(lambda: all(self.by_request.values()))
        assert {len(outcomes) for outcomes in self.by_request.values()} == {1}
        return self.all

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is so, at most a minute."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the state is the loop's own, nobody signals it
            await asyncio.sleep(0.001)
