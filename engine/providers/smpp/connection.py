"""Drives sessions over TCP or TLS: one connection after another, each bound anew.

Everything that is written in one turn of the loop goes out in one write, and PDUs are passed on
in the batches in which they are read. There is no task, future or timer per PDU.

Under failure:
- the provider is away, or refuses the bind: tried again after a pause that doubles, with jitter.
  The pause begins anew only when a session has lasted for a while: a provider that drops each
  session right after the bind is not hammered;
- the provider stops reading: nothing more is sent to it, and it is dropped when it lets answers
  to its own requests pile up beyond `_UNREAD_BYTES_MAX`;
- a connection that does not close in good order is cut after a second;
- a fault in this adapter's own callbacks: the connection is lost by it, and no more. The
  callers' code does not run in them (see `engine.delivery.dispatcher`);
- this process frozen: what arrived meanwhile is read before time is let pass (`Ticker`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol, cast

import msgspec
import structlog

from engine.clocks.backoff import Backoff
from engine.hosts.connecting import connect
from engine.problem_records import ProblemKind
from engine.providers.ports import Wire
from engine.providers.problems import Problems
from engine.providers.smpp.codes import Command
from engine.providers.smpp.congestion import Slowdown
from engine.providers.smpp.message import Sending
from engine.providers.smpp.pdu import Pdu
from engine.providers.smpp.session import NOT_BOUND, Counts, IncomingBatch, Segment, Session
from engine.providers.wire import describe_transport

_UNREAD_BYTES_MAX = 4 << 20
_CLOSE_S = 1.0
# A session that stays bound for so long proves that the provider works.
_HELD_S = 10.0

Segments = list[Segment[Sending]]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How every session of a provider is made. Times are seconds."""

    provider: str
    host: str
    port: int
    bind_body: bytes
    window: int
    # For connecting, and for the answers to bind, unbind and enquire_link.
    timeout_s: float
    enquire_link_s: float
    reconnect_s: float
    reconnect_max_s: float
    ssl_context: ssl.SSLContext | None
    # Watches what goes over the connections; None: nobody does.
    wire: Wire | None = None


class Owner(Protocol):
    """What a line calls on the provider that it belongs to, always on the loop."""

    def bound(self, line: Line) -> None:
        """The line carries messages from now on."""

    def received(self, line: Line, on: Connection, batch: IncomingBatch[Sending], now_s: float) -> None:
        """Answers and deliveries were read from `on` in one go, at `now_s` of the monotonic clock."""

    def unbound(self, line: Line, reason: str, sent: Segments, unsent: Segments) -> None:
        """The line carries no more messages. Answers may still come while the provider waits for our
        unbind; this is called again at the end, with the segments that are left. Those in `sent`
        may have arrived."""


class Connection(asyncio.Protocol):
    """One connection and the session on it. `over` is set after its last call on the line."""

    __slots__ = ("_flushing", "_line", "_loop", "_transport", "_was", "_wire", "over", "session", "writable")

    def __init__(self, line: Line, session: Session[Sending]) -> None:
        self._line = line
        self._wire = line.wire
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        # A flush will follow in this turn of the loop.
        self._flushing = False
        self._was = session.state
        self.session = session
        self.writable = True
        self.over = asyncio.Event()

    def flush_soon(self) -> None:
        """Write what has gathered at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what the session has to say, and follow its state."""
        self._flushing = False
        session, transport = self.session, self._transport
        if session.out and transport is not None and not transport.is_closing():
            octets = b"".join(session.out)
            transport.write(octets)
            session.written()
            if self._wire is not None:
                self._wire(self, "sent", octets)
            if not self.writable and transport.get_write_buffer_size() > _UNREAD_BYTES_MAX:
                self.end("unread")
        if session.state != self._was:
            self._changed()

    def answer(self, deliveries: Sequence[Pdu], status: int) -> None:
        """See `deliveries.Answering`."""
        for delivery in deliveries:
            self.session.answer_delivery(delivery, status)
        self.flush_soon()

    def end(self, reason: str) -> None:
        """Let go of the connection. Its unanswered and unsent segments go back to the line, once."""
        if self.over.is_set():
            return
        self.over.set()
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(_CLOSE_S, self._transport.abort)
        sent, unsent = self.session.abandon(reason)
        self._was = self.session.state
        self._line.lost(self, sent, unsent)

    def _changed(self) -> None:
        self._was = state = self.session.state
        if state == "bound":
            self._line.opened(self)
        elif state in ("leaving", "unbinding"):
            self._line.leaving()
        elif state == "ended":
            self.end(self.session.reason)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport once it is connected: the session begins to bind."""
        self._transport = cast("asyncio.Transport", transport)
        if self._wire is not None:
            self._wire(self, "connected", describe_transport(self._transport))
        self._line.connected(self)
        self.session.begin(time.monotonic())
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Called by the transport with octets of any number of PDUs."""
        if self.over.is_set():
            return
        if self._wire is not None:
            self._wire(self, "received", data)
        now_s = time.monotonic()
        batch = self.session.receive(data, now_s)
        if self.session.reason == "framing":
            self._line.broken(data)
        # Segments that the callbacks send meanwhile go out together with the answers.
        self._flushing = True
        if batch.answers or batch.deliveries:
            self._line.owner.received(self._line, self, batch, now_s)
        self.flush()

    def pause_writing(self) -> None:
        """Called by the transport when its write buffer is full."""
        self.writable = False

    def resume_writing(self) -> None:
        """Called by the transport when its write buffer has room again."""
        self.writable = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport once it is closed; the session is over."""
        self._transport = None
        self.end("closed" if exc is None else "reset")


class Line:
    """One session that is kept bound for as long as `keep` runs."""

    def __init__(self, owner: Owner, terms: Terms, bind: Command, counts: Counts, problems: Problems) -> None:
        self.owner = owner
        self._terms = terms
        self._bind = bind
        self.wire = terms.wire
        self.transmits = bind != Command.bind_receiver
        self._counts = counts
        self._problems = problems
        self._backoff = Backoff(terms.reconnect_s, terms.reconnect_max_s, random.Random())
        self._log = structlog.get_logger("smpp").bind(provider=terms.provider, bind=bind.name)
        self._reason = ""
        self._bound_s = 0.0
        self._was_bound = False
        self._connection: Connection | None = None
        self.slowdown = Slowdown()
        # Messages that have begun here and have a segment to send: now, and after the next tick.
        self.queue: deque[Sending] = deque()
        self.later: deque[Sending] = deque()
        # How long `tick` has nothing to do as long as nothing is sent, seconds; 0.0 while it is not bound.
        self.calm_s = 0.0
        # The session that carries messages; None while there is none.
        self.session: Session[Sending] | None = None

    def room(self, now_s: float) -> int:
        """How many segments may be sent now."""
        session, connection = self.session, self._connection
        if session is None or connection is None or session.state != "bound" or not connection.writable:
            return 0
        room = self._terms.window - len(session.pending)
        return min(room, self.slowdown.allowed(now_s)) if self.slowdown.rate else room

    def send(self, segments: Segments) -> None:
        """Send these segments; call it only when there is `room` for them. They go out with `flush`."""
        if segments and self.session is not None:
            self.session.submit(segments)
            if self.slowdown.rate:
                self.slowdown.sent(len(segments))

    def flush(self) -> None:
        """Write what has gathered in the session; nothing while no connection stands."""
        if self._connection is not None:
            self._connection.flush()

    def tick(self, now_s: float, overdue_s: float) -> Segments:
        """Let time pass. Takes out the submits of messages that were begun at `overdue_s` or before."""
        connection = self._connection
        if connection is None:
            self.calm_s = 0.0
            return []
        self.calm_s = connection.session.tick(now_s)
        late = connection.session.overdue(overdue_s)
        connection.flush()
        return late

    @property
    def busy(self) -> bool:
        """Whether it has messages that are not answered, or not sent."""
        in_flight = self._connection is not None and bool(self._connection.session.pending)
        return in_flight or bool(self.queue or self.later)

    async def keep(self) -> None:
        """Bind, and bind again whenever the session ends, until canceled."""
        try:
            while True:
                try:
                    reason = await self._one_session()
                except Exception as e:  # whatever it is, this line goes on
                    reason = "fault"
                    self._log.error("session failed", exc_info=e)
                now_s = time.monotonic()
                if self._bound_s and now_s - self._bound_s >= _HELD_S:
                    self._backoff.reset()
                if reason != self._reason and reason != "stopped":
                    self._log.warning("session lost" if self._bound_s else "cannot be bound", reason=reason)
                self._reason, self._bound_s = reason, 0.0
                until_s = now_s + self._backoff.next()
                while (left_s := until_s - time.monotonic()) > 0:  # noqa: ASYNC110 - timers
                    # may ring a little early
                    await asyncio.sleep(left_s)
        finally:
            if self._connection is not None:
                self._connection.end("stopped")

    def bind_anew(self, now_s: float) -> None:
        """End the session in good order, because its provider does not know of it; another follows."""
        if self.session is not None:
            self.session.unbind(now_s, NOT_BOUND)

    async def unbind(self) -> None:
        """Unbind, and wait for the provider's answer, at most for the time-out."""
        connection = self._connection
        if connection is not None:
            connection.session.unbind(time.monotonic())
            connection.flush()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.over.wait(), min(_CLOSE_S, self._terms.timeout_s))

    async def _one_session(self) -> str:
        """From connecting to the end, and why it ended."""
        terms = self._terms
        session: Session[Sending] = Session(
            self._bind, terms.bind_body, self._counts,
            timeout_s=terms.timeout_s, enquire_link_s=terms.enquire_link_s,
        )  # fmt: skip
        connection = Connection(self, session)
        try:
            async with asyncio.timeout(terms.timeout_s):
                await connect(lambda: connection, terms.host, terms.port, tls=terms.ssl_context)
        except (OSError, UnicodeError) as e:
            reason = _reason(e)
            if self.wire is not None:
                self.wire(connection, "failed", f"{reason}: {e}".encode())
            connection.end(reason)
            return reason
        await connection.over.wait()
        return session.reason

    # -- what its connection reports

    def connected(self, connection: Connection) -> None:
        """The connection of this line stands, and is not bound yet."""
        self._connection = connection

    def opened(self, connection: Connection) -> None:
        """The session of this connection is bound; its owner may send on it."""
        self._counts.rebinds += self._was_bound
        self._was_bound = True
        self._bound_s = time.monotonic()
        self.session = connection.session
        self._log.info("bound")
        self.owner.bound(self)

    def broken(self, data: bytes) -> None:
        """The framing was lost within these octets."""
        self._problems.note(self._terms.provider, ProblemKind.protocol_broken, data)

    def leaving(self) -> None:
        """The session unbinds: nothing more is sent on it."""
        self.session = None
        self.owner.unbound(self, "unbound", [], [])

    def lost(self, connection: Connection, sent: Segments, unsent: Segments) -> None:
        """The connection is over: `sent` segments went out and have no answer, `unsent` never left."""
        reason = connection.session.reason
        self._counts.sessions_lost += bool(self._bound_s) and reason != "stopped"
        self._connection = self.session = None
        if self.wire is not None:
            self.wire(connection, "closed", reason.encode())
        self.owner.unbound(self, reason, sent, unsent)


def _reason(error: Exception) -> str:
    """A stable word for why no connection came about."""
    if isinstance(error, TimeoutError):
        return "connect-timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ssl.SSLError):
        return "tls"
    return "unreachable"
