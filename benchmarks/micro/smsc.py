"""The least SMSC that a client can be measured with: it accepts every bind and every message.

    python -m benchmarks.micro.smsc       prints the port it listens on

The answers to all PDUs of one read go out in one write. Ids count up, eight hex digits each.
"""

from __future__ import annotations

import asyncio
import sys
from struct import Struct
from typing import cast

import uvloop

_header = Struct(">IIII")
_ANSWER = 0x80000000
_SUBMIT_SM = 4


class Smsc(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self) -> None:
        self._rest = b""
        self._taken = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the answers."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every PDU that `data` completes; a submit_sm with the next id."""
        data = self._rest + data
        at, end, answers = 0, len(data), []
        unpack, pack = _header.unpack_from, _header.pack
        while end - at >= 16:
            length, command, _, sequence = unpack(data, at)
            if end - at < length:
                break
            at += length
            if command == _SUBMIT_SM:
                self._taken += 1
                answers.append(pack(25, command | _ANSWER, 0, sequence) + b"%08x\0" % self._taken)
            elif not command & _ANSWER:
                body = b"smsc\0" if command in (1, 2, 9) else b""
                answers.append(pack(16 + len(body), command | _ANSWER, 0, sequence) + body)
        self._rest = data[at:]
        self._transport.write(b"".join(answers))


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Smsc, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Ends when the process that started it closes its end of the pipe, or dies.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
