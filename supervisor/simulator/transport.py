"""What both servers of the simulator need of the event loop: late answers, resets, joined writes."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import socket
import struct
import time
from collections.abc import Callable
from typing import Generic, TypeVar, cast

# Things given at one ring of the timer; between two rings the sockets have their turn.
GIVEN_MAX = 2_000

T = TypeVar("T")


class Delays(Generic[T]):
    """Things to be given later, in order of time: one heap, and one timer for the first of them."""

    def __init__(self, give: Callable[[T], None]) -> None:
        self._give = give
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0

    def add(self, due_s: float, thing: T) -> None:
        """Give `thing` at `due_s` by time.monotonic(), never from inside this call."""
        self._count += 1  # keeps things due at the same time in order
        heapq.heappush(self._heap, (due_s, self._count, thing))
        if self._timer is None or due_s < self._timer_at_s:
            self._arm(due_s)

    def clear(self) -> None:
        """Forget all things that have not been given."""
        self._heap.clear()

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = due_s
        pause_s = max(0.0, due_s - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        # The loop's clock ticks in milliseconds, so what is due within half a millisecond is given.
        horizon_s = time.monotonic() + 0.0005
        heap = self._heap
        for _ in range(GIVEN_MAX):
            if not heap or heap[0][0] > horizon_s:
                break
            self._give(heapq.heappop(heap)[2])
        if heap and self._timer is None:
            self._arm(heap[0][0])


def reset(transport: asyncio.Transport) -> None:
    """End the connection with RST instead of FIN."""
    linger = struct.pack("ii", 1, 0)  # socket(7)
    sock: socket.socket = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


class Line(asyncio.Protocol):
    """A connection whose writes of one turn of the loop go out in one call."""

    __slots__ = ("_flushing", "_out", "_paused", "_transport", "_willing")

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        # A flush is scheduled.
        self._flushing = False
        # The client has to catch up with reading.
        self._paused = False
        # Whether more is to be read, as far as this side is concerned.
        self._willing = True

    @property
    def is_open(self) -> bool:
        """False from `close` or `cut` on, or when the client has gone."""
        return self._transport is not None

    @property
    def is_clogged(self) -> bool:
        """Whether the client has to catch up with reading before more is sent."""
        return self._paused

    def say(self, data: bytes) -> None:
        """Write `data`, together with all else that is said in this turn of the loop."""
        self._out.append(data)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def read(self, willing: bool) -> None:
        """Read on, or stop reading. Nothing is read from a client that does not read itself."""
        self._willing = willing
        transport = self._transport
        if transport is None:
            return
        wanted = willing and not self._paused
        if wanted and not transport.is_reading():
            transport.resume_reading()
        elif not wanted:
            transport.pause_reading()

    def close(self) -> None:
        """Close the connection after what has been said."""
        self._flush()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def cut(self) -> None:
        """Reset the connection after as much of what has been said as the socket takes at once."""
        self._flush()
        transport, self._transport = self._transport, None
        if transport is not None:
            reset(transport)

    def _flush(self) -> None:
        self._flushing = False
        out = self._out
        if self._transport is not None and out:
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])
        out.clear()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport: the connection is open."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the transport: the connection is no longer open."""
        self._transport = None

    def pause_writing(self) -> None:
        """Stop reading, because the client does not read."""
        self._paused = True
        self.read(self._willing)

    def resume_writing(self) -> None:
        """Read on, if more is to be read."""
        self._paused = False
        self.read(self._willing)
