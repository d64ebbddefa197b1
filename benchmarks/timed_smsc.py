"""An SMSC that accepts everything and notes when it answers each message of some numbers.

    python -m benchmarks.timed_smsc PREFIX ...     prints the port it listens on

A line on stdin is empty or a JSON array. For an empty one it prints a JSON object: for each number that
begins with a PREFIX, the time at which its first message was answered, UTC seconds. An array has points
(quantile 0 to 1, milliseconds) of how long answers take from then on; without any, they go out at once. It
ends with stdin.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from random import Random
from struct import Struct
from typing import cast

import msgspec
import uvloop

from supervisor.simulator.behaviour import Latency
from supervisor.simulator.draws import latency_source

_header = Struct(">IIII")
_ANSWER = 0x80000000
_SUBMIT_SM = 4


class Notes:
    """What all connections share: how long answers take, and when they went out."""

    def __init__(self, prefixes: tuple[bytes, ...]) -> None:
        self.prefixes = prefixes
        # By number, UTC seconds; and the seconds that an answer takes, None: it goes out at once.
        self.answered_s: dict[str, float] = {}
        self.takes_s: Callable[[], float] | None = None

    def answer_after(self, points: list[tuple[float, float]]) -> None:
        """Answer after times of this distribution: (quantile, milliseconds)."""
        self.takes_s = latency_source(Latency(quantiles=points), Random(1)) if points else None


class TimedSmsc(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._rest = b""
        self._taken = 0
        # Answers that go out later, by the millisecond of the loop's time.
        self._later: dict[int, list[bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the answers."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every PDU that `data` completes; a submit_sm with the next id."""
        data, now_s, notes = self._rest + data, time.time(), self._notes
        at, end, answers = 0, len(data), []
        while end - at >= 16:
            length, command, _, sequence = _header.unpack_from(data, at)
            if end - at < length:
                break
            if command == _SUBMIT_SM:
                self._taken += 1
                after_s = notes.takes_s() if notes.takes_s else 0.0
                self._note(data, at + 16, now_s + after_s)
                answer = _header.pack(25, command | _ANSWER, 0, sequence) + b"%08x\0" % self._taken
                if after_s:
                    self._answer_later(answer, after_s)
                else:
                    answers.append(answer)
            elif not command & _ANSWER:
                body = b"smsc\0" if command in (1, 2, 9) else b""
                answers.append(_header.pack(16 + len(body), command | _ANSWER, 0, sequence) + body)
            at += length
        self._rest = data[at:]
        self._transport.write(b"".join(answers))

    def _answer_later(self, answer: bytes, after_s: float) -> None:
        loop = asyncio.get_running_loop()
        due_ms = int((loop.time() + after_s) * 1000) + 1
        if due_ms not in self._later:
            self._later[due_ms] = []
            loop.call_at(due_ms / 1000, self._send, due_ms)
        self._later[due_ms].append(answer)

    def _send(self, due_ms: int) -> None:
        self._transport.write(b"".join(self._later.pop(due_ms)))

    def _note(self, data: bytes, at: int, answered_s: float) -> None:
        """`at`: where the body of a submit_sm begins (SMPP 3.4, 4.4.1)."""
        # service_type, then source_addr behind its ton and npi, then destination_addr behind its own.
        at = data.index(0, at) + 3
        at = data.index(0, at) + 3
        if data.startswith(self._notes.prefixes, at):
            self._notes.answered_s.setdefault(data[at : data.index(0, at)].decode(), answered_s)


async def _serve(prefixes: tuple[bytes, ...]) -> None:
    notes = Notes(prefixes)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: TimedSmsc(notes), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.strip():
            notes.answer_after(msgspec.json.decode(line, type=list[tuple[float, float]]))
        else:
            print(msgspec.json.encode(notes.answered_s).decode(), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(tuple(prefix.encode() for prefix in sys.argv[1:])))
