"""CPU of Redis per message, from admission to settlement, by how many organisations have a backlog.

    pytest benchmarks/micro/bench_fair_queue.py -s

A step admits some messages, in one shard, and reads as many while it settles those of the step before, so
the backlog stays as it is. In `batch` they are 100 of one organisation, in `single` 100 of as many as wait,
but of 100 at least, so that lists come and go where fewer wait, in `clients` 64 such, as 64 connections
send them one at a time. Activity and usage are dropped every ten steps. Each case is there in three ways:
fair; unfair, where all that waits lies in one plain stream, as it is beside a version that does not know
the lists; and fair with one message an entry. Redis runs on another core than this process, and its time is
the scheduler's. The cases alternate, and medians are printed, with the bytes of memory that a waiting
message takes. BENCH_STEPS sets the steps of a round, BENCH_ROUNDS the rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Iterator
from itertools import count
from random import Random

import pytest
import structlog
import uvloop

from benchmarks.micro.cores import cpu_s, spread
from engine import redis_keys as keys
from engine.bundle_format import MESSAGES_MAX
from engine.credit.flush import Flush
from engine.delivery.settlement import RetryPauses, after_verdict
from engine.records import Addressed, Entry, Message, Submission, Verdict
from engine.stores.redis import admit_wire
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.queue import QueueStreams
from supervisor.embedded.servers import Server, start_redis

STEPS = int(os.environ.get("BENCH_STEPS", "40"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
# How many messages a step has, by what they are.
SIZES = {"batch": 100, "single": 100, "clients": 64}
# How many messages lie ready for providers that take what comes (`Lanes.ready_messages`), and are sent in
# 20 ms (`Supply.moment`).
READY = 512
WAYS = ("fair", "plain", "single")
# Organisations that have a backlog, and messages of each. They came 50 at a time where that divides them,
# else one by one.
WAITING = ((0, 0), (1, 20_000), (100, 200), (1_000, 60), (1_000, 200), (10_000, 3), (10_000, 50))
TOGETHER = 50


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An embedded Redis, on another core than this process."""
    server = start_redis(tmp_path_factory.mktemp("redis"))
    with spread(server.pid):
        yield server
    server.stop(10)


class Beside:
    """The pulse of a process beside one of a version that cannot read everything."""

    def __init__(self, unreadable: str) -> None:
        self._unreadable = unreadable

    def readable(self, kind: str) -> bool:
        """Whether every living process can read what is of this kind."""
        return kind != self._unreadable


class Queue:
    """The normal queue of one shard with its holder and its worker."""

    def __init__(self, url: str, way: str = "fair") -> None:
        """`way`: one of WAYS."""
        self.link = RedisLink(url, timeout_s=30, name="bench")
        self._reading = RedisLink(url, timeout_s=30, name="reading")
        self._way = way
        self._bundle_max = 1 if way == "single" else MESSAGES_MAX
        self._reader = QueueStreams(
            self.link, self._reading, queue="normal", shards=1, worker_name="w", timeout_s=30,
            log=structlog.get_logger(),
        )  # fmt: skip
        self._reader.ready_max = self._reader.moment = READY
        self._numbers, self._sequences = count(), count(1)
        # How many more messages were admitted than read, since the backlog was there.
        self._missing = 0
        # What was read and is not settled.
        self._in_hand: list[Entry] = []
        self._rng, self._pauses = Random(1), RetryPauses(first_us=1, max_us=1)

    async def start(self) -> None:
        """Begin empty."""
        await load_functions(self.link)
        await self.link.call("FLUSHDB")
        await self._reader.join()
        if self._way != "fair":
            self._reader._pulse = Beside("line" if self._way == "plain" else "bundle")  # type: ignore[assignment]
        await self.link.call("SET", keys.generation_key(0), "g")
        self._epoch = int(await self.link.call("HGET", keys.holder_key(0, "w"), "epoch"))
        if self._way == "plain":
            await self.link.call("HSET", keys.wait_key(0, "normal"), "mark", 1 << 30)
        self._sequences = count(1)

    async def close(self) -> None:
        """Close the connections."""
        await self.link.close()
        await self._reading.close()

    async def _admit(self, organisations: list[int]) -> None:
        submissions = []
        for at, organisation in enumerate(dict.fromkeys(organisations)):
            messages = [
                Addressed(queue="normal", message=self._message(organisation), due_at_us=0)
                for _ in range(organisations.count(organisation))
            ]
            submissions.append(
                (at, Submission(organisation_id=organisation, messages=messages, units=len(messages)))
            )
        flush = Flush(0, self._epoch, next(self._sequences), submissions, [])
        reply = await self.link.call(*admit_wire.admit("w", flush, bundle_max=self._bundle_max))
        assert reply[0] == b"applied"

    def _message(self, organisation: int) -> Message:
        return Message(
            id=f"01930000-0000-7000-8000-{next(self._numbers):012x}", organisation_id=organisation,
            to="+989121234567", text="Your code is 123456. Do not share it with anyone.", sender="Acme",
            encoding="GSM-7", segments=1, units=1, accepted_at_us=1, expires_at_us=4_000_000_000_000_000,
        )  # fmt: skip

    async def fill(self, organisations: int, messages: int) -> float:
        """A backlog, and the ready stream full; the bytes of memory that a message of it takes, without
        activity and usage."""
        before = await self._used()
        if organisations == 1:
            await self._fill_one(messages)
        together = TOGETHER if messages % TOGETHER == 0 else 1
        for _ in range(messages // together if organisations > 1 else 0):
            for first in range(1, 1 + organisations, 500 // together):
                some = range(first, min(1 + organisations, first + 500 // together))
                await self._admit([organisation for organisation in some for _ in range(together)])
        sent = await self._drain(organisations - READY)
        await self.trim()
        return (await self._used() - before) / max(1, organisations * messages - sent)

    async def _drain(self, most: int) -> int:
        """Send what came into the ready stream at once because its turn was then, the first message of each
        organisation: about `most` messages. How many it was."""
        sent = 0
        while sent < most:
            self._missing = READY
            await self.turn()
            sent += len(self._in_hand)
        await self._reader.settle([self._sent(entry) for entry in self._in_hand])
        self._missing, self._in_hand = 0, []
        return sent

    async def _fill_one(self, messages: int) -> None:
        for _ in range(messages // 100):
            await self._admit([1] * 100)

    async def _used(self) -> int:
        info = (await self.link.call("INFO", "memory")).decode()
        return int(info.partition("used_memory:")[2].split()[0])

    async def step(self, organisations: list[int]) -> None:
        """Admit messages; settle those that were read in the step before, and read about as many."""
        await self._admit(organisations)
        self._missing += len(organisations)
        await self.turn()

    async def turn(self) -> None:
        """Settle what was read, and read, at the same time, as a busy worker does."""
        settled, self._in_hand = [self._sent(entry) for entry in self._in_hand], []
        _, entries = await asyncio.gather(
            self._reader.settle(settled), self._reader.read(max(1, self._missing), 10)
        )
        self._missing -= len(entries)
        self._in_hand = entries

    async def trim(self) -> None:
        """Drop what the ledger and the archiver read."""
        await self.link.batch(
            [("XTRIM", key, "MAXLEN", 0) for key in (keys.activity_key(0), keys.usage_key(0))]
        )

    def _sent(self, entry: Entry):  # type: ignore[no-untyped-def]
        verdict = Verdict(kind="accepted", provider="p", provider_message_id="1")
        return after_verdict(entry, verdict, 2, self._pauses, self._rng)


async def costs(server: Server) -> dict[tuple[str, int, str], tuple[float, ...]]:
    """{(what is sent, organisations that wait, way): µs of Redis a message, bytes of a waiting one}."""
    found: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for waiting, each in WAITING:
            for what, size in SIZES.items():
                for way in WAYS:
                    queue = Queue(server.url, way)
                    await queue.start()
                    octets = await queue.fill(waiting, each)
                    rng, most = Random(2), max(waiting, size)
                    draws = [
                        [rng.randrange(1, most + 1)] * size
                        if what == "batch"
                        else [rng.randrange(1, most + 1) for _ in range(size)]
                        for _ in range(STEPS)
                    ]
                    before = cpu_s(server.pid)
                    for number, organisations in enumerate(draws):
                        await queue.step(organisations)
                        if number % 10 == 9:
                            await queue.trim()
                    spent = (cpu_s(server.pid) - before) / STEPS / size * 1e6
                    found.setdefault((what, waiting, way), []).append((spent, octets))
                    await queue.close()
    return {case: tuple(map(statistics.median, zip(*rounds, strict=True))) for case, rounds in found.items()}


def test_cost_of_a_message_by_who_waits(server: Server) -> None:
    print()
    found = uvloop.run(costs(server))
    for what, waiting, way in found:
        if way == "fair":
            (us, octets), plain, single = (found[what, waiting, way] for way in WAYS)
            print(
                f"{what:7s} {waiting:6d} organisations wait: {us:5.1f} µs, unfair {plain[0]:5.1f} "
                f"({us / plain[0]:.2f}x), one an entry {single[0]:5.1f}; "
                f"{octets:.0f} bytes, unfair {plain[1]:.0f}"
            )
