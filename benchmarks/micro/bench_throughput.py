"""What the throughput limit costs: per message in the worker, per call in Redis.

    pytest benchmarks/micro/bench_throughput.py -s

A message costs one `Allowance.take`, which is compared with the call of an empty method. A call of
`reserve` is compared with an empty function of the same arguments. The CPU time of Redis is read
from the scheduler's clock, that of this process from its own. Calls go in batches, so that the
round trip counts for little. Redis runs on one core, and this process on the other. The ways take
turns, so that a slow phase of the machine slows all of them.
"""

from __future__ import annotations

import os
import statistics
import struct
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.cores import cpu_s, spread
from benchmarks.micro.rounds import fastest_ns
from engine.redis_keys import rate_key
from engine.routing.ports import SlotRequest, Slots
from engine.routing.throughput import Allowance
from engine.routing.timing import timing
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.throughput import RedisSlots
from supervisor.embedded.servers import Server, start_redis

MESSAGES = 20_000
ROUNDS = 7
CALLS = int(os.environ.get("BENCH_CALLS", "2000"))
BATCH = 50

EMPTY = """#!lua name=empty
redis.register_function('empty', function(keys, args) return {0, 0} end)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An embedded Redis, on another core than this process."""
    server = start_redis(tmp_path_factory.mktemp("redis"))
    with spread(server.pid):
        yield server
    server.stop(10)


class Nothing:
    """An `Allowance` that does nothing: the floor of a call."""

    def take(self, segments: int, now_s: float) -> bool:
        """True at once."""
        return True


def taking(rate: float, segments: int) -> None:
    """Take slots for MESSAGES messages, at the times of the slots, a run of slots granted at a time."""
    interval_s = timing(rate).interval_s
    allowance, now_s = Allowance(rate), 0.0
    run = 50 if rate > 200 else 5
    for _ in range(MESSAGES // run):
        slots = run * segments
        allowance.wanted(slots, now_s, (segments,) * 16)
        allowance.granted(Slots(slots, 0, interval_s * 1e6), now_s, now_s)
        take = allowance.take
        for _ in range(run):
            take(segments, now_s)
            now_s += segments * interval_s
        now_s += 1.0


def test_taking_slots_for_a_message(benchmark: BenchmarkFixture) -> None:
    def nothing() -> None:
        take = Nothing().take
        for _ in range(MESSAGES):
            take(1, 0.0)

    ways = {
        "empty method": nothing,
        "take, fast timeline": lambda: taking(5000.0, 1),
        "take, fast, 3 segments": lambda: taking(5000.0, 3),
        "take, slow timeline": lambda: taking(100.0, 1),
    }
    ns = benchmark.pedantic(lambda: fastest_ns(ways, MESSAGES, ROUNDS), rounds=1)  # type: ignore[no-untyped-call]
    print()
    for name, each in ns.items():
        print(f"{name:24} {each:7.0f} ns  {each / ns['empty method']:5.1f} times empty")
    benchmark.extra_info |= ns


def asks(rate: float, queue: str = "normal") -> list[SlotRequest]:
    """A batch of requests, each of another provider, so that each finds some slots free."""
    return [SlotRequest(f"p{n}", queue, 5, rate, 0.2) for n in range(BATCH)]  # type: ignore[arg-type]


async def full(link: RedisLink) -> bytes:
    """The packed timeline of a provider with 200 a second, in use for a second and a horizon ahead."""
    seconds, micros = await link.call("TIME")
    now = int(seconds) * 1e6 + int(micros)
    runs = (now + n * 5128.205 for n in range(-190, 20, 2))
    # Long and short messages by turns, which are kept one by one.
    flat = [x for n, at in enumerate(runs) for x in (at, 5128.205, 1 + 2 * (n % 2), 1)]
    return struct.pack(">ddd", now, now - 1.0, now) + msgspec.msgpack.encode(flat)


async def measured(url: str, pid: int) -> dict[str, tuple[float, float]]:
    """By way: (CPU of Redis, CPU of this process) a call, microseconds, medians over the rounds."""
    link = RedisLink(url, timeout_s=10, name="bench")
    await link.call("FUNCTION", "LOAD", "REPLACE", EMPTY)
    pace = RedisSlots(link, answer_s=5.0)
    arguments = ("normal", 5, 1, "1025.6410256410256", "0.2", "1050000.0", 0, 100_000)
    empty: list[Command] = [("FCALL", "empty", 1, rate_key(f"p{n}"), *arguments) for n in range(BATCH)]
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "empty": lambda: link.batch(empty),
        # Asked again at once: mostly there is nothing.
        "refused, 10/s": lambda: pace.reserve(asks(10.0)),
        "granted, 1000000/s": lambda: pace.reserve(asks(1e6, "express")),
        "granted, 200/s": lambda: pace.reserve(asks(200.0)),
        "looked through, 105 runs": lambda: pace.reserve(asks(200.0)),
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    try:
        for _ in range(ROUNDS):
            for name, way in ways.items():
                await link.call("FLUSHDB")
                await way()
                if "runs" in name:
                    await link.batch([("SET", rate_key(f"p{n}"), await full(link)) for n in range(BATCH)])
                redis_s, ours_s = cpu_s(pid), time.process_time()
                for _ in range(CALLS // BATCH):
                    await way()
                redis_us = (cpu_s(pid) - redis_s) / CALLS * 1e6
                spent[name].append((redis_us, (time.process_time() - ours_s) / CALLS * 1e6))
    finally:
        await link.close()
    return {
        name: (statistics.median(r for r, _ in each), statistics.median(o for _, o in each))
        for name, each in spent.items()
    }


def test_reserving_slots_in_redis(server: Server, benchmark: BenchmarkFixture) -> None:
    def measure() -> dict[str, tuple[float, float]]:
        return uvloop.run(measured(server.url, server.pid))

    medians = benchmark.pedantic(measure, rounds=1)  # type: ignore[no-untyped-call]
    print()
    for name, (redis_us, ours_us) in medians.items():
        ratio = redis_us / medians["empty"][0]
        print(f"{name:26} Redis {redis_us:6.2f} µs ({ratio:4.1f} times empty)  worker {ours_us:6.2f} µs")
    benchmark.extra_info |= {name: redis_us for name, (redis_us, _) in medians.items()}
