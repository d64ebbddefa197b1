"""CPU of Redis per message, from admission to settlement, by how many organisations have a backlog.

    pytest benchmarks/micro/bench_fair_queue.py -s

A step admits 100 messages, reads 100 and settles them, in one shard, so the backlog stays as it is. In
`batch` they are of one organisation, in `single` of as many as there are. Redis runs on another core than
this process, and its time is the scheduler's. The cases alternate, and medians are printed. BENCH_STEPS sets
the steps of a round. The cases with a backlog say nothing of versions that have no lists.
"""

from __future__ import annotations

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
from engine.credit.flush import Flush
from engine.delivery.settlement import RetryPauses, after_verdict
from engine.records import Addressed, Entry, Message, Submission, Verdict
from engine.stores.redis.admission import _admit_command
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.queue import QueueStreams
from supervisor.embedded.servers import Server, start_redis

STEPS = int(os.environ.get("BENCH_STEPS", "40"))
ROUNDS = 5
BATCH = 100
# Organisations that have a backlog, and messages of each.
WAITING = ((0, 0), (1, 20_000), (100, 200), (10_000, 3))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An embedded Redis, on another core than this process."""
    server = start_redis(tmp_path_factory.mktemp("redis"))
    with spread(server.pid):
        yield server
    server.stop(10)


class Queue:
    """The normal queue of one shard with its holder and its worker."""

    def __init__(self, url: str) -> None:
        self.link = RedisLink(url, timeout_s=30, name="bench")
        self._reading = RedisLink(url, timeout_s=30, name="reading")
        self._reader = QueueStreams(
            self.link, self._reading, queue="normal", shards=1, worker_name="w", timeout_s=30,
            log=structlog.get_logger(),
        )  # fmt: skip
        self._numbers, self._sequences = count(), count(1)
        self._rng, self._pauses = Random(1), RetryPauses(first_us=1, max_us=1)

    async def start(self) -> None:
        """Begin empty."""
        await load_functions(self.link)
        await self.link.call("FLUSHDB")
        await self._reader.join()
        await self.link.call("SET", keys.generation_key(0), "g")
        self._epoch = int(await self.link.call("HGET", keys.holder_key(0, "w"), "epoch"))
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
        reply = await self.link.call(*_admit_command("w", flush))
        assert reply[0] == b"applied"

    def _message(self, organisation: int) -> Message:
        return Message(
            id=f"01930000-0000-7000-8000-{next(self._numbers):012x}", organisation_id=organisation,
            to="+989121234567", text="Your code is 123456. Do not share it with anyone.", sender="Acme",
            encoding="GSM-7", segments=1, units=1, accepted_at_us=1, expires_at_us=4_000_000_000_000_000,
        )  # fmt: skip

    async def fill(self, organisations: int, messages: int) -> None:
        """A backlog, and the ready stream full."""
        for _ in range(messages):
            for first in range(0, organisations, 500):
                await self._admit(list(range(1 + first, 1 + min(organisations, first + 500))))

    async def fill_one(self, messages: int) -> None:
        """A backlog of one organisation."""
        for _ in range(messages // BATCH):
            await self._admit([1] * BATCH)

    async def step(self, organisations: list[int]) -> None:
        """Admit, read and settle BATCH messages."""
        await self._admit(organisations)
        left = BATCH
        while left > 0:
            entries = await self._reader.read(left, 10)
            left -= len(entries)
            await self._reader.settle([self._sent(entry) for entry in entries])
        # What nobody here reads.
        await self.link.batch([("XTRIM", key, "MAXLEN", "~", 0) for key in (keys.activity_key(0),)])

    def _sent(self, entry: Entry):  # type: ignore[no-untyped-def]
        verdict = Verdict(kind="accepted", provider="p", provider_message_id="1")
        return after_verdict(entry, verdict, 2, self._pauses, self._rng)


async def costs(server: Server) -> dict[tuple[str, int], float]:
    """{(batch or single, organisations that wait): µs of Redis a message}."""
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for waiting, each in WAITING:
            for what in ("batch", "single"):
                queue = Queue(server.url)
                await queue.start()
                await (queue.fill_one(each) if waiting == 1 else queue.fill(waiting, each))
                rng, most = Random(2), max(waiting, 64)
                draws = [
                    [rng.randrange(1, most + 1)] * BATCH
                    if what == "batch"
                    else [rng.randrange(1, most + 1) for _ in range(BATCH)]
                    for _ in range(STEPS)
                ]
                before = cpu_s(server.pid)
                for organisations in draws:
                    await queue.step(organisations)
                found.setdefault((what, waiting), []).append(
                    (cpu_s(server.pid) - before) / STEPS / BATCH * 1e6
                )
                await queue.close()
    return {case: statistics.median(rounds) for case, rounds in found.items()}


def test_cost_of_a_message_by_who_waits(server: Server) -> None:
    print()
    for (what, waiting), us in uvloop.run(costs(server)).items():
        print(f"{what:6s} {waiting:6d} organisations wait: {us:5.1f} µs a message")
