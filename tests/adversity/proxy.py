"""A TCP proxy that cuts, refuses, stalls, delays and truncates what a server answers."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 1 << 16


class Proxy:
    """Forwards to `host`:`port`; use as `async with Proxy.to(url) as proxy`."""

    def __init__(self, host: str, port: int, listen: str = "127.0.0.1") -> None:
        """`listen`: the address of this machine at which it is reached."""
        self._target = (host, port)
        self._listen = listen
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answer_bytes_left: int | None = None
        # Whether an answer stalls then, and is not cut.
        self._stalls = False
        self._requests_flow = asyncio.Event()
        self._answers_flow = asyncio.Event()
        self.flow()
        self._refusing = False
        self._swallowing = False
        # Requests that were swallowed, bytes.
        self.swallowed = 0
        self.delay_s = 0.0
        # Connections taken so far, and answers that came for them.
        self.accepted = 0
        self.answered = 0
        # Set when an answer has been cut short.
        self.truncated = asyncio.Event()

    @classmethod
    def to(cls, url: str, *, listen: str = "127.0.0.1") -> Proxy:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return cls(parts.hostname, parts.port, listen)

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, self._listen, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.flow()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def url(self, of: str) -> str:
        """`of` with this proxy's address in place of the server's."""
        parts = urlsplit(of)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}{self._listen}:{self.port}"))

    def cut(self) -> None:
        """Break every connection now."""
        for writer in self._writers:
            writer.transport.abort()

    def refuse(self) -> None:
        """Break every connection now and each new one at once."""
        self._refusing = True
        self.cut()

    def admit(self) -> None:
        self._refusing = False

    def stall(self, *, requests: bool = False) -> None:
        """Keep connections, but let no answer through until `flow`; with `requests` nothing at all."""
        self._answers_flow.clear()
        if requests:
            self._requests_flow.clear()

    def swallow(self) -> None:
        """Keep connections, and take new ones, but let nothing through in either direction until `heal`.

        What a client sends meanwhile is gone for good, as when it drops the connection while the network is
        cut: its kernel then forgets what was not acknowledged.
        """
        self._swallowing = True

    def heal(self) -> None:
        """Let new connections through again; those that have lost bytes break."""
        self._swallowing = False
        self.cut()

    def flow(self) -> None:
        self._answers_flow.set()
        self._requests_flow.set()

    def truncate_after(self, answer_bytes: int) -> None:
        """Let so many more bytes of answers through, then cut."""
        self._answer_bytes_left, self._stalls = answer_bytes, False

    def stall_after(self, answer_bytes: int) -> None:
        """Let so many more bytes of answers through, then none until `flow`."""
        self._answer_bytes_left, self._stalls = answer_bytes, True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        target_reader, target_writer = await asyncio.open_connection(*self._target)
        ends = {writer, target_writer}
        self._writers |= ends
        pumps = [
            asyncio.create_task(self._requests(reader, target_writer)),
            asyncio.create_task(self._answers(target_reader, writer)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.transport.abort()
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        self._writers -= ends

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(_CHUNK):
                await self._requests_flow.wait()
                if self._swallowing:
                    self.swallowed += len(chunk)
                    continue
                writer.write(chunk)
                await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(_CHUNK):
                self.answered += 1
                await asyncio.sleep(self.delay_s)
                await self._answers_flow.wait()
                if self._swallowing:
                    continue
                if self._answer_bytes_left is not None:
                    rest = chunk[self._answer_bytes_left :]
                    chunk = chunk[: self._answer_bytes_left]
                    self._answer_bytes_left -= len(chunk)
                    writer.write(chunk)
                    if not self._answer_bytes_left:
                        await writer.drain()
                        self._answer_bytes_left = None
                        if self._stalls:
                            self.stall()
                            await self._answers_flow.wait()
                            writer.write(rest)
                            continue
                        self.truncated.set()
                        return
                else:
                    writer.write(chunk)
                await writer.drain()
