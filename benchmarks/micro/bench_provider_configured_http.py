"""CPU per send of the configured HTTP provider, compared with the bare pool under it.

    pytest benchmarks/micro/bench_provider_configured_http.py -s

A server that does next to nothing runs on one core, and this process on another. The rounds
alternate, so that a slow phase of the machine slows all of them; ratios are medians over the
rounds. The bare pool sends the same bytes, made beforehand, gets the same answers, and reads
nothing but their status. Set BENCH_REQUESTS for longer rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.cores import spread
from benchmarks.micro.http_answerer import Answerer, answerer
from engine.providers.http.description import describe, receipt_reader
from engine.providers.http.provider import HttpProvider
from engine.providers.http_client.pool import HttpOutcome, HttpPool
from engine.providers.problems import Problems
from engine.providers.settings import HttpSettings
from engine.records import Message, Verdict

REQUESTS = int(os.environ.get("BENCH_REQUESTS", "5000"))
IN_FLIGHT = 50
ROUNDS = 5

MESSAGE = Message(
    id="01930000-0000-7000-8000-000000000001", organisation_id=1, to="+989120000000", sender="Demo",
    text="Your code is 123456. It is valid for ten minutes.", encoding="GSM-7", segments=1, units=1,
    accepted_at_us=0, expires_at_us=1 << 60,
)  # fmt: skip

# Called with whether a request ended well.
End = Callable[[bool], None]
Begin = Callable[[End], None]
Round = Callable[[], Awaitable[None]]


def settings(preset: str, port: int = 1) -> HttpSettings:
    """Settings of a provider with this preset that asks for receipts."""
    return HttpSettings(
        name="bench", preset=preset, url=f"http://127.0.0.1:{port}", username="user", password="secret",
        connections_max=IN_FLIGHT, timeout_s=30, public_url="https://sms.example.org", receipt_token="t" * 22,
    )  # fmt: skip


@pytest.fixture(scope="module")
def provider() -> Iterator[Answerer]:
    """The server that does next to nothing, on another core than this process."""
    with answerer() as running, spread(running.pid):
        yield running


async def _round(begin: Begin) -> None:
    """Keep IN_FLIGHT going until REQUESTS have ended well."""
    ended = asyncio.get_running_loop().create_future()
    begun = done = 0

    def end(well: bool) -> None:
        nonlocal begun, done
        assert well
        done += 1
        if begun < REQUESTS:
            begun += 1
            begin(end)
        elif done == REQUESTS:
            ended.set_result(None)

    begun = min(IN_FLIGHT, REQUESTS)
    for _ in range(begun):
        begin(end)
    async with asyncio.timeout(120):
        await ended


async def _with_pool(preset: str, port: int, measure: Callable[[Round], Awaitable[None]]) -> None:
    pool = HttpPool("127.0.0.1", port, connections_max=IN_FLIGHT, timeout_s=30)
    pool.start()
    template = describe(settings(preset)).template
    path, headers, body = template.build(MESSAGE, 0)

    def begin(end: End) -> None:
        def done(outcome: HttpOutcome) -> None:
            end(outcome.status in (201, 202))

        pool.request(template.method, path, headers, body, done)

    await measure(lambda: _round(begin))
    await pool.stop(1)


async def _with_provider(preset: str, port: int, measure: Callable[[Round], Awaitable[None]]) -> None:
    provider = HttpProvider(settings(preset, port), Problems())
    await provider.start()

    def begin(end: End) -> None:
        def done(verdict: Verdict) -> None:
            end(verdict.kind == "accepted" and verdict.provider_message_id != "")

        provider.submit(MESSAGE, done)

    await measure(lambda: _round(begin))
    await provider.stop()


PRESETS = ("generic", "kannel")
Way = Callable[[int, Callable[[Round], Awaitable[None]]], Awaitable[None]]
WAYS: dict[str, Way] = {
    f"{way} {preset}": partial(_with_pool if way == "pool" else _with_provider, preset)
    for preset in PRESETS
    for way in ("pool", "provider")
}


def test_sending_as_described_costs_at_most_twice_the_bare_pool(provider: Answerer) -> None:
    async def compare() -> dict[str, list[float]]:
        cpu_us: dict[str, list[float]] = {name: [] for name in WAYS}
        for turn in range(ROUNDS + 1):
            for name, way in WAYS.items():

                async def measure(round_of: Round, name: str = name, turn: int = turn) -> None:
                    start = time.process_time()
                    await round_of()
                    if turn:  # the first turn warms up
                        cpu_us[name].append((time.process_time() - start) * 1e6 / REQUESTS)

                await way(provider.port, measure)
        return cpu_us

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        cpu_us = runner.run(compare())
    print()
    for name, values in cpu_us.items():
        median = statistics.median(values)
        shown = ", ".join(f"{value:.1f}" for value in values)
        print(f"{name:16} {median:6.1f} us of CPU a send, {1e6 / median:7.0f} sends/s a core ({shown})")
    for preset in PRESETS:
        pairs = zip(cpu_us[f"pool {preset}"], cpu_us[f"provider {preset}"], strict=True)
        ratio = statistics.median(bare / provider for bare, provider in pairs)
        print(f"{preset}: {ratio:.2f} of the bare pool's sends/s")
        # Half; the rest is for what else the machine does.
        assert ratio >= 0.45


@pytest.mark.parametrize("preset", ["generic", "kannel", "twilio"])
def test_build_one_request(preset: str, benchmark: BenchmarkFixture) -> None:
    build = describe(settings(preset)).template.build
    benchmark(build, MESSAGE, 0)


RECEIPTS = {
    "kannel": ("GET", f"id={MESSAGE.id}&state=1&to=%2B989120000000&reply=ACK%2F", b""),
    "twilio": (
        "POST",
        f"id={MESSAGE.id}",
        b"MessageSid=SM1&MessageStatus=delivered&To=%2B989120000000&From=Demo",
    ),
}


@pytest.mark.parametrize("preset", RECEIPTS)
def test_read_one_receipt(preset: str, benchmark: BenchmarkFixture) -> None:
    reader = receipt_reader(settings(preset))
    assert reader
    method, query, body = RECEIPTS[preset]
    assert len(benchmark(reader.read, method, query, "", body, 0).receipts) == 1
