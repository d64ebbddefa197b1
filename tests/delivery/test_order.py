"""Messages of one organisation and queue are handed to providers in the order of admission, retries aside.

That holds also when the queue or the only provider is paused, when workers come and go, and when messages are
put off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random

import pytest

from engine import message_format
from engine.delivery.dispatcher import Dispatcher
from engine.records import Message, Queue
from engine.redis_keys import due_key
from engine.routing.records import Route, RoutingPlan
from tests.adversity.proxy import Proxy
from tests.delivery.carrier import Carrier
from tests.delivery.test_pause import SHARD, come, some
from tests.delivery.test_queue_pause import GOES_ON, PAUSED, until_all_wait
from tests.delivery.test_worker import working as one_worker
from tests.delivery.test_worker_routes import working
from tests.stores.redis.kit import QueueKit, until

# More than lie ready and are in hand.
MANY = 600


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


def ids(messages: Sequence[Message], organisation_id: int = 7) -> list[str]:
    return [m.id for m in messages if m.organisation_id == organisation_id]


def overtaken(found: Sequence[str]) -> int:
    """By how many places, at most, a message comes too late."""
    places = {name: place for place, name in enumerate(sorted(found))}
    return max((at - places[name] for at, name in enumerate(found)), default=0)


async def all_sent(carriers: Sequence[Carrier], count: int) -> None:
    await until(lambda: sum(len(c.submitted) for c in carriers) >= count, "all are sent")


def resumed(version: int) -> RoutingPlan:
    return RoutingPlan(version=version)


async def pause_and_resume(kit: QueueKit, dispatcher: Dispatcher, carrier: Carrier, count: int) -> None:
    """Pause the queue, until no worker has any of `count` messages in hand, and go on."""
    dispatcher.use(PAUSED)
    carrier.latency_s = 0.0
    carrier.finish(1000)
    await until_all_wait(kit, count - len(carrier.submitted))
    dispatcher.use(resumed(3))


async def test_a_queue_that_is_paused_and_resumed_goes_on_in_order(kit: QueueKit) -> None:
    carrier = Carrier()
    carrier.latency_s = None
    await come(kit, *some(7, MANY))
    async with working(kit, [carrier], GOES_ON, concurrency=10) as dispatcher:
        await until(lambda: carrier.in_flight >= 10, "some are being sent")
        await pause_and_resume(kit, dispatcher, carrier, MANY)
        await all_sent([carrier], MANY)
    assert overtaken(ids(carrier.submitted)) == 0
    assert len(carrier.submitted) == MANY


# What is paused: the queue, or the only provider.
WHAT = {"queue": {"paused_queues": ("express",)}, "provider": {"paused": ("carrier",)}}


@pytest.mark.parametrize("what", WHAT)
async def test_short_pauses_at_any_moment_put_nothing_behind_what_came_later(
    kit: QueueKit, what: str
) -> None:
    carrier, rng = Carrier(), Random(3)
    carrier.latency_s = 0.002
    three = [some(organisation, MANY // 2) for organisation in (7, 8, 9)]
    await come(kit, *[m for of in zip(*three, strict=True) for m in of])
    async with working(kit, [carrier], GOES_ON, concurrency=10) as dispatcher:
        for n in range(12):
            await asyncio.sleep(rng.uniform(0.0, 0.04))
            dispatcher.use(RoutingPlan(version=2 * n + 2, **WHAT[what]))
            await asyncio.sleep(rng.uniform(0.0, 0.03))
            dispatcher.use(resumed(2 * n + 3))
        await all_sent([carrier], 3 * MANY // 2)
    assert [overtaken(ids(carrier.submitted, of)) for of in (7, 8, 9)] == [0, 0, 0]
    assert len({m.id for m in carrier.submitted}) == len(carrier.submitted)


async def test_what_comes_while_the_only_provider_is_paused_and_resumed_is_sent_in_order(
    kit: QueueKit,
) -> None:
    carrier, rng, version = Carrier(), Random(5), 1
    carrier.latency_s = 0.002
    async with working(kit, [carrier], GOES_ON, concurrency=4) as dispatcher:
        for n in range(MANY):
            # Beside a backlog, what comes to other shards is read apart.
            await arrive(kit, 1, first=n, organisation_id=7)
            await arrive(kit, 3, first=3 * n, organisation_id=8, shard=SHARD + 1)
            if n % 20 == 10:
                dispatcher.use(RoutingPlan(version=version + 1, **WHAT["provider"]))
                await asyncio.sleep(rng.choice((0.0, 0.005, 0.15)))
            if n % 20 == 15:
                version += 2
                dispatcher.use(resumed(version))
                await asyncio.sleep(rng.choice((0.0, 0.002, 0.02)))
        await all_sent([carrier], 4 * MANY)
    assert [overtaken(ids(carrier.submitted, of)) for of in (7, 8)] == [0, 0]
    assert len({m.id for m in carrier.submitted}) == 4 * MANY


async def test_what_reads_lose_around_a_pause_of_the_only_provider_is_sent_in_order(kit: QueueKit) -> None:
    carrier, rng = Carrier(), Random(11)
    carrier.latency_s = 0.002
    await arrive(kit, MANY, first=0)
    async with (
        Proxy.to(kit.url) as proxy,
        working(kit, [carrier], GOES_ON, concurrency=4, url=proxy.url(kit.url)) as dispatcher,
    ):
        for n in range(15):
            proxy.truncated.clear()
            proxy.truncate_after(rng.randint(1, 8000))
            await asyncio.wait_for(proxy.truncated.wait(), 60)
            await asyncio.sleep(rng.choice((0.0, 0.01)))
            dispatcher.use(RoutingPlan(version=2 * n + 2, **WHAT["provider"]))
            await asyncio.sleep(rng.choice((0.02, 0.2)))
            dispatcher.use(resumed(2 * n + 3))
            await arrive(kit, 20, first=MANY + 20 * n)
        await all_sent([carrier], MANY + 300)
    assert overtaken(ids(carrier.submitted)) == 0
    assert len({m.id for m in carrier.submitted}) == len(carrier.submitted) == MANY + 300


async def test_what_waits_for_the_only_provider_while_its_circuit_is_open_is_sent_in_order(
    kit: QueueKit,
) -> None:
    stalls = Carrier()
    stalls.latency_s = None
    async with working(kit, [stalls], GOES_ON, concurrency=10, timeout_s=30.0) as dispatcher:
        lane = dispatcher.lanes.by_name[stalls.name]
        await arrive(kit, 300, first=0)
        await until(lambda: stalls.in_flight == 10 and lane.waiting, "the first are being sent")
        await until(lambda: lane.breaker.state == "open" and not lane.waiting, "the others have left")
        stalls.latency_s = 0.002
        stalls.finish(10)
        await all_sent([stalls], 300)
    assert overtaken(ids(stalls.submitted)) == 0
    assert len(stalls.submitted) == 300


@pytest.mark.parametrize("queue_is_long", [False, True])
async def test_what_a_drained_worker_gives_back_is_sent_first(kit: QueueKit, queue_is_long: bool) -> None:
    carrier, after = Carrier(), Carrier()
    carrier.latency_s = None
    count = MANY if queue_is_long else 60
    await come(kit, *some(7, count))
    async with one_worker(await kit.reader("w1"), carrier, concurrency=10) as running:
        await until(lambda: running.worker.in_hand > 10, "entries read ahead")
        draining = asyncio.create_task(running.drain())
        await until(lambda: running.worker.in_hand == 10, "what was read ahead to be handed back")
        carrier.finish(10)
        await draining
    async with one_worker(await kit.reader("w2"), after, concurrency=10):
        await all_sent([after], count - 10)
    assert overtaken(ids(carrier.submitted) + ids(after.submitted)) == 0
    assert len(carrier.submitted) + len(after.submitted) == count


async def test_a_worker_that_goes_while_another_works_is_overtaken_by_what_that_has_in_hand_and_no_more(
    kit: QueueKit,
) -> None:
    one, other = Carrier("one"), Carrier("other")
    one.latency_s = other.latency_s = None
    await come(kit, *some(7, MANY))
    async with (
        one_worker(await kit.reader("w1"), one, concurrency=10) as leaves,
        one_worker(await kit.reader("w2"), other, concurrency=10) as stays,
    ):
        await until(lambda: one.in_flight == other.in_flight == 10, "both to send")
        in_hand = stays.worker.in_hand
        draining = asyncio.create_task(leaves.drain())
        await until(lambda: leaves.worker.in_hand == 10, "what was read ahead to be handed back")
        one.finish(10)
        await draining
        other.latency_s = 0.0
        other.finish(10)
        await all_sent([one, other], MANY)
    # In flight with the other worker, and waiting there.
    assert overtaken([name for name in ids(other.submitted) if name not in ids(one.submitted)]) <= in_hand


async def test_a_worker_that_is_killed_while_it_gives_back_loses_and_doubles_nothing(kit: QueueKit) -> None:
    carrier, after = Carrier(), Carrier()
    carrier.latency_s = None
    await come(kit, *some(7, MANY))
    async with working(kit, [carrier], GOES_ON, concurrency=10, name="dies") as dispatcher:
        await until(lambda: carrier.in_flight >= 10, "some are being sent")
        dispatcher.use(PAUSED)
    await kit.fence("dies")
    async with working(kit, [after], PAUSED, name="lives") as dispatcher:
        await until_all_wait(kit, MANY)
        dispatcher.use(resumed(3))
        await all_sent([after], MANY)
    # What was in the hand of the dead worker may have been sent before, and comes later. Others: in order.
    sent = ids(after.submitted)
    others = [name for name in sent if name >= sent[0]]
    assert overtaken(others) == 0
    assert len(others) > MANY // 2
    assert len({m.id for m in after.submitted}) == len(after.submitted) == MANY


async def arrive(kit: QueueKit, count: int, first: int, organisation_id: int = 7, shard: int = SHARD) -> None:
    """Messages come into the line, behind all that came before."""
    await kit.link.batch(
        [
            ("ZADD", due_key(shard, kit.queue), first + n, message_format.packed(m))
            for n, m in enumerate(some(organisation_id, count, first), 1)
        ]
    )


ONE_OF_TWO = (Route(providers=("a",)),)


@pytest.mark.parametrize("queue", ["express", "normal"])
@pytest.mark.parametrize("routes", [ONE_OF_TWO, ()], ids=["to-one", "to-both"])
async def test_what_is_put_off_is_sent_in_order(
    kit: QueueKit, queue: Queue, routes: tuple[Route, ...]
) -> None:
    kit.queue = queue
    carriers, rng = [Carrier("a"), Carrier("b")], Random(4)
    for carrier in carriers:
        carrier.latency_s = 0.01
    plan = RoutingPlan(version=1, routes=routes)
    async with working(kit, carriers, plan, concurrency=10):
        for n in range(15):
            await arrive(kit, 60, first=60 * n)
            await asyncio.sleep(rng.uniform(0.0, 0.2))
        await all_sent(carriers, 900)
    assert [overtaken(ids(carrier.submitted)) for carrier in carriers] == [0, 0]
    assert sum(len(c.submitted) for c in carriers) == 900


@pytest.mark.parametrize("queue", ["express", "normal"])
async def test_what_is_put_off_keeps_its_order_when_its_provider_is_paused_and_resumed(
    kit: QueueKit, queue: Queue
) -> None:
    kit.queue = queue
    carriers, rng = [Carrier("a"), Carrier("b")], Random(4)
    carriers[0].latency_s = 0.01
    async with working(
        kit, carriers, RoutingPlan(version=1, routes=ONE_OF_TWO), concurrency=10
    ) as dispatcher:
        for n in range(10):
            await arrive(kit, 120, first=120 * n)
            await asyncio.sleep(rng.uniform(0.1, 0.3))
            dispatcher.use(RoutingPlan(version=2 * n + 2, routes=ONE_OF_TWO, paused=("a",)))
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            dispatcher.use(RoutingPlan(version=2 * n + 3, routes=ONE_OF_TWO))
        await all_sent(carriers, 1200)
    assert overtaken(ids(carriers[0].submitted)) == 0
    assert len(carriers[0].submitted) == 1200


@pytest.mark.parametrize("queue", ["express", "normal"])
async def test_what_waits_for_a_provider_that_stalls_is_sent_in_order(kit: QueueKit, queue: Queue) -> None:
    kit.queue = queue
    stalls, other = Carrier("a"), Carrier("b")
    stalls.latency_s = None
    async with working(
        kit, [stalls, other], RoutingPlan(version=1, routes=ONE_OF_TWO), concurrency=10, timeout_s=30.0
    ):
        for n in range(10):
            await arrive(kit, 30, first=30 * n)
            await asyncio.sleep(0.2)
        # Its provider counts as closed, and all that has not been sent has left the worker.
        await until(lambda: stalls.in_flight == 7, "the first are being sent")
        async with asyncio.timeout(60):
            while len(await kit.put_off_messages()) != 293:  # noqa: ASYNC110 - Redis has no event for it
                await asyncio.sleep(0.01)
        stalls.latency_s = 0.002
        stalls.finish(7)
        await all_sent([stalls], 300)
    assert overtaken(ids(stalls.submitted)) == 0
    assert len(stalls.submitted) == 300
