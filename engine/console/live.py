"""`GET /console/live`: the status as it is now, once a second, to all who look.

It is a stream of server-sent events (WHATWG HTML, section 9.2). The status is computed once for all
viewers, and only while there is one. A viewer has one event at most that it was not sent yet, the newest.

    a viewer that hangs up          is noticed when the next event is written
    one that reads nothing          is given up when nothing was taken of it for `STALL_S`
    its session ends                the answer ends, and the browser that asks again gets 401
    the process drains              all answers end at once, also of those that read nothing
    a store does not answer         the status says what is missing; without any, a comment is sent
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import msgspec
import structlog
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from engine.api.admin_call import AdminCalls
from engine.api.ports import AdminServices
from engine.api.response import Response
from engine.console.access import Access
from engine.errors import EngineError, Refusal, Unavailable

EACH_S = 1.0
STALL_S = 10.0
VIEWERS_MAX = 50
# When a browser asks again after an answer has ended, milliseconds.
_RETRY_MS = 2_000
_NONE_KNOWN = b": no status is known now\n\n"

_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger(__name__)


class Viewer:
    """One who looks: the newest event that it was not sent yet."""

    def __init__(self) -> None:
        self._event = b""
        self._ended = False
        self._changed = asyncio.Event()
        # While something is written to it: where to.
        self.writing_to: asyncio.Transport | None = None

    def put(self, event: bytes) -> None:
        """Send this next, in place of one that was not sent."""
        self._event = event
        self._changed.set()

    def end(self) -> None:
        """Send nothing more; what is being written is given up."""
        self._ended = True
        self._changed.set()
        if self.writing_to is not None:
            self.writing_to.abort()

    async def next(self) -> bytes | None:
        """The next event, when there is one; None at the end."""
        await self._changed.wait()
        self._changed.clear()
        return None if self._ended else self._event


class Live:
    """Everybody who looks at one thing. One per process and thing, on its loop."""

    def __init__(
        self,
        status: Callable[[], Awaitable[object]],
        draining: asyncio.Event,
        *,
        each_s: float = EACH_S,
        viewers_max: int = VIEWERS_MAX,
    ) -> None:
        """`status`: what is shown, as msgspec can encode it; may raise EngineError."""
        self._status = status
        self._draining = draining
        self._each_s = each_s
        self._viewers_max = viewers_max
        self._viewers: set[Viewer] = set()
        self._showing: asyncio.Task[None] | None = None

    @contextmanager
    def viewer(self) -> Iterator[Viewer]:
        """One more who looks, while the block runs.

        Raises Unavailable when there are too many, or the process drains."""
        if self._draining.is_set() or len(self._viewers) >= self._viewers_max:
            raise Unavailable("As many look at the live status as may; try again later.", 5.0)
        viewer = Viewer()
        self._viewers.add(viewer)
        if self._showing is None:
            self._showing = asyncio.create_task(self._show(), name="live status")
            self._showing.add_done_callback(self._shown)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    async def _show(self) -> None:
        loop = asyncio.get_running_loop()
        draining = loop.create_task(self._draining.wait())
        try:
            while self._viewers and not draining.done():
                next_at_s = loop.time() + self._each_s
                looking = loop.create_task(self._event())
                await asyncio.wait((looking, draining), return_when=asyncio.FIRST_COMPLETED)
                if not looking.done():
                    looking.cancel()
                    break
                for viewer in self._viewers:
                    viewer.put(looking.result())
                await asyncio.wait((draining,), timeout=next_at_s - loop.time())
        finally:
            draining.cancel()

    def _shown(self, showing: asyncio.Task[None]) -> None:
        """Nothing is shown any more. Who began to look meanwhile asks again."""
        self._showing = None
        for viewer in self._viewers:
            viewer.end()
        if not showing.cancelled() and (fault := showing.exception()) is not None:
            _log.error("the live status has ended", error=type(fault).__qualname__)

    async def _event(self) -> bytes:
        try:
            return b"event: status\ndata: %b\n\n" % _encode(await self._status())
        except EngineError as e:
            _log.info("no live status", reason=str(e))
            return _NONE_KNOWN


class LiveResponse(Response):
    """A 200 that goes on until the viewer hangs up, or its session or the process ends."""

    def __init__(self, viewer: Viewer, held: ExitStack, check: Callable[[], Awaitable[object]]) -> None:
        """`held` is released at the end. `check` raises Refusal when the viewer may look no longer."""
        super().__init__(200, content_type="text/event-stream")
        self._viewer = viewer
        self._held = held
        self._check = check

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Write the head, and each event as it comes."""
        writer = request.writer
        with self._held:
            # Nothing that stands in between keeps events back.
            self.add_headers({"X-Accel-Buffering": "no"})
            self.force_close()
            is_chunked = request.version >= HttpVersion11
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Request-Id: {self.request_id}\r\n"
            )
            head += self.more_lines() + "Connection: close\r\n"
            head += "Transfer-Encoding: chunked\r\n\r\n" if is_chunked else "\r\n"
            await writer.write(head.encode())
            if request.method != "HEAD":
                await self._write(request, is_chunked=is_chunked)
            await writer.write_eof()
        return writer

    async def _write(self, request: web.BaseRequest, *, is_chunked: bool) -> None:
        try:
            async for event in self._events():
                octets = b"%x\r\n%b\r\n" % (len(event), event) if is_chunked else event
                self._viewer.writing_to = request.transport
                await asyncio.wait_for(_taken(request.writer, octets), STALL_S)
                self._viewer.writing_to = None
            if is_chunked:
                await request.writer.write(b"0\r\n\r\n")
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()

    async def _events(self) -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % _RETRY_MS
        while (event := await self._viewer.next()) is not None:
            # A store that does not answer ends no session.
            with suppress(Unavailable):
                try:
                    await self._check()
                except Refusal:
                    return
            yield event


async def _taken(writer: AbstractStreamWriter, octets: bytes) -> None:
    """Write, and wait until no more waits here than a socket's own buffer takes."""
    await writer.write(octets)
    await writer.drain()


class LiveCall:
    """The action on /console/live."""

    def __init__(self, services: AdminServices, access: Access, calls: AdminCalls) -> None:
        self._access = access
        self._calls = calls
        self._live = Live(services.status, services.draining)

    async def show(self, request: web.Request) -> Response:
        """`GET /console/live`: 200 with an event `status` a second: what `GET /v1/admin/status` answers.

        Raises Refusal 401, 403, Unavailable.
        """
        await self._check(request)
        with ExitStack() as held:
            viewer = held.enter_context(self._live.viewer())
            return LiveResponse(viewer, held.pop_all(), partial(self._check, request))
        raise AssertionError

    async def _check(self, request: web.Request) -> None:
        """Raises Refusal when the session has ended or its key is not good for that; Unavailable."""
        await self._access.admit(request, "admin")
        await self._calls.caller(request, "read")
