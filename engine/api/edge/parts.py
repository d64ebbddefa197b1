"""What the connections of one process use together."""

from __future__ import annotations

import asyncio
from typing import Protocol

from engine.api.auth import Keys
from engine.api.edge.heads import Heads
from engine.api.edge.room import Room, Seat, bound
from engine.api.guard import RequestIds
from engine.api.ports import Services
from engine.api.server import Connections, TakeBack
from engine.clocks.expiry import Expiry

# A body that takes longer is aiohttp's to wait for, seconds.
_BODY_S_MAX = 1.0


class Late(Protocol):
    """A request under way."""

    def expire(self) -> None:
        """Its time is over."""


class Member(Protocol):
    """A connection that is served here."""

    def pass_on(self) -> None:
        """Let aiohttp wait for the body that has not come whole yet."""

    def end_if_idle(self) -> bool:
        """Close it when it has no request, because the server ends or others need its room; whether it
        had none."""

    def give_up(self) -> None:
        """Give up the request under way without an answer, and the connection."""


class Parts:
    """What the connections use, and all that there are of them."""

    def __init__(self, services: Services, keys: Keys, connections_max: int) -> None:
        """Call this on the loop that will serve them."""
        self.loop = asyncio.get_running_loop()
        self.ingest = services.ingest
        self.keys = keys
        self.ready = services.ready
        self.body_bytes_max = services.body_bytes_max
        self.timeout_s = services.timeout_s
        self.heads = Heads()
        self.ids = RequestIds()
        self.counts = services.counts
        self.deadlines: Expiry[Late] = Expiry(services.timeout_s, lambda request: request.expire())
        self.bodies: Expiry[Member] = Expiry(
            min(_BODY_S_MAX, services.timeout_s), lambda connection: connection.pass_on()
        )
        # Those of clients, and those whose client has gone and whose request is still under way.
        self.connections: set[Member] = set()
        # Where connections are handed over to; set when the server starts.
        self.aiohttp: Connections | None = None
        # The server ends: every connection closes after its answer.
        self.is_ending = False
        self._parting = services.parting
        # Of all connections, those of aiohttp too.
        self.room = Room(bound(connections_max))
        # Set while there is no connection.
        self.none_open = asyncio.Event()
        self.none_open.set()

    def closes(self) -> bool:
        """Whether every connection closes after its answer now, because the process ends
        or its node is drained."""
        return self.is_ending or self._parting()

    def hand_over(
        self,
        transport: asyncio.Transport,
        data: bytes,
        waited_s: float,
        writing_paused: bool,
        seat: Seat,
        take_back: TakeBack,
    ) -> None:
        """Let aiohttp serve a connection: see `server.Connection.adopt`."""
        assert self.aiohttp is not None
        self.aiohttp().adopt(
            transport, data, waited_s=waited_s, writing_paused=writing_paused, seat=seat, take_back=take_back
        )

    def joined(self, connection: Member) -> None:
        """A connection is served here."""
        self.connections.add(connection)
        self.none_open.clear()

    def left(self, connection: Member) -> None:
        """A connection is lost and has no request, or is aiohttp's now."""
        self.connections.discard(connection)
        if not self.connections:
            self.none_open.set()
