"""One client's connection, as long as it carries plain calls that submit messages.

Requests are served one after another, in the order in which they came; what comes meanwhile waits in this
process, up to a bound. Whatever is not a plain call, and whatever else is unusual, is aiohttp's: see `edge`.

    the client leaves           a request under way goes on: what was admitted stays admitted; nobody is
                                answered
    it reads slowly             the next request waits until it has read its answers
    it reads nothing            the connection is cut after a while (`StalledWrites`)
    its head does not come      the connection is closed when it has been without a request for long
    its body does not come      after a moment aiohttp waits for it, and counts that moment
    its request takes too long  what was not sent to Redis is taken back, and the client is told 503
    the server ends             a request under way has its answer, and then the connection is closed
"""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp.tcp_helpers import tcp_keepalive

from engine.api import server
from engine.api.edge.exchange import Exchange
from engine.api.edge.heads import HEAD_MAX, Head, Origin, may_be_one
from engine.api.edge.parts import Parts
from engine.api.edge.room import Seat
from engine.api.edge.waiting import AwaitedBody, IdleClock, Unserved
from engine.api.stalled_writes import StalledWrites
from engine.errors import Refusal


class EdgeConnection(asyncio.Protocol):
    """A connection, as the loop calls it."""

    __slots__ = (
        "_awaited",
        "_exchange",
        "_is_serving",
        "_is_writing_paused",
        "_parts",
        "_seat",
        "_stalled",
        "_transport",
        "_unserved",
        "idle",
        "peer",
    )

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        # None: the client has gone, or the connection is aiohttp's.
        self._transport: asyncio.Transport | None = None
        # The `peername` of the transport; None: nobody knows it.
        self.peer: object = None
        # Whether it has a request, and since when it has none; None: nobody has connected.
        self.idle: IdleClock | None = None
        # Of a head that is not whole, or behind the request under way.
        self._unserved = Unserved()
        # The body that is awaited, or the request under way; at most one of the two.
        self._awaited: AwaitedBody | None = None
        self._exchange: Exchange | None = None
        # `_serve` goes on by itself behind a request that has its answer at once.
        self._is_serving = False
        self._is_writing_paused = False
        self._stalled = StalledWrites()
        # Its place among all connections; None: nobody has connected.
        self._seat: Seat | None = None

    # -- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport, first_s: float | None = None) -> None:
        """A client has connected, or is back; `first_s`: how long its first request may stay out, seconds."""
        transport = cast(asyncio.Transport, transport)
        if self._seat is None:
            self._seat = self._parts.room.enter(self)
        self._seat.holder = self
        if first_s is None:
            tcp_keepalive(transport)
            self.peer = transport.get_extra_info("peername")
            first_s = server.FIRST_REQUEST_S
        self._transport = transport
        self.idle = IdleClock(transport, self._stalled, first_s, server.KEEP_ALIVE_S)
        self._parts.joined(self)

    def connection_lost(self, exc: BaseException | None, *, is_handed_over: bool = False) -> None:
        """The client has gone, or is aiohttp's now. A request under way goes on."""
        if self._seat is not None and not is_handed_over:
            self._seat.leave()
        self._transport = self._awaited = None
        self._stalled.end()
        if self.idle is not None:
            self.idle.stop()
        if self._exchange is None:
            self._parts.left(self)

    def data_received(self, data: bytes) -> None:
        """Serve the requests in what has come."""
        transport, awaited = self._transport, self._awaited
        if transport is None or transport.is_closing():
            return
        if awaited is not None:
            awaited.octets += data
            size = awaited.head.length
            if len(awaited.octets) >= size:
                self._parts.bodies.stop(self)
                self._awaited = None
                body, rest = bytes(awaited.octets[:size]), bytes(awaited.octets[size:])
                self._begin(awaited.head, body, awaited.waited_s)
                self._serve(transport, rest)
        elif self._exchange is not None or self._is_writing_paused:
            self._unserved.hold(data, transport)
        elif self._unserved.octets:
            self._serve(transport, self._unserved.take() + data)
        else:
            self._serve(transport, data)

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._is_writing_paused = True
        if self._transport is not None:
            self._stalled.begin(self._transport)

    def resume_writing(self) -> None:
        """The client has read what we wrote."""
        self._is_writing_paused = False
        # What is left of a connection that is being closed may stall too.
        if self._transport is not None and not self._transport.is_closing():
            self._stalled.end()
        if self._exchange is None and self._transport is not None:
            self._serve(self._transport, self._unserved.take())

    # -- what the exchange and the edge call

    @property
    def is_gone(self) -> bool:
        """Whether nobody would read an answer."""
        return self._transport is None

    def answer(self, octets: bytes, *, closes: bool, with_key: bool) -> None:
        """Write the answer to the request under way, and close the connection when it `closes`.

        `with_key`: the request came with a good key."""
        self._exchange = None
        transport, idle = self._transport, self.idle
        if transport is None or idle is None:
            self._parts.left(self)
            return
        transport.write(octets)
        if closes:
            transport.close()
            return
        idle.busy = False
        idle.since_s = self._parts.loop.time()
        assert self._seat is not None
        self._seat.answered(with_key=with_key)
        if self._unserved.octets and not self._is_serving:
            self._serve(transport, self._unserved.take())

    def end_if_idle(self) -> bool:
        """Close it when it has no request, because the server ends or others need its room; whether it
        had none."""
        if self._exchange is not None or self._awaited is not None or self._transport is None:
            return False
        self._transport.close()
        return True

    def give_up(self) -> None:
        """Give up the request under way without an answer, and the connection."""
        transport = self._transport
        if self._exchange is not None:
            self._exchange.give_up()
        if transport is not None:
            transport.abort()

    def pass_on(self) -> None:
        """Let aiohttp wait for the body that has not come whole yet."""
        awaited, transport = self._awaited, self._transport
        if awaited is None or transport is None:
            return
        self._awaited = None
        if self._parts.is_ending:
            transport.close()
        else:
            self._hand_over(transport, bytes(awaited.head.octets + awaited.octets), awaited.waited_s)

    # -- within

    def _serve(self, transport: asyncio.Transport, data: bytes) -> None:
        """Serve the requests in `data`, up to one that is under way or has not come whole."""
        parts = self._parts
        self._is_serving = True
        while data and not transport.is_closing():
            if self._exchange is not None or self._is_writing_paused:
                self._unserved.hold(data, transport)
                break
            end = data.find(b"\r\n\r\n", 0, HEAD_MAX) + 4
            head = parts.heads.of(data[:end]) if end > 3 else None
            if head is None or head.length > parts.body_bytes_max:
                if end == 3 and len(data) < HEAD_MAX and may_be_one(data):
                    self._unserved.hold(data, transport)
                else:
                    self._hand_over(transport, data)
                break
            end_of_body = end + head.length
            if len(data) < end_of_body:
                self._await_body(transport, head, data)
                break
            if head.closes and len(data) > end_of_body:
                # More than its last request: aiohttp refuses that.
                self._hand_over(transport, data)
                break
            self._begin(head, data[end:end_of_body])
            data = data[end_of_body:]
        self._is_serving = False
        self._unserved.read_on(transport)

    def _begin(self, head: Head, body: bytes, waited_s: float = 0.0) -> None:
        assert self.idle is not None
        self.idle.busy = True
        self._exchange = Exchange(self._parts, self, head)
        self._exchange.begin(body, waited_s)

    def _await_body(self, transport: asyncio.Transport, head: Head, data: bytes) -> None:
        """Wait for the rest of a body whose sender is sure to be let in; any other is aiohttp's."""
        try:
            known = (
                head.presented is not None
                and self._parts.keys.sender_at_once(head.presented, Origin(head, self)) is not None
            )
        except Refusal:
            known = False
        if known and self.idle is not None:
            self.idle.busy = True
            self._awaited = AwaitedBody(head, data[len(head.octets) :])
            self._parts.bodies.begin(self)
        else:
            self._hand_over(transport, data)

    def _hand_over(self, transport: asyncio.Transport, data: bytes, waited_s: float = 0.0) -> None:
        """Let aiohttp serve the connection, from its octets `data` on."""
        self._unserved.read_on(transport)
        self.connection_lost(None, is_handed_over=True)
        assert self._seat is not None

        def take_back(transport: asyncio.Transport, data: bytes, is_writing_paused: bool) -> None:
            transport.set_protocol(self)
            self.connection_made(transport, server.KEEP_ALIVE_S)
            self._is_writing_paused = False
            if is_writing_paused:
                self.pause_writing()
            self.data_received(data)

        self._parts.hand_over(transport, data, waited_s, self._is_writing_paused, self._seat, take_back)
