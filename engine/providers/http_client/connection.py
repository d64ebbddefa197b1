"""One keep-alive connection of the provider client: one request out, one answer in.

No pipelining: when a provider skips one answer, every answer after it would go to the wrong
message, and an SMS that is charged to the wrong message cannot be taken back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal, Protocol, cast

import msgspec

from engine.providers.http_client.answer import AnswerReader
from engine.providers.ports import Wire
from engine.providers.wire import describe_transport


class HttpOutcome(msgspec.Struct, frozen=True, gc=False):
    """How one request ended.

    answered    `status` and the whole `body`
    not_sent    no byte of it left this process: safe to send again anywhere
    unanswered  it was written at least in part and no whole answer came: the server
                may have acted on it
    `reason` is a stable word for the last two, "" for the first.
    """

    kind: Literal["answered", "not_sent", "unanswered"]
    status: int = 0
    body: bytes = b""
    reason: str = ""
    # From the write to the end of the answer, or to giving up; 0 when not sent.
    latency_us: int = 0
    # Of the answer, those that the pool was asked to keep, by name in lower case.
    headers: dict[bytes, bytes] = {}
    # Of an answer that breaks the protocol, its beginning, whether it could be read or not.
    broken: bytes = b""


# Called exactly once per request.
Done = Callable[[HttpOutcome], None]


class Owner(Protocol):
    """What a connection calls on the pool that it belongs to."""

    def opened(self, connection: Connection) -> None:
        """It is connected and can be given a request."""

    def released(self, connection: Connection, reusable: bool) -> None:
        """Its request has ended; the owner may give it the next one at once."""

    def lost(self, connection: Connection) -> None:
        """It never carries another request. May be called more than once for one connection."""


class Connection(asyncio.Protocol):
    """Carries one request at a time; its owner never calls `send` on a busy one."""

    __slots__ = (
        "_answer",
        "_done",
        "_owner",
        "_sent_ns",
        "_transport",
        "_wire",
        "deadline_ns",
        "idle_since_ns",
    )

    def __init__(
        self, owner: Owner, body_bytes_max: int, keep: frozenset[bytes], wire: Wire | None = None
    ) -> None:
        self._owner = owner
        self._wire = wire
        self._answer = AnswerReader(body_bytes_max, keep)
        self._transport: asyncio.Transport | None = None
        self._done: Done | None = None
        self._sent_ns = 0
        self.deadline_ns = 0
        self.idle_since_ns = 0

    @property
    def busy(self) -> bool:
        """Whether a request waits for its answer here."""
        return self._done is not None

    def send(self, payload: bytes, deadline_ns: int, done: Done) -> bool:
        """Write a whole request; False when no byte of it left, and `done` is not kept.

        False rests on the first system call: on a plain socket with nothing buffered
        both uvloop and asyncio try it inside `write`, and one that fails (the server
        has reset the idle connection) has taken nothing. A server that closed in good
        order is only noticed afterwards; that request ends unanswered.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        self._answer.expect()
        self._sent_ns = time.monotonic_ns()
        self.deadline_ns = deadline_ns
        transport.write(payload)
        if transport.is_closing() and transport.get_extra_info("ssl_object") is None:
            return False
        if self._wire is not None:
            self._wire(self, "sent", payload)
        self._done = done
        return True

    def close(self) -> None:
        """Close an idle connection in good order."""
        if self._transport is not None:
            self._transport.close()

    def give_up(self, reason: str) -> None:
        """End the request in hand, if any, as unanswered, and drop the connection."""
        if self._transport is not None:
            self._transport.abort()
        self._owner.lost(self)
        done, self._done = self._done, None
        if done is not None:
            latency_us, broken = self._latency_us(), self._answer.broken
            tell(done, HttpOutcome("unanswered", reason=reason, latency_us=latency_us, broken=broken))

    def _latency_us(self) -> int:
        return (time.monotonic_ns() - self._sent_ns) // 1000

    def _deliver(self) -> None:
        # Take everything out first: `released` may begin the next request on this connection.
        done, self._done = self._done, None
        answer = self._answer
        outcome = HttpOutcome(
            "answered", answer.status, answer.body, "", self._latency_us(), answer.headers, answer.broken
        )
        self._owner.released(self, answer.reusable)
        if done is not None:
            tell(done, outcome)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport once it is connected."""
        self._transport = cast("asyncio.Transport", transport)
        if self._wire is not None:
            self._wire(self, "connected", describe_transport(self._transport))
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """Called by the transport with bytes of the answer; others end the connection."""
        if self._wire is not None:
            self._wire(self, "received", data)
        if self._done is None:
            # Without a request there is no answer: what comes next could not be trusted either.
            self.give_up("unasked")
            return
        answer = self._answer
        answer.feed(data)
        if answer.complete:
            self._deliver()
        elif answer.fault:
            self.give_up(answer.fault)

    def eof_received(self) -> None:
        """Called by the transport when the server has closed its side: some answers end with that."""
        if self._done is not None:
            self._answer.feed_eof()
            if self._answer.complete:
                self._deliver()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport once it is closed; the request in hand ends unanswered."""
        self._transport = None
        if self._wire is not None:
            self._wire(self, "closed", b"closed" if exc is None else str(exc).encode())
        if self._answer.begun:
            self.give_up("cut-short")
        else:
            self.give_up("reset" if isinstance(exc, ConnectionError) else "closed")
        self._answer.close()


def tell(done: Done, outcome: HttpOutcome) -> None:
    """Call `done`. What it raises goes to the loop's handler, so that other requests get their outcome."""
    try:
        done(outcome)
    except Exception as e:  # whatever it is, other requests wait behind this one
        asyncio.get_running_loop().call_exception_handler(
            {"message": "A request's callback failed.", "exception": e}
        )
