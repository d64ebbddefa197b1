"""Writes what comes in one turn of the loop in one piece.

uvloop writes at once. So two commands that are sent one after another are two writes, and often two turns of
Redis, each with a sync of its disk.
"""

from __future__ import annotations

import asyncio


class TurnWriter:
    """Call it with octets for a transport; they are written in the next turn, unless it is closed by then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, most: int) -> None:
        """When `most` octets have gathered they are written at once, so that the transport can say that it is
        full."""
        self._loop = loop
        self._transport = transport
        self._most = most
        self._waiting: list[bytes] = []
        self._size = 0

    def __call__(self, octets: bytes) -> None:
        """Write them behind those that wait."""
        if not self._waiting:
            self._loop.call_soon(self._write)
        self._waiting.append(octets)
        self._size += len(octets)
        if self._size >= self._most:
            self._write()

    def _write(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        if waiting and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))
