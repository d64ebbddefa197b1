"""A closed HTTP load that costs little: wrk where it is installed, else a client of our own.

    python -m benchmarks.edge_load PORT CONNECTIONS SECONDS < REQUESTS

REQUESTS is a JSON array of requests as base64, each a whole one. Every connection sends one after another,
in turns, the next one when the last was answered. It prints how many were answered with 202, how many
otherwise, and the share of the time in which the client used the processor: well below 1, or the client
is what is measured.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from typing import NamedTuple, cast

import msgspec
import uvloop

_LENGTH = b"Content-Length: "
_WRK = """
local requests, i = {{ {requests} }}, 0
request = function() i = i % #requests + 1; return requests[i] end
response = nil
done = function(s, l, r) print(string.format("%d %d", s.requests - s.errors.status, s.errors.status)) end
"""


class Answers(NamedTuple):
    """What came back."""

    accepted: int
    # Answered otherwise, or not.
    others: int
    # Of the time in which the client used the processor.
    busy: float


class _Client(asyncio.Protocol):
    """One connection that never waits for anything but the answer."""

    def __init__(self, requests: cycle[bytes]) -> None:
        self.accepted = self.others = 0
        self.ended = False
        self._requests = requests
        self._held = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(next(self._requests))

    def connection_lost(self, exc: BaseException | None) -> None:
        """The server has closed it: the request under way has no answer."""
        if not self.ended:
            self.others += 1

    def data_received(self, data: bytes) -> None:
        """Count the answer and send the next request."""
        data = self._held + data if self._held else data
        end = data.find(b"\r\n\r\n") + 4
        at = data.find(_LENGTH) + len(_LENGTH)
        if end < 4 or len(data) < end + int(data[at : data.find(b"\r", at)]):
            self._held = data
            return
        self._held = b""
        if data.startswith(b"HTTP/1.1 202"):
            self.accepted += 1
        else:
            self.others += 1
        if not self.ended and self._transport is not None:
            self._transport.write(next(self._requests))


async def _own(port: int, connections: int, seconds: float, requests: list[bytes]) -> Answers:
    loop = asyncio.get_running_loop()
    turns = cycle(requests)
    made = [
        (await loop.create_connection(lambda: _Client(turns), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    begun_s, used_s = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    busy = (time.process_time() - used_s) / (time.perf_counter() - begun_s)
    for client in made:
        client.ended = True
    # The answers to what is under way.
    await asyncio.sleep(0.1)
    return Answers(sum(c.accepted for c in made), sum(c.others for c in made), busy)


def _wrk(wrk: str, port: int, connections: int, seconds: float, requests: list[bytes]) -> Answers:
    quoted = ", ".join('"' + re.sub(r'["\\\r\n]', _escaped, r.decode("latin-1")) + '"' for r in requests)
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="latin-1") as script:
        script.write(_WRK.format(requests=quoted))
        script.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", script.name]
        begun = _children_cpu_s()
        out = subprocess.run(
            [*command, f"http://127.0.0.1:{port}/"], check=True, capture_output=True, text=True
        ).stdout
        busy = (_children_cpu_s() - begun) / seconds
    accepted, others = map(int, out.split("\n")[-2].split())
    lost = re.search(r"Socket errors: (.*)", out)
    return Answers(accepted, others + (sum(map(int, re.findall(r"\d+", lost[1]))) if lost else 0), busy)


def _escaped(found: re.Match[str]) -> str:
    return f"\\{ord(found[0]):03d}"


def _children_cpu_s() -> float:
    times = os.times()
    return float(times.children_user + times.children_system)


def load(port: int, connections: int, seconds: float, requests: list[bytes]) -> Answers:
    """Offer these requests on so many connections for so long."""
    wrk = shutil.which("wrk")
    if wrk is not None:
        return _wrk(wrk, port, connections, seconds, requests)
    given = msgspec.json.encode([base64.b64encode(r).decode() for r in requests])
    arguments = [str(port), str(connections), str(seconds)]
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.edge_load", *arguments],
        input=given,
        check=True,
        capture_output=True,
    ).stdout
    return Answers(*msgspec.json.decode(out))


if __name__ == "__main__":
    sent = [base64.b64decode(text) for text in msgspec.json.decode(sys.stdin.buffer.read())]
    answers = uvloop.run(_own(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sent))
    print(msgspec.json.encode(answers).decode())
