"""An SMSC that accepts everything and notes when each message of some numbers came.

    python -m benchmarks.timed_smsc PREFIX ...     prints the port it listens on

For each line on stdin it prints a JSON object: for each number that begins with a PREFIX, the time at which
its first message came, UTC seconds. It ends with stdin.
"""

from __future__ import annotations

import asyncio
import sys
import time
from struct import Struct
from typing import cast

import msgspec
import uvloop

_header = Struct(">IIII")
_ANSWER = 0x80000000
_SUBMIT_SM = 4


class TimedSmsc(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, prefixes: tuple[bytes, ...], came_s: dict[str, float]) -> None:
        """`came_s`: where the times are noted, by number."""
        self._prefixes, self._came_s = prefixes, came_s
        self._rest = b""
        self._taken = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the answers."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every PDU that `data` completes; a submit_sm with the next id."""
        data, now_s = self._rest + data, time.time()
        at, end, answers = 0, len(data), []
        while end - at >= 16:
            length, command, _, sequence = _header.unpack_from(data, at)
            if end - at < length:
                break
            if command == _SUBMIT_SM:
                self._taken += 1
                self._note(data, at + 16, now_s)
                answers.append(_header.pack(25, command | _ANSWER, 0, sequence) + b"%08x\0" % self._taken)
            elif not command & _ANSWER:
                body = b"smsc\0" if command in (1, 2, 9) else b""
                answers.append(_header.pack(16 + len(body), command | _ANSWER, 0, sequence) + body)
            at += length
        self._rest = data[at:]
        self._transport.write(b"".join(answers))

    def _note(self, data: bytes, at: int, now_s: float) -> None:
        """`at`: where the body of a submit_sm begins (SMPP 3.4, 4.4.1)."""
        # service_type, then source_addr behind its ton and npi, then destination_addr behind its own.
        at = data.index(0, at) + 3
        at = data.index(0, at) + 3
        if data.startswith(self._prefixes, at):
            self._came_s.setdefault(data[at : data.index(0, at)].decode(), now_s)


async def _serve(prefixes: tuple[bytes, ...]) -> None:
    came_s: dict[str, float] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: TimedSmsc(prefixes, came_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(msgspec.json.encode(came_s).decode(), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(tuple(prefix.encode() for prefix in sys.argv[1:])))
