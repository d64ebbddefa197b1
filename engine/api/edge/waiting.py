"""What a connection keeps while it waits: octets behind a request, a body on its way, a silent client."""

from __future__ import annotations

import asyncio

from engine.api.edge.heads import Head
from engine.api.stalled_writes import StalledWrites

# So much may wait behind a request that is under way before the connection is read no further, octets.
BEHIND_MAX = 65536


class Unserved:
    """Octets that have come and are not served yet. The connection is not read while there are too many."""

    __slots__ = ("_is_paused", "octets")

    def __init__(self) -> None:
        self.octets = bytearray()
        self._is_paused = False

    def hold(self, data: bytes, transport: asyncio.Transport) -> None:
        """Keep `data` behind what is here."""
        self.octets += data
        if len(self.octets) > BEHIND_MAX and not self._is_paused:
            self._is_paused = True
            transport.pause_reading()

    def take(self) -> bytes:
        """Take all out."""
        taken, self.octets = bytes(self.octets), bytearray()
        return taken

    def read_on(self, transport: asyncio.Transport) -> None:
        """Read the connection again, unless too much is still here."""
        if self._is_paused and len(self.octets) <= BEHIND_MAX:
            self._is_paused = False
            transport.resume_reading()


class AwaitedBody:
    """A body that has not come whole yet."""

    __slots__ = ("head", "octets", "since_s")

    def __init__(self, head: Head, octets: bytes) -> None:
        """`octets`: what has come."""
        self.head = head
        self.octets = bytearray(octets)
        # The loop's time.
        self.since_s = asyncio.get_running_loop().time()

    @property
    def waited_s(self) -> float:
        """How long it is awaited, seconds."""
        return asyncio.get_running_loop().time() - self.since_s


class IdleClock:
    """Closes a connection that has been without a request for long."""

    __slots__ = ("_limit_s", "_stalled", "_timer", "_transport", "busy", "since_s")

    def __init__(
        self, transport: asyncio.Transport, stalled: StalledWrites, first_s: float, limit_s: float
    ) -> None:
        """`stalled`: watches the connection when it is closed. `first_s`: how long the first request may stay
        out, `limit_s`: each later one, seconds."""
        loop = asyncio.get_running_loop()
        self._transport = transport
        self._stalled = stalled
        self._limit_s = limit_s
        # Whether a request is under way; if not, since when. The loop's time.
        self.busy = False
        self.since_s = loop.time() + first_s - limit_s
        self._timer = loop.call_later(first_s, self._look)

    def stop(self) -> None:
        """Close nothing any more."""
        self._timer.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._limit_s if self.busy else self.since_s + self._limit_s - loop.time()
        if left_s > 0:
            self._timer = loop.call_later(left_s, self._look)
        else:
            self._transport.close()
            self._stalled.begin(self._transport)
