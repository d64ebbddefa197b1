"""Cuts a connection whose client takes nothing of what is written to it.

TCP gives up a peer that is gone, but not one that answers and keeps its window closed. Such a client would
hold a descriptor, and what waits for it, for ever: a connection that is closed in the usual way stays until
the last octet is taken.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

# A client has taken nothing for so long: it is given up, seconds.
STALL_S = 30.0


class StalledWrites:
    """Watches one connection while it waits for its client: from where its writing is paused until it may go
    on, or from where it is closed before all is taken.

    A client that reads slowly is left alone: each look asks only whether anything was taken since the last.
    """

    __slots__ = ("_left", "_timer")

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        # Octets that waited for the client at the last look.
        self._left = 0

    def begin(self, transport: asyncio.Transport) -> None:
        """Writing is paused, as more waits than the client takes; or the connection is closed."""
        self.end()
        self._left = transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(STALL_S, self._look, transport)

    def end(self) -> None:
        """Writing goes on, or the connection is gone or somebody else's."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, transport: asyncio.Transport) -> None:
        if transport.get_write_buffer_size() < self._left:
            self.begin(transport)
        else:
            self._timer = None
            transport.abort()


class CutWhenStalled(web.RequestHandler):
    """A connection of aiohttp's that is cut when its client takes nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._stalled = StalledWrites()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        super().pause_writing()
        if self.transport is not None:
            self._stalled.begin(self.transport)

    def resume_writing(self) -> None:
        """The client has read what we wrote; of a connection that is being closed, only a part."""
        if self.transport is not None:
            self._stalled.end()
        super().resume_writing()

    def force_close(self) -> None:
        """Close the connection, whatever its client takes of what was written."""
        transport = self.transport
        super().force_close()
        if transport is not None and transport.get_write_buffer_size():
            self._stalled.begin(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone, or somebody else's."""
        self._stalled.end()
        super().connection_lost(exc)
