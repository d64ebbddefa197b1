"""CPU per request of the HTTP pool for providers, compared with aiohttp's client.

    pytest benchmarks/micro/bench_provider_http.py -s

The simulator runs on one core, and this process on another. The rounds of the clients
alternate, so that a slow phase of the machine slows all of them; the ratio is the median over
the rounds. Set BENCH_REQUESTS for longer rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.cores import spread
from engine.providers.http.simulated import SimulatedProvider
from engine.providers.http_client.pool import HttpOutcome, HttpPool
from engine.providers.settings import SimulatedSettings
from engine.records import Message, Verdict
from supervisor.simulator import Simulator, start_simulator

REQUESTS = int(os.environ.get("BENCH_REQUESTS", "5000"))
IN_FLIGHT = 50
ROUNDS = 5

BODY = (
    b'{"id":"01930000-0000-7000-8000-000000000001","to":"+989120000000","from":"Demo",'
    b'"text":"Your code is 123456","segments":1}'
)
MESSAGE = Message(
    id="01930000-0000-7000-8000-000000000001", organisation_id=1, to="+989120000000", sender="Demo",
    text="Your code is 123456", encoding="GSM-7", segments=1, units=1, accepted_at_us=0, expires_at_us=0,
)  # fmt: skip

Round = Callable[[int], Awaitable[None]]
# Called with whether a request ended well.
End = Callable[[bool], None]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """A simulator that accepts all at once, on another core than this process."""
    simulator = start_simulator()
    with spread(simulator.pid):
        yield simulator
    simulator.stop()


async def _callbacks(begin: Callable[[End], None], requests: int) -> None:
    """Keep IN_FLIGHT going until `requests` have ended well."""
    ended = asyncio.get_running_loop().create_future()
    begun = done = 0

    def end(well: bool) -> None:
        nonlocal begun, done
        assert well
        done += 1
        if begun < requests:
            begun += 1
            begin(end)
        elif done == requests:
            ended.set_result(None)

    begun = min(IN_FLIGHT, requests)
    for _ in range(begun):
        begin(end)
    async with asyncio.timeout(120):
        await ended


async def _with_pool(url: str, measure: Callable[[Round], Awaitable[None]]) -> None:
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    pool = HttpPool(address.hostname, address.port, connections_max=IN_FLIGHT, timeout_s=30)
    pool.start()
    headers = b"Content-Type: application/json\r\n"

    def begin(end: End) -> None:
        def done(outcome: HttpOutcome) -> None:
            end(outcome.status == 200)

        pool.request(b"POST", b"/send", headers, BODY, done)

    await measure(lambda requests: _callbacks(begin, requests))
    await pool.stop(1)


async def _with_provider(url: str, measure: Callable[[Round], Awaitable[None]]) -> None:
    settings = SimulatedSettings(name="bench", url=url, connections_max=IN_FLIGHT, timeout_s=30)
    provider = SimulatedProvider(settings)
    await provider.start()

    def begin(end: End) -> None:
        def done(verdict: Verdict) -> None:
            end(verdict.kind == "accepted")

        provider.submit(MESSAGE, done)

    await measure(lambda requests: _callbacks(begin, requests))
    await provider.stop()


async def _with_aiohttp(url: str, measure: Callable[[Round], Awaitable[None]]) -> None:
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def worker(requests: int) -> None:
            for _ in range(requests):
                async with session.post(
                    f"{url}/send", data=BODY, headers={"Content-Type": "application/json"}
                ) as r:
                    await r.read()
                    assert r.status == 200

        async def round_of(requests: int) -> None:
            await asyncio.gather(*(worker(max(1, requests // IN_FLIGHT)) for _ in range(IN_FLIGHT)))

        await measure(round_of)


CLIENTS = {"pool": _with_pool, "provider": _with_provider, "aiohttp": _with_aiohttp}


@pytest.mark.parametrize("client", CLIENTS)
def test_request(client: str, simulator: Simulator, benchmark: BenchmarkFixture) -> None:
    """Wall time of REQUESTS requests, IN_FLIGHT at once."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ready: asyncio.Queue[Round] = asyncio.Queue()
        finished = asyncio.Event()

        async def measure(round_of: Round) -> None:
            await round_of(REQUESTS // 10)
            ready.put_nowait(round_of)
            await finished.wait()

        async def begin() -> tuple[asyncio.Task[None], Round]:
            task = asyncio.create_task(CLIENTS[client](simulator.url, measure))
            async with asyncio.timeout(60):
                return task, await ready.get()

        async def one(round_of: Round) -> None:
            await round_of(REQUESTS)

        async def end(task: asyncio.Task[None]) -> None:
            finished.set()
            await task

        task, round_of = runner.run(begin())
        benchmark.pedantic(lambda: runner.run(one(round_of)), rounds=3)  # type: ignore[no-untyped-call]
        benchmark.extra_info["requests"] = REQUESTS
        runner.run(end(task))


def test_the_pool_costs_a_fifth_of_aiohttps_client_or_less(simulator: Simulator) -> None:
    async def compare() -> dict[str, list[float]]:
        cpu_us: dict[str, list[float]] = {name: [] for name in CLIENTS}
        for turn in range(ROUNDS + 1):
            for name, client in CLIENTS.items():

                async def measure(round_of: Round, name: str = name, turn: int = turn) -> None:
                    await round_of(IN_FLIGHT * 4)  # connections open, code warm
                    start = time.process_time()
                    await round_of(REQUESTS)
                    if turn:  # the first turn warms up
                        cpu_us[name].append((time.process_time() - start) * 1e6 / REQUESTS)

                await client(simulator.url, measure)
        return cpu_us

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        cpu_us = runner.run(compare())
    print()
    for name, values in cpu_us.items():
        shown = ", ".join(f"{value:.1f}" for value in values)
        print(f"{name:9} {statistics.median(values):6.1f} us of CPU a request ({shown})")
    for name in ("pool", "provider"):
        ratios = [a / b for a, b in zip(cpu_us["aiohttp"], cpu_us[name], strict=True)]
        print(f"aiohttp / {name}: {statistics.median(ratios):.1f} ({', '.join(f'{r:.1f}' for r in ratios)})")
    ratio = statistics.median(a / b for a, b in zip(cpu_us["aiohttp"], cpu_us["pool"], strict=True))
    assert ratio >= 5
