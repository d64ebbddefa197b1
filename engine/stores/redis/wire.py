"""One connection to Redis, from its beginning to its end: bytes out, replies in, in order.

Wire format: RESP2, https://redis.io/docs/latest/develop/reference/protocol-spec/

A connection that breaks, times out or sends bytes that are not RESP has failed for good. Every batch
in flight on it fails with `Unavailable`, and nothing more is written to it. The link that made it
connects anew (`engine.stores.redis.link`).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, cast

import hiredis

from engine.errors import EngineError, Full, Unavailable
from engine.stores.redis.turn_writer import TurnWriter

# Error codes of a server that cannot do its work now. A batch with such a reply counts as unanswered.
# UNBLOCKED: it has become a replica while a command waited.
_PASSING = frozenset(
    (
        "LOADING",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "NOREPLICAS",
        "MISCONF",
        "BUSY",
        "UNBLOCKED",
    )
)
# When so many bytes are in our own write buffer, callers wait.
_WRITE_BUFFER_MAX = 1 << 20

# What hiredis raises for bytes that are not RESP2: MemoryError for a length beyond memory, TypeError
# for a map of RESP3 that has an array as a key.
_NOT_RESP = (hiredis.HiredisError, MemoryError, TypeError)

# `retry_after` of a failed connection, seconds.
_RETRY_S = 0.02

_MISSING = object()


class ReplyError(EngineError):
    """Redis answered a command with an error; its text begins with a code such as `NOGROUP`."""

    @property
    def code(self) -> str:
        """The first word of the text, such as `NOGROUP`."""
        return str(self).partition(" ")[0]


class OutOfMemory(Full):
    """Redis is at `maxmemory` and refused one or more commands of a batch.

    `replies` are those of the whole batch, in order. A refused command has a ReplyError with the code
    `OOM` and changed nothing; the others were carried out.
    """

    def __init__(self, replies: list[Any]) -> None:
        super().__init__("Redis has no memory left.", retry_after=1.0)
        self.replies = replies


class NoFunctions(Exception):
    """Redis does not have the engine's functions."""


class _Batch:
    """Replies still to come, in order."""

    __slots__ = ("deadline", "future", "missing", "replies")

    def __init__(self, missing: int, deadline: float, future: asyncio.Future[list[Any]]) -> None:
        self.missing = missing
        self.deadline = deadline
        self.future = future
        self.replies: list[Any] = []


class Wire(asyncio.Protocol):
    """One connection; once it has failed it is never used again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, *, together: bool = False) -> None:
        """`together`: what is posted in one turn of the loop is written in one piece, in the next turn."""
        self._loop = loop
        self._name = name
        self._together = together
        self._batches: deque[_Batch] = deque()
        self._reader = hiredis.Reader(replyError=self._error_reply, notEnoughData=_MISSING)
        self._passing = ""
        # What Redis lacked for a command of the batch that is being read.
        self._lacking: Literal["", "memory", "functions"] = ""
        # The next look for an overdue batch, and when that is. (uvloop gives a handle without its time for
        # one that is due at once.)
        self._timer: asyncio.Handle | None = None
        self._timer_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], None] = _nowhere
        self._writable: asyncio.Future[None] | None = None
        self.failure: Unavailable | None = None

    # -- the caller's side

    def post(self, packed: bytes, replies: int, deadline: float) -> asyncio.Future[list[Any]]:
        """Write `packed` now, or in the next turn; the future gives its replies, as many as `replies` says.

        The future raises Unavailable when the connection fails or `deadline` passes (a time of the
        loop, seconds), OutOfMemory and NoFunctions when Redis lacked memory or functions. Raises
        Unavailable itself, and writes nothing, when the connection has failed or is closing.
        """
        if self._transport is None or self._transport.is_closing():
            self.fail("connection closed.")
        if self.failure is not None:
            raise lost(self.failure)
        assert self._transport is not None
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._batches.append(_Batch(replies, deadline, future))
        if self._timer is None or deadline < self._timer_s:
            self._arm(deadline)
        self._write(packed)
        return future

    @property
    def paused(self) -> bool:
        """Whether the write buffer is full; then `writable` waits."""
        return self._writable is not None

    async def writable(self) -> None:
        """Wait until the write buffer has room. Raises Unavailable when the connection fails.

        The wait ends, because the batches in the buffer are answered or time out, and then the
        connection fails.
        """
        while self._writable is not None:
            await asyncio.shield(self._writable)
        if self.failure is not None:
            raise lost(self.failure)

    def fail(self, sentence: str, unsent: Literal["discard", "send"] = "discard") -> None:
        """Drop the connection; batches in flight raise Unavailable with `sentence`, outcome unknown.

        `unsent`: what becomes of that which was written and is still in this machine. Discarded, it cannot
        arrive once the network is whole again, long after its callers have given up.
        """
        if self.failure is not None:
            return
        self.failure = Unavailable(f"Redis ({self._name}): {sentence}", retry_after=_RETRY_S)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            if unsent == "discard":
                _discard(self._transport)
            self._transport.abort()
        for batch in self._batches:
            if not batch.future.done():
                batch.future.set_exception(lost(self.failure))
        self._batches.clear()
        self.resume_writing()

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio calls this when it has connected."""
        self._transport = cast(asyncio.Transport, transport)
        if self.failure is not None:
            # The connection was given up while it was made.
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_MAX)
        self._write = self._transport.write
        if self._together:
            self._write = TurnWriter(self._loop, self._transport, _WRITE_BUFFER_MAX)

    def data_received(self, data: bytes) -> None:
        """asyncio calls this with bytes of replies; complete batches are answered in order."""
        batches, gets = self._batches, self._reader.gets
        try:
            self._reader.feed(data)
            while batches:
                batch = batches[0]
                replies, missing = batch.replies, batch.missing
                while missing:
                    reply = gets()
                    if reply is _MISSING:
                        batch.missing = missing
                        return
                    replies.append(reply)
                    missing -= 1
                if self._passing:
                    break
                batches.popleft()
                self._answer(batch)
            if self._passing:
                self.fail(f"cannot serve now: {self._passing}")
            elif self._reader.has_data():
                self.fail("sent more than it was asked for.")
        except _NOT_RESP as e:
            self.fail(f"sent what is not RESP: {e}.")

    def eof_received(self) -> None:
        """asyncio calls this when the server will send no more: batches in flight fail, and it closes."""
        self.fail("connection closed by the server.")

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio calls this when the connection is gone."""
        self.fail(f"connection lost: {exc}." if exc else "connection closed by the server.")

    def pause_writing(self) -> None:
        """asyncio calls this when the write buffer is full."""
        if self._writable is None and self.failure is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """asyncio calls this when the write buffer has room again."""
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # -- within

    def _answer(self, batch: _Batch) -> None:
        """Give the replies of `batch`, which are complete, to its caller."""
        lacking, self._lacking = self._lacking, ""
        if batch.future.done():
            return
        if lacking == "functions":
            batch.future.set_exception(NoFunctions())
        elif lacking == "memory":
            batch.future.set_exception(OutOfMemory(batch.replies))
        else:
            batch.future.set_result(batch.replies)

    def _error_reply(self, text: str) -> Exception:
        code = text.partition(" ")[0]
        if code in _PASSING:
            self._passing = text
        elif code == "OOM":
            self._lacking = self._lacking or "memory"
        elif code == "ERR" and "Function not found" in text:
            self._lacking = "functions"
        return ReplyError(text)

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._check)
        self._timer_s = deadline

    def _check(self) -> None:
        """Fail when a batch is overdue. One timer serves all batches; it is set anew only when it fires."""
        self._timer = None
        if not self._batches:
            return
        earliest = min(batch.deadline for batch in self._batches)
        if earliest <= self._loop.time():
            self.fail("no answer in time.")
        else:
            self._arm(earliest)


def _nowhere(packed: bytes) -> None:
    """In place of a connection that is not made yet."""
    raise AssertionError("nothing is posted before a connection is made")


def _discard(transport: asyncio.Transport) -> None:
    """Let the kernel forget what it has not sent when the connection ends; it would go on for minutes."""
    connected = transport.get_extra_info("socket")
    if connected is not None and connected.family != socket.AF_UNIX:
        with suppress(OSError):
            # At once, without a farewell: struct linger {on, 0 s}.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def lost(failure: Unavailable | None) -> Unavailable:
    """A copy of a connection's failure for one waiter, because each raised error collects its own frames."""
    assert failure is not None
    return Unavailable(failure.detail, failure.retry_after)
