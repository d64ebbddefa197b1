"""The simulator's HTTP server.

It is a raw protocol, so that a load run never measures the simulator instead of the engine.
Requests may be pipelined. Answers keep the order of the requests, so a late answer holds back
those behind it on the same connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import cast

import httptools

from supervisor.simulator import wire
from supervisor.simulator.control import Control
from supervisor.simulator.provider import Held, SimulatedProvider
from supervisor.simulator.transport import Delays, reset

BODY_BYTES_MAX = 1 << 20
HEAD_BYTES_MAX = 64 * 1024
# Answers that a connection may have pending before no more of its requests are read.
PENDING_ANSWERS_MAX = 1024
# How long a client may take to close after the last answer.
LINGER_S = 2.0
# How long an answer waits at most for the receipt that goes before it.
HOLD_S_MAX = 2.0
_LAST = b"\0last"

_PARSE_ERRORS = (httptools.HttpParserError, httptools.HttpParserUpgrade)


class PendingAnswer:
    """One answer in its place in the order of a connection.

    `answer` is None until it is due. The connection ends after it when `last` is true.
    """

    __slots__ = ("answer", "connection", "last")

    def __init__(self, connection: Connection, answer: bytes | Iterator[bytes] | None, last: bool) -> None:
        self.connection = connection
        self.answer = answer
        self.last = last


# The place of an answer that is due later, and the answer.
Late = tuple[PendingAnswer, bytes]


def give(late: Late) -> None:
    """Put an answer that is due into its place, and write what can go out now."""
    pending, answer = late
    pending.answer = answer
    pending.connection.flush()


class Connection(asyncio.Protocol):
    """The connection of one client."""

    __slots__ = (
        "_begun",
        "_body",
        "_body_bytes",
        "_control",
        "_delays",
        "_head_bytes",
        "_in_head",
        "_now_s",
        "_out",
        "_parser",
        "_paused",
        "_pending",
        "_provider",
        "_target",
        "_transport",
    )  # fmt: skip

    def __init__(self, provider: SimulatedProvider, control: Control, delays: Delays[Late]) -> None:
        self._provider = provider
        self._control = control
        self._delays = delays
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._target = b""
        self._body = bytearray()
        self._body_bytes = 0
        self._head_bytes = 0
        self._in_head = False
        # A request began in the bytes just received.
        self._begun = False
        self._now_s = 0.0
        self._pending: deque[PendingAnswer] = deque()
        self._out: list[bytes] = []
        self._paused = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read requests."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the answers that are not out: nobody waits for them now."""
        self._transport = None
        self._parser = None
        self._pending.clear()

    def data_received(self, data: bytes) -> None:
        """Take the requests that `data` completes. What is not HTTP or too large ends the connection."""
        if self._parser is None:
            return
        self._now_s = time.monotonic()
        self._begun = False
        try:
            self._parser.feed_data(data)
        except _PARSE_ERRORS:
            self._refuse(HTTPStatus.BAD_REQUEST, "This is not HTTP/1.1.")
        if self._body_bytes > BODY_BYTES_MAX:
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {BODY_BYTES_MAX} bytes."
            )
        elif self._in_head and not self._begun:
            # No request began in `data`, so all of it belongs to one header.
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The header is too large.")
        self.flush()

    def pause_writing(self) -> None:
        """Read no more requests until the client has read its answers."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Write the answers that became due meanwhile, and read on."""
        self._paused = False
        self.flush()

    # -- httptools

    def on_message_begin(self) -> None:
        """Forget the request before this one."""
        self._target = b""
        self._body.clear()
        self._body_bytes = self._head_bytes = 0
        self._in_head = self._begun = True

    def on_url(self, url: bytes) -> None:
        """Add a piece of the request's target."""
        self._target += url

    def on_headers_complete(self) -> None:
        """Count no more bytes as header."""
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        """Add a piece of the body; a body beyond BODY_BYTES_MAX is counted but not kept."""
        self._body_bytes += len(body)
        if self._body_bytes <= BODY_BYTES_MAX:
            self._body += body

    def on_message_complete(self) -> None:
        """Answer the request, or keep a place in the order for its answer."""
        parser = self._parser
        if parser is None or self._body_bytes > BODY_BYTES_MAX:
            return
        method = parser.get_method()
        last = not parser.should_keep_alive()
        if self._target != b"/send" or method != b"POST":
            answer = self._control.ask(method, self._target, bytes(self._body))
            if isinstance(answer, wire.Listing):
                chunks = parser.get_http_version() == "1.1"
                pieces = answer.chunked() if chunks else answer.whole()
                self._pending.append(PendingAnswer(self, pieces, last))
            else:
                self._pending.append(PendingAnswer(self, answer, last))
            return
        reply, delay_s = self._provider.take(self._body, self._now_s)
        if isinstance(reply, Held):
            pending = PendingAnswer(self, None, last)
            self._pending.append(pending)
            _hold(reply, pending, self._now_s + delay_s, self._provider, self._delays)
            return
        in_turn = not delay_s and not last and not self._pending
        if in_turn and reply is not None and reply is not wire.RESET and reply is not wire.CLOSE:
            self._out.append(reply)
            return
        pending = PendingAnswer(self, None if delay_s else reply, last)
        self._pending.append(pending)
        if delay_s and reply is not None:
            self._delays.add(self._now_s + delay_s, (pending, reply))

    # -- answering

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer in turn, then close: nothing after this request can be understood."""
        self._parser = None
        answer = wire.problem(status, detail, headers=b"Connection: close\r\n")
        self._pending.append(PendingAnswer(self, answer, True))

    def flush(self) -> None:
        """Write the answers that are due and in turn, in one call; end the connection after its last one."""
        transport = self._transport
        if transport is None:
            return
        end = self._collect()
        if self._out:
            transport.write(b"".join(self._out) if len(self._out) > 1 else self._out[0])
            self._out.clear()
        if end == wire.RESET:
            reset(transport)
        elif end == wire.CLOSE:
            transport.close()
        elif end == _LAST:
            # What the client still sends is read and dropped until it closes. A close with bytes
            # unread is a reset, and the client may lose the answer by it (RFC 9112, 9.6).
            transport.write_eof()
            transport.resume_reading()
            asyncio.get_running_loop().call_later(LINGER_S, transport.abort)
        elif self._paused or len(self._pending) >= PENDING_ANSWERS_MAX:
            transport.pause_reading()
        elif not transport.is_reading():
            transport.resume_reading()

    def _collect(self) -> bytes:
        """Move the answers that are due to `_out`; return RESET, CLOSE or _LAST when the connection ends."""
        pending = self._pending
        end = b""
        while not end and pending and not self._paused and (answer := pending[0].answer) is not None:
            if answer in (wire.RESET, wire.CLOSE):
                end = answer
            elif isinstance(answer, bytes):
                self._out.append(answer)
            elif not self._stream(answer):
                break
            if pending.popleft().last and not end:
                end = _LAST
        if end:
            self._parser = None
            pending.clear()
        return end

    def _stream(self, pieces: Iterator[bytes]) -> bool:
        """Write pieces until the client has to catch up; return whether all of them are written."""
        transport = self._transport
        assert transport is not None
        transport.write(b"".join(self._out))
        self._out.clear()
        for piece in pieces:
            transport.write(piece)
            if self._paused:
                return False
        return True


def _hold(
    held: Held, pending: PendingAnswer, answer_s: float, provider: SimulatedProvider, delays: Delays[Late]
) -> None:
    """Answer when the receipt that goes first is out, or HOLD_S_MAX after the answer was due."""
    late = pending, held.answer
    delays.add(answer_s + HOLD_S_MAX, late)
    # An answer that is due before its receipt is out goes at the next ring of the timer.
    provider.tell_first(held.receipt, partial(delays.add, answer_s, late))


async def listen(provider: SimulatedProvider, control: Control, host: str, port: int) -> asyncio.Server:
    """Listen for HTTP at `host`:`port`. Raises OSError when that is not possible."""
    delays = Delays(give)
    return await asyncio.get_running_loop().create_server(
        lambda: Connection(provider, control, delays), host, port, backlog=4096
    )
