"""The front of the API: the calls that submit messages, and who serves each connection.

A request costs aiohttp a task, a parsed head of many objects and a response assembled from others; that is
three quarters of what accepting one message costs. Here a request of the plain form is read from the octets
of its connection (`heads`), and its answer is written when Redis's answer calls it (`connection`).
Everything else is handed over to aiohttp as it came, with its connection: both give the same answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from engine.api.auth import Keys
from engine.api.edge.connection import EdgeConnection
from engine.api.edge.parts import Parts
from engine.api.ports import Services
from engine.api.server import Connections


class Edge:
    """The port `server.Front`. One per process, on its loop."""

    def __init__(self, services: Services, keys: Keys, connections_max: int = 10_000) -> None:
        """`keys`: those that the application has, too. Call this on the loop that will serve it.

        `connections_max`: when there are more, idle ones are closed (`room`).
        """
        self._parts = Parts(services, keys, connections_max)

    def serve(self, connections: Connections) -> Callable[[], asyncio.Protocol]:
        """What makes the protocol of each new connection. `connections` is called for one to hand over to."""
        self._parts.aiohttp = connections
        return lambda: EdgeConnection(self._parts)

    async def none_open(self) -> None:
        """Wait until there is no connection."""
        await self._parts.none_open.wait()

    def pre_shutdown(self) -> None:
        """Close the connections without a request; the others are closed with their answer."""
        self._parts.is_ending = True
        for connection in list(self._parts.connections):
            connection.end_if_idle()

    async def shutdown(self, timeout_s: float) -> None:
        """Let requests under way end, and give up those that have not ended after `timeout_s` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._parts.none_open.wait(), timeout_s)
        for connection in list(self._parts.connections):
            connection.give_up()
