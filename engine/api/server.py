"""Serves the application on a listening socket that other processes may share."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Protocol

import structlog
from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError, RawRequestMessage
from aiohttp.http_exceptions import (
    ContentEncodingError,
    LineTooLong,
    PayloadEncodingError,
)
from yarl import URL

from engine.api.guard import ENDS_WITH_CALLER, LET_IN, WAITED_S
from engine.api.problems import refused
from engine.api.stalled_writes import CutWhenStalled
from engine.errors import Refusal

# How long a connection stays open after an answer, seconds.
KEEP_ALIVE_S = 75.0
_OPTIONS: dict[str, Any] = {
    # Activity is recorded per message, not per request; lines for each would cost more than the request.
    "access_log": None,
    # Longer than usual load balancers keep their side, so that they are the ones to close.
    "keepalive_timeout": KEEP_ALIVE_S,
    # How long the rest of a body that was refused is still read, so that the caller reads why.
    "lingering_time": 2.0,
}

# The headers of a connection's first request must have come by then, seconds.
FIRST_REQUEST_S = 75.0

# How long a server that stops leaves idle connections open, seconds. A request that is on its way when
# the server stops is answered, with the wish that its caller close the connection.
PARTING_S = 1.0

_NOWHERE = URL("/*")
# How the calls begin that a `Front` serves.
HOT = b"POST /v1/messages"
# Headers that can make more of a request than its head.
_WITH_MORE = re.compile(rb"(?i)content-length|transfer-encoding|upgrade|expect")

_log = structlog.get_logger(__name__)


# Takes a connection back: its transport, the first octets of its next request, and whether writing is paused.
TakeBack = Callable[[asyncio.Transport, bytes, bool], None]


class Seat(Protocol):
    """The place of a connection among all of its process: see `engine.api.edge.room`."""

    # Whoever serves it; it must have `end_if_idle`.
    holder: Any

    def answered(self, *, with_key: bool) -> None:
        """A request has its answer; `with_key`: it came with a good key."""

    def leave(self) -> None:
        """The connection is closed."""


class Front(Protocol):
    """Has each connection first, and hands over to aiohttp those that it does not serve itself."""

    def serve(self, connections: Connections) -> Callable[[], asyncio.Protocol]:
        """What makes the protocol of each new connection. `connections` is called for one to hand over to."""

    async def none_open(self) -> None:
        """Wait until it has no connection."""

    def pre_shutdown(self) -> None:
        """Close the connections without a request; the others are to be closed with their answer."""

    async def shutdown(self, timeout_s: float) -> None:
        """Let requests under way end, and give up those that have not ended after `timeout_s` seconds."""


class Connection(CutWhenStalled):
    """One client's connection. What is not HTTP is answered with a problem document, too.

    A client that connects and never sends the whole head of a request is given up after
    `FIRST_REQUEST_S`, without a line in the log. Between requests `keepalive_timeout` does the same,
    and a body that stays out has the deadline of its request. One that takes nothing of its answers is
    cut.
    """

    _first: asyncio.TimerHandle | None = None
    # Its place among all connections; None: the server has no `Front`.
    _seat: Seat | None = None
    # How long the first request had waited for its body before the connection came here, seconds.
    _waited_s = 0.0
    # Where the connection came from, while it is sure that the next octets begin a request.
    _take_back: TakeBack | None = None

    def adopt(
        self,
        transport: asyncio.Transport,
        data: bytes,
        *,
        waited_s: float,
        writing_paused: bool,
        seat: Seat,
        take_back: TakeBack,
    ) -> None:
        """Serve a connection that had another protocol before, from its octets `data` on.

        `waited_s`: how long the request in `data` has waited for its body, seconds. `take_back` is called
        when a call of `HOT` comes and no other is under way.
        """
        transport.set_protocol(self)
        self.connection_made(transport)
        if writing_paused:
            self.pause_writing()
        self._waited_s = waited_s
        self._take_back = take_back
        seat.holder, self._seat = self, seat
        self.data_received(data)

    def waited_s(self) -> float:
        """How long the request that begins now has waited already, seconds."""
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time in which the first request must come."""
        super().connection_made(transport)
        self._first = asyncio.get_running_loop().call_later(FIRST_REQUEST_S, self._give_up_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what belongs to the connection, and the call that is of use to its caller alone."""
        if self._first is not None:
            self._first.cancel()
        if self._current_request is not None and (task := self._current_request.get(ENDS_WITH_CALLER)):
            task.cancel()
        if self._seat is not None:
            self._seat.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what has come. What ends the HTTP of the connection ends the body that is being read."""
        if self._take_back is not None:
            if data.startswith(HOT) and self._is_between_requests():
                self._go_back(self._take_back, data)
                return
            if data and not _is_whole(data):
                self._take_back = None
        super().data_received(data)
        request = self._current_request
        if request is None or not self._messages or request.content.is_eof():
            return
        if not isinstance(self._messages[-1][0], RawRequestMessage):
            request.content.set_exception(web.RequestPayloadError("The body is not as its headers say."))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the rest of the answer. From then on the connection idles."""
        finished = await super().finish_response(request, resp, start_time)
        if self._seat is not None:
            self._seat.answered(with_key=request.get(LET_IN, False))
        return finished

    def end_if_idle(self) -> bool:
        """Close it when it has no request, because others need its room; whether it had none."""
        is_idle = self._is_between_requests()
        if is_idle:
            self.force_close()
        return is_idle

    def _is_between_requests(self) -> bool:
        waits = self._waiter is not None and not self._waiter.done()
        return waits and not self._messages and not self._close and self.transport is not None

    def _go_back(self, take_back: TakeBack, data: bytes) -> None:
        transport, self.transport = self.transport, None
        assert transport is not None
        is_writing_paused = self._paused
        # The connection goes on.
        self._seat = None
        self.connection_lost(None)
        take_back(transport, data, is_writing_paused)

    def _give_up_if_silent(self) -> None:
        if self._current_request is None and not self._request_count:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what never became a request of the application, or failed while it was written."""
        if request.writer.output_size > 0:
            raise ConnectionError("An answer has begun already; the connection is given up.")
        request_id = secrets.token_hex(8)
        if status == HTTPStatus.BAD_REQUEST:
            refusal = Refusal("invalid_request", 400, _sentence(exc))
        else:
            _log.error("answer failed", request_id=request_id, error=type(exc).__qualname__)
            refusal = Refusal("internal", status, "The engine failed on this request.")
        response = refused(refusal, request_id)
        response.request_id = request_id
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """One line, without frames, for a body that turns out not to be as its headers say only
        when its rest is passed over, after the answer: that is the client's fault."""
        exc = kw.get("exc_info")
        if isinstance(exc, web.RequestPayloadError | HttpProcessingError | PayloadEncodingError):
            _log.info("body could not be passed over", error=type(exc).__qualname__)
        else:
            super().log_exception(*args, **kw)


def _is_whole(data: bytes) -> bool:
    """Whether these octets are surely one whole request without a body; the next ones begin another."""
    end = data.find(b"\r\n\r\n") + 4
    return end == len(data) and data.startswith((b"GET /", b"HEAD /")) and not _WITH_MORE.search(data)


class Connections(web.Server):
    """Makes the connections that aiohttp serves, and knows them all."""

    def __init__(self, handler: Any, **kwargs: Any) -> None:
        super().__init__(handler, **kwargs)
        # How many there are.
        self.open = 0
        # Set while there is none.
        self.none_open = asyncio.Event()
        self.none_open.set()

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """Count one more."""
        super().connection_made(handler, transport)
        self.open += 1
        self.none_open.clear()

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        """Count one less."""
        super().connection_lost(handler, exc)
        self.open -= 1
        if not self.open:
            self.none_open.set()

    def __call__(self) -> Connection:
        """A connection; nobody has connected yet."""
        return Connection(self, loop=asyncio.get_running_loop(), **_OPTIONS)


def _sentence(fault: BaseException | None) -> str:
    """What is allowed, for a request that could not be read."""
    match fault:
        case LineTooLong():
            return "The request line, and each header, must be at most 8 KiB."
        case ContentEncodingError():
            return "`Content-Encoding` must be gzip or deflate, or absent."
        case _:
            return (
                "The request must be HTTP/1.1, with one `Host` and one length, in headers of at most 8 KiB."
            )


def _request_of(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """`make` for a request with any of the four forms of a target (RFC 9112, section 3.2).

    `OPTIONS *` and `CONNECT host:port` have no path, so no route would match them and aiohttp would
    answer by itself. They get a path at which there is nothing, and the connection ends with the
    answer. Of `http://host/path` only the path counts: which host was meant says nothing here, and
    one that is no name at all would fail where nobody answers.
    """

    def request(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        url = message.url
        if message.method == hdrs.METH_CONNECT or message.path == "*":
            message = message._replace(url=_NOWHERE, should_close=True)
        elif not message.path.startswith("/"):
            path = URL.build(path=url.raw_path or "/", query_string=url.raw_query_string, encoded=True)
            message = message._replace(url=path)
        made = make(message, *rest)
        if waited_s := made.protocol.waited_s() if isinstance(made.protocol, Connection) else 0.0:
            made[WAITED_S] = waited_s
        return made

    return request


class Server:
    """The application on one socket. `start` it once; a second `stop` changes nothing."""

    def __init__(self, app: web.Application, listener: socket.socket, front: Front | None = None) -> None:
        """`front` serves what it can of the calls itself; None: aiohttp serves all."""
        self._runner = web.AppRunner(app, access_log=None)
        self._listener = listener
        self._front = front
        self._connections: Connections | None = None
        self._listening: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept connections from now on."""
        await self._runner.setup()
        served = self._runner.server
        assert served is not None
        connections = Connections(served.request_handler, request_factory=_request_of(served.request_factory))
        self._connections = connections
        first = connections if self._front is None else self._front.serve(connections)
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(first, sock=self._listener)

    async def stop(self, timeout_s: float) -> None:
        """Accept nothing more, close idle connections after `PARTING_S`, let requests under way end.

        A caller that sends on a connection which is closed at that moment would not know whether its
        request was taken. So each connection ends with an answer, when a request comes in that time.
        Those that have not ended after `timeout_s` are canceled: their callers see the
        connection close and must try again with the same Idempotency-Key. Other
        processes go on accepting from a shared socket.
        """
        listening, self._listening = self._listening, None
        if listening is not None and self._connections is not None:
            listening.close()
            open_ones: list[Coroutine[Any, Any, object]] = [self._connections.none_open.wait()]
            if self._front is not None:
                open_ones.append(self._front.none_open())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*open_ones), PARTING_S)
            if self._front is not None:
                self._front.pre_shutdown()
            self._connections.pre_shutdown()
            ending = [self._connections.shutdown(timeout_s)]
            if self._front is not None:
                ending.append(self._front.shutdown(timeout_s))
            await asyncio.gather(*ending)
        await self._runner.cleanup()
