"""Answers a second of the simulator on one core.

    pytest benchmarks/micro/bench_simulator.py -s

A load run must measure the engine and not the simulator, so 20,000 answers a second are needed.
The client writes requests made beforehand and only counts answers, on another core. `keep-alive`
has one request in flight on each connection, as the engine sends. `pipelined` has 16, which shows
the simulator's own cost without the system calls that go with each request.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.cores import cpu_s, spread
from supervisor.simulator import Simulator, start_simulator

REQUESTS = int(os.environ.get("BENCH_REQUESTS", "20000"))
CONNECTIONS = 256
ROUNDS = 5
GOAL = 20_000

_BODY = (
    b'{"id":"01930000-0000-7000-8000-%012x","to":"+989120000000","from":"Demo",'
    b'"text":"Your code is 123456","segments":1}'
)
_REQUEST = (
    b"POST /send HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    % len(_BODY % 0)
) + _BODY


class Loader(asyncio.Protocol):
    """Writes its share of the requests, `depth` at a time."""

    def __init__(self, first: int, requests: int, depth: int) -> None:
        self._batches = [
            b"".join(_REQUEST % i for i in range(start, min(start + depth, first + requests)))
            for start in range(first, first + requests, depth)
        ]
        self._batches.reverse()
        self._unanswered = 0
        self._depth = depth
        self._left = requests
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport until `begin`."""
        self._transport = cast("asyncio.Transport", transport)

    def begin(self) -> None:
        """Write the next batch of requests."""
        self._unanswered = min(self._depth, self._left)
        self._transport.write(self._batches.pop())

    def data_received(self, data: bytes) -> None:
        """Count the answers; write the next batch, or close, when all of the last have come."""
        answers = data.count(b'"accepted"')  # short: hardly ever split between two reads
        self._unanswered -= answers
        self._left -= answers
        if self._unanswered == 0:
            if self._batches:
                self.begin()
            else:
                self._transport.close()
                self.ended.set_result(None)


async def load(url: str, first: int, depth: int) -> float:
    """Wall seconds for REQUESTS requests."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    loop = asyncio.get_running_loop()
    share = REQUESTS // CONNECTIONS
    loaders = []
    for i in range(CONNECTIONS):
        made = partial(Loader, first + i * share, share, depth)
        _, loader = await loop.create_connection(made, address.hostname, address.port)
        loaders.append(loader)
    start = time.perf_counter()
    for loader in loaders:
        loader.begin()
    async with asyncio.timeout(120):
        for loader in loaders:
            await loader.ended
    return time.perf_counter() - start


@pytest.fixture
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """A simulator, with the flags that the test names, on another core than this process."""
    simulator = start_simulator(arguments=getattr(request, "param", ()))
    with spread(simulator.pid):
        yield simulator
    simulator.stop()


@pytest.mark.parametrize("depth", [1, 16], ids=["keep-alive", "pipelined"])
def test_answers(depth: int, simulator: Simulator, benchmark: BenchmarkFixture) -> None:
    turns = iter(range(1000))

    def one() -> None:
        uvloop.run(load(simulator.url, next(turns) * REQUESTS, depth))

    benchmark.pedantic(one, rounds=3, warmup_rounds=1)  # type: ignore[no-untyped-call]
    benchmark.extra_info["requests"] = REQUESTS


@pytest.mark.parametrize(
    "simulator", [(), ("--latency-lognormal", "20:0.5")], ids=["at-once", "delayed"], indirect=True
)
def test_a_core_gives_20_000_answers_a_second(simulator: Simulator) -> None:
    requests = REQUESTS // CONNECTIONS * CONNECTIONS
    best = 0.0
    print()
    for name, depth in (("keep-alive", 1), ("pipelined", 16)):
        wall, cpu = [], []
        for turn in range(ROUNDS + 1):
            used_s = cpu_s(simulator.pid)
            wall_s = uvloop.run(load(simulator.url, (depth * 100 + turn) * REQUESTS, depth))
            if turn:
                wall.append(requests / wall_s)
                cpu.append((cpu_s(simulator.pid) - used_s) * 1e6 / requests)
        per_core = 1e6 / statistics.median(cpu)
        best = max(best, per_core)
        each = ", ".join(f"{value:.1f}" for value in cpu)
        print(
            f"{name:10} {statistics.median(wall):8.0f} answers/s of wall time; "
            f"{statistics.median(cpu):5.1f} us of CPU an answer ({each}) = {per_core:.0f}/s of core"
        )
    assert best >= GOAL
