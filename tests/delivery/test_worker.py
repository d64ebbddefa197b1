"""A worker sends what it may, as many at once as it may, and has nothing in hand when it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import pytest
from structlog.testing import capture_logs

from engine.boot.worker import assemble_worker
from engine.config import QueueSettings
from engine.delivery.sweeper import Sweeper
from engine.delivery.worker import Worker
from engine.providers.settings import SimulatedSettings
from engine.records import NO_RECEIPTS
from engine.routing.ports import SlotRequest, Slots
from engine.stores.redis.queue import QueueStreams
from tests.adversity.proxy import Proxy
from tests.delivery.carrier import Carrier
from tests.stores.redis.kit import SHARDS, QueueKit, log, message, now_us, until


class Unlimited:
    """No provider here is limited."""

    async def reserve(self, asks: Sequence[SlotRequest]) -> list[Slots]:
        raise AssertionError(asks)


class Clock:
    """The time of a process; `frozen_s` is how long it has stood still, as it finds out when it goes on."""

    frozen_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.frozen_s


class Running:
    """A worker at work, and the means to end it well."""

    def __init__(self, worker: Worker, sweeper: Sweeper) -> None:
        self.worker = worker
        self._sweeper = sweeper
        self._draining = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, drain_s: float) -> None:
        self._tasks = [
            asyncio.create_task(self.worker.run(self._draining, drain_s)),
            asyncio.create_task(self._sweeper.run(self._draining)),
        ]

    async def drain(self) -> None:
        self._draining.set()
        await asyncio.wait_for(self._tasks[0], 60)
        await self.kill()

    async def kill(self) -> None:
        """End it as if the process were gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


@asynccontextmanager
async def working(
    reader: QueueStreams,
    *carriers: Carrier,
    concurrency: int = 20,
    hand_s: float = 30.0,
    drain_s: float = 5.0,
    timeout_s: float = 4.0,
    clock_s: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Running]:
    worker, sweeper, _ = assemble_worker(
        reader,
        carriers,
        [SimulatedSettings(name=carrier.name, timeout_s=timeout_s) for carrier in carriers],
        Unlimited(),
        QueueSettings(concurrency=concurrency, backoff_s=0.05, backoff_max_s=0.1),
        take_over_s=60.0,
        hand_s=hand_s,
        now_us=now_us,
        clock_s=clock_s,
        rng=Random(5),
        log=log(),
    )
    running = Running(worker, sweeper)
    running.start(drain_s)
    try:
        yield running
    finally:
        await running.kill()


async def settled(kit: QueueKit, count: int) -> None:
    """Until nothing is left on the queue and `count` rows are recorded."""
    async with asyncio.timeout(60):
        while await kit.waiting() or len(await kit.rows()) < count:  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.01)


async def fill(kit: QueueKit, count: int) -> None:
    for shard in range(SHARDS):
        await kit.put(shard, *(message(f"{shard}.{n}") for n in range(count // SHARDS)))


async def test_every_message_is_sent_once_and_captured_once(kit: QueueKit) -> None:
    carrier = Carrier()
    await fill(kit, 400)
    async with working(await kit.reader("w1"), carrier) as running:
        await settled(kit, 400)
        await running.drain()
    assert len({m.id for m in carrier.submitted}) == len(carrier.submitted) == 400
    assert await kit.usage() == {7: (800, 0)}
    assert {(r.event, r.provider_message_id) for r in await kit.rows()} == {
        ("sent", f"c-{m.id}") for m in carrier.submitted
    }
    # That kind of provider gives no receipts.
    assert {r.receipts_by for r in await kit.rows()} == {NO_RECEIPTS}


@pytest.mark.parametrize("concurrency", [1, 7])
async def test_no_more_are_in_flight_than_the_concurrency_and_no_fewer_when_there_is_work(
    kit: QueueKit, concurrency: int
) -> None:
    carrier = Carrier()
    carrier.latency_s = None
    await fill(kit, 80)
    async with working(await kit.reader("w1"), carrier, concurrency=concurrency) as running:
        for left in range(80, 0, -1):
            wanted = min(concurrency, left)
            await until(partial(carrier.flies, wanted), "all slots at work")
            assert running.worker.in_hand <= 11 * concurrency + SHARDS
            carrier.finish(1)
        await settled(kit, 80)
    assert carrier.in_flight_max == concurrency


async def test_another_concurrency_is_in_force_at_once_and_drops_nothing(kit: QueueKit) -> None:
    carrier = Carrier()
    carrier.latency_s = None
    await fill(kit, 120)
    async with working(await kit.reader("w1"), carrier, concurrency=8) as running:
        await until(partial(carrier.flies, 8), "all slots at work")
        running.worker.allow(24)
        await until(partial(carrier.flies, 24), "more at once, without a verdict in between")
        running.worker.allow(4)
        carrier.finish(22)
        await until(partial(carrier.flies, 4), "fewer, as verdicts come")
        assert carrier.in_flight_max == 24
        carrier.latency_s = 0.0
        carrier.finish(4)
        await settled(kit, 120)
        await running.drain()
    assert len({m.id for m in carrier.submitted}) == len(carrier.submitted) == 120
    assert await kit.usage() == {7: (240, 0)}


async def test_a_message_past_its_validity_is_refunded_and_not_sent(kit: QueueKit) -> None:
    carrier = Carrier()
    await kit.put(0, message("late", expires_at_us=now_us() - 1), message("good"))
    async with working(await kit.reader("w1"), carrier):
        await settled(kit, 2)
    assert [m.id for m in carrier.submitted] == ["good"]
    assert await kit.usage() == {7: (2, 2)}
    assert sorted((r.message_id, r.event) for r in await kit.rows()) == [
        ("good", "sent"),
        ("late", "expired"),
    ]


async def test_a_temporary_failure_is_tried_again_with_the_other_provider(kit: QueueKit) -> None:
    first, second = Carrier("first", lambda _: "temporary"), Carrier("second")
    await kit.put(1, message("m"))
    async with working(await kit.reader("w1"), first, second):
        await settled(kit, 2)
    assert [m.attempts for m in first.submitted + second.submitted] == [0, 1]
    rows = await kit.rows()
    assert [(r.event, r.provider, r.attempt) for r in rows] == [
        ("retrying", "first", 1),
        ("sent", "second", 2),
    ]
    assert rows[0].due_at_us <= rows[1].at_us
    assert await kit.usage() == {7: (2, 0)}


async def test_a_permanent_failure_is_refunded(kit: QueueKit) -> None:
    carrier = Carrier(answer=lambda _: "permanent")
    await kit.put(1, message("m"))
    async with working(await kit.reader("w1"), carrier):
        await settled(kit, 1)
    assert len(carrier.submitted) == 1
    assert await kit.usage() == {7: (0, 2)}


async def test_an_unknown_outcome_is_tried_again_and_marked(kit: QueueKit) -> None:
    carrier = Carrier(answer=lambda m: "unknown" if m.attempts == 0 else "accepted")
    await kit.put(1, message("m"))
    async with working(await kit.reader("w1"), carrier):
        await settled(kit, 2)
    assert [(r.event, r.outcome_unknown) for r in await kit.rows()] == [("retrying", True), ("sent", False)]


async def test_an_entry_that_outlived_three_workers_is_set_aside_and_not_sent(kit: QueueKit) -> None:
    carrier = Carrier()
    await kit.put(0, message("poison"))
    for n in range(3):
        reader = await kit.reader(f"dead{n}")
        if n:
            (entry,) = await reader.take_over(60_000, 10)
        else:
            (entry,) = await reader.read(10, 1000)
        assert entry.deliveries == n + 1
        await kit.fence(f"dead{n}")
    with capture_logs() as logs:
        async with working(await kit.reader("w1"), carrier) as running:
            await settled(kit, 1)
            await until(lambda: not running.worker.in_hand, "the worker to know that it is settled")
    assert [line for line in logs if "dead letter" in line["event"]] == [
        {
            "event": "a message was set aside as a dead letter", "log_level": "warning",
            "message_id": "poison", "organisation_id": 7, "queue": "express",
            "reason": "deliveries", "deliveries": 4,
        }
    ]  # fmt: skip
    assert carrier.submitted == []
    assert len(await kit.dead()) == 1
    assert [r.event for r in await kit.rows()] == ["dead"]
    assert await kit.held() == 2
    assert await kit.usage() == {}


async def test_a_killed_worker_s_messages_are_delivered_by_another_and_charged_once(kit: QueueKit) -> None:
    stuck, carrier = Carrier(), Carrier()
    stuck.latency_s = None
    await fill(kit, 40)
    async with working(await kit.reader("w1"), stuck) as doomed:
        await until(lambda: doomed.worker.in_hand >= 20, "the first worker to have its hands full")
        await doomed.kill()
    await kit.fence("w1")
    async with working(await kit.reader("w2"), carrier):
        await settled(kit, 40)
    assert len({m.id for m in carrier.submitted}) == 40
    assert await kit.usage() == {7: (80, 0)}


async def test_an_outage_of_redis_loses_no_verdict_and_stops_the_sending_in_time(kit: QueueKit) -> None:
    carrier = Carrier()
    carrier.latency_s = None
    async with Proxy.to(kit.url) as proxy:
        reader = await kit.reader("w1", url=proxy.url(kit.url), timeout_s=0.5)
        await fill(kit, 200)
        with capture_logs() as logs:
            async with working(reader, carrier, concurrency=20) as running:
                await until(lambda: carrier.in_flight == 20, "all slots at work")
                proxy.refuse()
                carrier.latency_s = 0.0
                carrier.finish(20)
                await until(lambda: not carrier.in_flight, "the sending to stop")
                await until(
                    lambda: (
                        {"verdicts cannot be settled", "queue cannot be read"}
                        <= {line["event"] for line in logs}
                    ),
                    "both loops to notice",
                )
                # What was in hand was sent; nothing more, for nothing can be settled.
                assert len(carrier.submitted) == running.worker.in_hand <= 2 * 20 + SHARDS
                proxy.admit()
                await settled(kit, 200)
                await running.drain()
    assert len({m.id for m in carrier.submitted}) == len(carrier.submitted) == 200
    assert await kit.usage() == {7: (400, 0)}
    events = [line["event"] for line in logs]
    assert events.count("verdicts cannot be settled") == events.count("verdicts are settled again") == 1
    assert events.count("queue cannot be read") == events.count("queue can be read again") <= 1


async def test_answers_of_redis_lost_at_any_place_lose_and_double_nothing(kit: QueueKit) -> None:
    carrier = Carrier()
    rng = Random(8)
    async with Proxy.to(kit.url) as proxy:
        reader = await kit.reader("w1", url=proxy.url(kit.url), timeout_s=0.5)
        async with working(reader, carrier, concurrency=10, hand_s=60) as running:
            for n in range(20):
                proxy.truncated.clear()
                proxy.truncate_after(rng.randint(1, 3000))
                await kit.put(n % SHARDS, *(message(f"{n}.{i}") for i in range(20)))
                await asyncio.wait_for(proxy.truncated.wait(), 60)
            await settled(kit, 400)
            await running.drain()
    assert len({m.id for m in carrier.submitted}) == len(carrier.submitted) == 400
    assert await kit.usage() == {7: (800, 0)}
    assert await kit.held() == 0


async def test_a_drained_worker_settles_what_flies_and_hands_back_the_rest(kit: QueueKit) -> None:
    carrier = Carrier()
    carrier.latency_s = None
    await fill(kit, 80)
    async with working(await kit.reader("w1"), carrier, concurrency=10) as running:
        await until(lambda: running.worker.in_hand > 10, "entries read ahead")
        draining = asyncio.create_task(running.drain())
        await until(lambda: running.worker.in_hand == 10, "what was read ahead to be handed back")
        assert not draining.done()
        carrier.finish(10)
        await draining
        assert running.worker.in_hand == 0
    assert len(carrier.submitted) == 10
    assert await kit.pending() == 0
    assert await kit.waiting() + len(await kit.due()) == 70
    assert await kit.held() == 140
    # Another worker has them all, as first deliveries of first attempts.
    successor = Carrier()
    async with working(await kit.reader("w2"), successor):
        await settled(kit, 80)
    assert len({m.id for m in successor.submitted}) == 70
    assert {m.attempts for m in successor.submitted} == {0}


async def test_a_drain_ends_at_its_deadline_and_leaves_the_rest_to_others(kit: QueueKit) -> None:
    carrier = Carrier()
    carrier.latency_s = None
    await kit.put(0, message("m"))
    async with working(await kit.reader("w1"), carrier, drain_s=0.2) as running:
        await until(lambda: carrier.in_flight == 1, "the send")
        await running.drain()
    assert await kit.pending() == 1


async def test_entries_read_too_long_ago_are_not_sent_by_a_worker_that_was_frozen(kit: QueueKit) -> None:
    carrier, other, clock = Carrier(), Carrier(), Clock()
    carrier.latency_s = None
    await fill(kit, 12)
    async with working(
        await kit.reader("w1"), carrier, concurrency=8, timeout_s=400.0, clock_s=clock
    ) as running:
        await until(lambda: running.worker.in_hand == 12, "all to be read")
        clock.frozen_s = 31.0
        reader = await kit.reader("w2")
        taken = await reader.take_over(0, 100)
        assert len(taken) == 12
        carrier.finish(8)
        await until(lambda: running.worker.in_hand == 0, "the old ones to be dropped")
    # Eight were under way, four were only read: those are the other's alone.
    assert len(carrier.submitted) == 8
    async with working(reader, other) as second:
        second.worker.take(taken)
        await settled(kit, 12)
    assert await kit.usage() == {7: (24, 0)}


async def test_a_worker_that_has_been_frozen_sends_again_what_nobody_took(kit: QueueKit) -> None:
    carrier, clock = Carrier(), Clock()
    carrier.latency_s = None
    await fill(kit, 12)
    async with working(
        await kit.reader("w1"), carrier, concurrency=8, timeout_s=400.0, clock_s=clock
    ) as running:
        await until(lambda: running.worker.in_hand == 12, "all to be read")
        clock.frozen_s = 31.0
        carrier.latency_s = 0.0
        carrier.finish(8)
        await settled(kit, 12)
    assert len({m.id for m in carrier.submitted}) == len(carrier.submitted) == 12


async def test_a_sweeper_beats_while_its_worker_drains(kit: QueueKit) -> None:
    reader = await kit.reader("w1")
    beaten = asyncio.Event()
    times: list[int] = []

    class Beating:
        """The reader with an ear on its beat."""

        def __getattr__(self, name: str) -> object:
            return getattr(reader, name)

        async def beat(self) -> None:
            await reader.beat()
            times.append(now_us())
            beaten.set()

    draining = asyncio.Event()
    draining.set()
    sweeper = Sweeper(
        Beating(),  # type: ignore[arg-type]
        room=lambda: 10,
        busy=lambda: False,
        stirred=asyncio.Event(),
        take=lambda entries: pytest.fail(f"took {entries}"),
        before_sending=lambda _: None,
        min_idle_ms=0,
        promote_max=10,
        now_us=now_us,
        log=log(),
    )
    # There would be something to take over.
    dead = await kit.reader("w0")
    await kit.put(0, message("m"))
    assert await dead.read(10, 1000)
    await kit.fence("w0")
    task = asyncio.create_task(sweeper.run(draining))
    async with asyncio.timeout(60):
        await beaten.wait()
        beaten.clear()
        await beaten.wait()
    task.cancel()
    await asyncio.wait([task])
    assert 900_000 < times[1] - times[0] < 3_000_000
