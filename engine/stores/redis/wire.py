"""One connection to Redis, from made to lost: bytes out, replies in, in order.

A connection that breaks, times out or answers what nobody can read has failed for good: every
batch in flight on it fails with `Unavailable`, and nothing is written to it any more. Whoever
made it connects anew (`engine.stores.redis.link`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Literal, cast

import hiredis

from engine.errors import EngineError, Full, Unavailable

# The server is there but cannot do its work now; such an answer is as good as none.
_PASSING = frozenset(
    ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "MISCONF", "BUSY")
)
# Bytes waiting in our own write buffer before callers have to wait.
_WRITE_BUFFER_MAX = 1 << 20

# What hiredis raises for bytes that are no RESP2. A length beyond memory is a MemoryError, a
# map of RESP3 with an array as its key a TypeError.
_NOT_RESP = (hiredis.HiredisError, MemoryError, TypeError)

# After a failure callers may try again so soon, seconds.
_RETRY_S = 0.02

_MISSING = object()


class ReplyError(EngineError):
    """Redis answered a command with an error; its text begins with a code such as `NOGROUP`."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class OutOfMemory(Full):
    """Redis is at `maxmemory` and refused one or more commands of a batch.

    `replies` are those of the whole batch, in order: a refused command, a ReplyError of the code
    `OOM`, changed nothing; the others were carried out.
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
    """One connection, from made to lost; never used again once it has failed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._name = name
        self._batches: deque[_Batch] = deque()
        self._reader = hiredis.Reader(replyError=self._error_reply, notEnoughData=_MISSING)
        self._passing = ""
        # What the answer that is being read lacks, if anything.
        self._lacking: Literal["", "memory", "functions"] = ""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._writable: asyncio.Future[None] | None = None
        self.failure: Unavailable | None = None

    # -- the caller's side

    def post(self, packed: bytes, replies: int, deadline: float) -> asyncio.Future[list[Any]]:
        """Write now; the future gives `replies` replies, or Unavailable.

        `deadline` is a time of the loop, in seconds. Raises Unavailable, and writes nothing,
        when the connection has failed or is closing: no event would ever end that future.
        """
        if self._transport is None or self._transport.is_closing():
            self.fail("connection closed.")
        if self.failure is not None:
            raise lost(self.failure)
        assert self._transport is not None
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._batches.append(_Batch(replies, deadline, future))
        if self._timer is None or deadline < self._timer.when():
            self._arm(deadline)
        self._transport.write(packed)
        return future

    @property
    def paused(self) -> bool:
        return self._writable is not None

    async def writable(self) -> None:
        """Wait until the write buffer has room. It ends: the batches that fill the buffer
        are answered or time out, and then the wire fails."""
        while self._writable is not None:
            await asyncio.shield(self._writable)
        if self.failure is not None:
            raise lost(self.failure)

    def fail(self, sentence: str) -> None:
        """Drop the connection; everything in flight has an unknown outcome."""
        if self.failure is not None:
            return
        self.failure = Unavailable(f"Redis ({self._name}): {sentence}", retry_after=_RETRY_S)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        for batch in self._batches:
            if not batch.future.done():
                batch.future.set_exception(lost(self.failure))
        self._batches.clear()
        self.resume_writing()

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.failure is not None:
            # Nobody waits for this connection any more.
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_MAX)

    def data_received(self, data: bytes) -> None:
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
        """The server says nothing more: what is unanswered stays so. The transport closes."""
        self.fail("connection closed by the server.")

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(f"connection lost: {exc}." if exc else "connection closed by the server.")

    def pause_writing(self) -> None:
        if self._writable is None and self.failure is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # -- within

    def _answer(self, batch: _Batch) -> None:
        """All replies of `batch` have come."""
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

    def _check(self) -> None:
        """One timer for all batches: it is set anew only when it fires, not per batch."""
        self._timer = None
        if not self._batches:
            return
        earliest = min(batch.deadline for batch in self._batches)
        if earliest <= self._loop.time():
            self.fail("no answer in time.")
        else:
            self._arm(earliest)


def lost(failure: Unavailable | None) -> Unavailable:
    """The failure of a connection for one waiter: each has its own, as a raised one collects frames."""
    assert failure is not None
    return Unavailable(failure.detail, failure.retry_after)
