"""Writes what comes in one turn of the loop in one piece.

uvloop writes at once. So two commands that are sent one after another are two writes, and often two turns of
Redis, each with a sync of its disk.
"""

from __future__ import annotations

import asyncio


class TurnWriter:
    """Call it with octets for a transport; they are written in the next turn, unless it is closed by then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._waiting: list[bytes] = []

    def __call__(self, octets: bytes) -> None:
        """Write them behind those that wait."""
        if not self._waiting:
            self._loop.call_soon(self._write)
        self._waiting.append(octets)

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not self._transport.is_closing():
            self._transport.write(b"".join(waiting))
