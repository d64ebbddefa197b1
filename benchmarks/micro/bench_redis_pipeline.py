"""CPU per command of our packed pipeline, compared with redis-py's, and per message of read and settle.

    pytest benchmarks/micro/bench_redis_pipeline.py -s

Redis runs on one core, and this process on the other. Rounds of the two clients alternate, so
that a slow phase of the machine slows both; ratios are medians over the rounds. Times are CPU
time: of this process by its own clock, of Redis by the scheduler's. Set BENCH_BATCHES for longer
rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest
import redis.asyncio
import structlog
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.cores import cpu_s, spread
from engine.delivery.settlement import RetryPauses, after_verdict
from engine.records import Message, Verdict
from engine.redis_keys import queue_key
from engine.stores.redis.link import Command, RedisLink, load_functions
from engine.stores.redis.queue import QueueStreams
from supervisor.embedded.servers import Server, start_redis

BATCHES = int(os.environ.get("BENCH_BATCHES", "100"))
BATCH = 100
ROUNDS = 5
SHARDS = 16
PAYLOAD = b"x" * 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An embedded Redis, on another core than this process."""
    server = start_redis(tmp_path_factory.mktemp("redis"))
    with spread(server.pid):
        yield server
    server.stop(10)


def commands() -> list[Command]:
    """One batch: BATCH entries for a stream, 200 bytes each."""
    return [("XADD", "bench", "MAXLEN", "~", 1000, "*", "m", PAYLOAD) for _ in range(BATCH)]


async def ours(link: RedisLink) -> None:
    """Send BATCHES batches, one after another, over our link."""
    for _ in range(BATCHES):
        await link.batch(commands())


async def theirs(client: redis.asyncio.Redis) -> None:
    """Send BATCHES batches, one after another, through redis-py's pipeline."""
    for _ in range(BATCHES):
        async with client.pipeline(transaction=False) as pipe:
            for command in commands():
                pipe.execute_command(*command)
            await pipe.execute()


async def cpu_us(work: Callable[[], Awaitable[None]], count: int) -> float:
    """CPU time of this process for `work`, divided by `count`, microseconds."""
    before = time.process_time()
    await work()
    return (time.process_time() - before) / count * 1e6


def test_batches_of_100_against_redis_py(server: Server, benchmark: BenchmarkFixture) -> None:
    async def compare() -> list[tuple[float, float]]:
        link = RedisLink(server.url, timeout_s=10, name="bench")
        client = redis.asyncio.Redis.from_url(server.url)
        try:
            await ours(link)
            await theirs(client)
            count = BATCHES * BATCH
            return [
                (await cpu_us(lambda: ours(link), count), await cpu_us(lambda: theirs(client), count))
                for _ in range(ROUNDS)
            ]
        finally:
            await link.close()
            await client.aclose()

    rounds = benchmark.pedantic(lambda: uvloop.run(compare()), rounds=1)  # type: ignore[no-untyped-call]
    ratio = statistics.median(b / a for a, b in rounds)
    our_us, their_us = (statistics.median(side) for side in zip(*rounds, strict=True))
    print(f"\nours {our_us:.2f} µs a command, redis-py {their_us:.2f} µs: {ratio:.1f} times")
    benchmark.extra_info |= {"ours_us": our_us, "redis_py_us": their_us, "ratio": ratio}
    assert ratio > 1.5


def message(n: int) -> Message:
    """The message of number `n`, a one-time code of one of 50 organisations."""
    return Message(
        id=f"01930000-0000-7000-8000-{n:012x}",
        organisation_id=n % 50,
        to="+989121234567",
        text="Your code is 123456. Do not share it with anyone.",
        sender="Acme",
        encoding="GSM-7",
        segments=1,
        units=1,
        accepted_at_us=1_700_000_000_000_000,
        expires_at_us=4_000_000_000_000_000,
    )


async def fill(link: RedisLink, count: int) -> None:
    """Put `count` messages into the normal queue, spread over its shards."""
    encode = msgspec.msgpack.Encoder().encode
    for first in range(0, count, 1000):
        await link.batch(
            [
                ("XADD", queue_key(n % SHARDS, "normal"), "*", "m", encode(message(n)))
                for n in range(first, min(first + 1000, count))
            ]
        )


async def consume(url: str, pid: int, batch: int, count: int) -> tuple[float, float, float, float]:
    """Microseconds of CPU a message: (ours to read, for the rule, to settle; Redis's for all of it)."""
    commands, reading = (RedisLink(url, timeout_s=10, name=name) for name in ("commands", "reading"))
    await load_functions(commands)
    await commands.call("FLUSHDB")
    log = structlog.get_logger()
    reader = QueueStreams(
        commands, reading, queue="normal", shards=SHARDS, worker_name="w1", timeout_s=10, log=log
    )
    await reader.join()
    await fill(commands, count)
    verdict = Verdict(kind="accepted", provider="p", provider_message_id="0193abcd", latency_us=50_000)
    pauses, rng = RetryPauses(first_us=1, max_us=1), Random(1)
    spent, done, redis_before = [0.0, 0.0, 0.0], 0, cpu_s(pid)
    while done < count:
        start = time.process_time()
        entries = await reader.read(batch, 100)
        read = time.process_time()
        settlements = [after_verdict(entry, verdict, 1, pauses, rng) for entry in entries]
        ruled = time.process_time()
        done += await reader.settle(settlements)
        settled = time.process_time()
        spent = [a + b for a, b in zip(spent, (read - start, ruled - read, settled - ruled), strict=True)]
    redis_us = (cpu_s(pid) - redis_before) / count * 1e6
    await commands.close()
    await reading.close()
    read_us, rule_us, settle_us = (s / count * 1e6 for s in spent)
    return read_us, rule_us, settle_us, redis_us


@pytest.mark.parametrize("batch", [100, 200])
def test_read_and_settle(server: Server, benchmark: BenchmarkFixture, batch: int) -> None:
    assert Path(f"/proc/{server.pid}/schedstat").exists()

    def measure() -> list[tuple[float, float, float, float]]:
        return [uvloop.run(consume(server.url, server.pid, batch, BATCHES * BATCH)) for _ in range(ROUNDS)]

    rounds = benchmark.pedantic(measure, rounds=1)  # type: ignore[no-untyped-call]
    names = ("read_us", "rule_us", "settle_us", "redis_us")
    medians = {
        name: statistics.median(side) for name, side in zip(names, zip(*rounds, strict=True), strict=True)
    }
    print(f"\nbatches of {batch}, per message: " + ", ".join(f"{k} {v:.2f}" for k, v in medians.items()))
    benchmark.extra_info |= medians
