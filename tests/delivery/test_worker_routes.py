"""A worker with several providers: who carries what, and that none of them holds up the others."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from engine.boot.worker import assemble_worker
from engine.config import QueueSettings
from engine.delivery.dispatcher import Dispatcher
from engine.providers.settings import SimulatedSettings
from engine.records import Queue
from engine.routing.ports import SlotStore
from engine.routing.records import Route, RoutingPlan
from engine.stores.redis.link import RedisLink
from engine.stores.redis.throughput import RedisSlots
from tests.delivery.carrier import Carrier
from tests.delivery.test_worker import Running, Unlimited, settled
from tests.stores.redis.kit import QueueKit, log, message, now_us, until


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


@asynccontextmanager
async def working(
    kit: QueueKit,
    carriers: Sequence[Carrier],
    plan: RoutingPlan,
    *,
    concurrency: int = 20,
    at_most_once: bool = False,
    hedge: bool = False,
    name: str = "w1",
    pace: SlotStore | None = None,
    queue: Queue = "normal",
    url: str = "",
    **settings: Any,
) -> AsyncIterator[Dispatcher]:
    """`url`: of Redis, if not the kit's."""
    reader = await kit.reader(name, url=url, timeout_s=0.5) if url else await kit.reader(name)
    worker, sweeper, dispatcher = assemble_worker(
        reader,
        carriers,
        [SimulatedSettings(name=c.name, **{"timeout_s": 4.0, **settings}) for c in carriers],
        pace or Unlimited(),
        QueueSettings(
            concurrency=concurrency,
            backoff_s=0.1,
            backoff_max_s=0.2,
            unknown_outcome="at-most-once" if at_most_once else "at-least-once",
            hedge=hedge,
        ),
        take_over_s=60.0,
        now_us=now_us,
        clock_s=time.monotonic,
        rng=Random(5),
        log=log(),
    )
    dispatcher.use(plan)
    running = Running(worker, sweeper)
    running.start(5.0)
    try:
        yield dispatcher
    finally:
        await running.kill()


def plan(*routes: Route, paused: tuple[str, ...] = (), version: int = 1) -> RoutingPlan:
    return RoutingPlan(version=version, routes=routes, paused=paused)


async def test_the_longest_prefix_decides_and_what_no_route_matches_is_refunded(kit: QueueKit) -> None:
    a, b = Carrier("a"), Carrier("b")
    await kit.put(
        0,
        message("to-a", to="+441234567890"),
        message("to-b", to="+447777777777"),
        message("nowhere", to="+989121234567"),
    )
    routes = (Route(prefix="+44", providers=("a",)), Route(prefix="+447", providers=("b",)))
    async with working(kit, [a, b], plan(*routes)):
        await settled(kit, 3)
    assert [m.id for m in a.submitted] == ["to-a"]
    assert [m.id for m in b.submitted] == ["to-b"]
    assert await kit.usage() == {7: (4, 2)}
    assert [(r.message_id, r.code) for r in await kit.rows() if r.event == "failed"] == [
        ("nowhere", "no_route")
    ]


async def test_weights_share_the_traffic_out(kit: QueueKit) -> None:
    a, b = Carrier("a"), Carrier("b")
    for n in range(400):
        await kit.put(n % 4, message(f"m{n}"))
    async with working(kit, [a, b], plan(Route(providers=("a", "b"), weights=(3, 1)))):
        await settled(kit, 400)
    assert 260 <= len(a.submitted) <= 340
    assert len(a.submitted) + len(b.submitted) == 400


async def test_nothing_goes_through_a_paused_provider_until_it_is_resumed(kit: QueueKit) -> None:
    a, b = Carrier("a"), Carrier("b")
    only_a = Route(prefix="+44", providers=("a",))
    both = Route(providers=("a", "b"))
    await kit.put(0, message("waits", to="+441234567890"), message("fails-over"))
    async with working(kit, [a, b], plan(only_a, both, paused=("a",))) as dispatcher:
        await until(lambda: b.submitted, "the other provider to carry what it may")
        assert a.submitted == []
        dispatcher.use(plan(only_a, both, version=2))
        await settled(kit, 2)
    assert [m.id for m in a.submitted] == ["waits"]
    assert a.submitted[0].attempts == 0


async def test_a_provider_that_hangs_is_avoided_long_before_its_time_out(kit: QueueKit) -> None:
    hung, good = Carrier("hung"), Carrier("good")
    hung.latency_s = None
    loop = asyncio.get_running_loop()
    async with working(kit, [hung, good], plan(), concurrency=10, timeout_s=8.0):
        began = loop.time()
        for n in range(100):
            await kit.put(n % 4, message(f"m{n}"))
        # The first seven are stuck; the others wait no longer than it takes to see that.
        await until(lambda: len(good.submitted) >= 90, "the other provider to take over")
        assert loop.time() - began < 7.0
        assert len(hung.submitted) <= 10
        hung.answer = lambda _: "unknown"
        hung.finish(hung.in_flight)
        hung.latency_s = 0.0
        everyone = {f"m{n}" for n in range(100)}
        await until(lambda: {m.id for m in good.submitted} == everyone, "the stuck ones to follow")
        await settled(kit, 100)
    assert await kit.usage() == {7: (200, 0)}


async def test_a_broken_provider_gets_probes_not_traffic_and_comes_back_when_it_is_mended(
    kit: QueueKit,
) -> None:
    broken, good = Carrier("broken", lambda _: "temporary"), Carrier("good")
    async with working(kit, [broken, good], plan(), breaker_failures=5, breaker_pause_s=0.2):
        for n in range(200):
            await kit.put(n % 4, message(f"m{n}"))
        await until(lambda: len(good.submitted) == 200, "everything to be carried by the other")
        attempts = len(broken.submitted)
        assert 5 <= attempts <= 60
        broken.answer = lambda _: "accepted"
        for n in range(200, 300):
            await kit.put(n % 4, message(f"m{n}"))
            await asyncio.sleep(0.01)
        await until(lambda: len(broken.submitted) > attempts + 10, "the mended one to carry again")


async def test_at_most_once_never_sends_again_what_may_have_been_sent(kit: QueueKit) -> None:
    silent, other = Carrier("silent", lambda _: "unknown"), Carrier("other")
    await kit.put(0, message("m"))
    async with working(kit, [silent, other], plan(), at_most_once=True):
        await settled(kit, 1)
    assert len(silent.submitted) == 1
    assert other.submitted == []
    assert await kit.usage() == {7: (0, 2)}
    rows = [(r.event, r.outcome_unknown) for r in await kit.rows()]
    assert rows == [("outcome_unknown_released", True)]


async def test_a_limited_provider_is_kept_busy_to_its_limit_and_holds_up_nobody_else(
    kit: QueueKit, redis_url: str
) -> None:
    slow, fast = Carrier("slow"), Carrier("fast")
    routes = (Route(prefix="+44", providers=("slow",)), Route(providers=("fast",)))
    limits = RoutingPlan(version=1, routes=routes, throughput={"slow": 50.0})
    link = RedisLink(redis_url, timeout_s=5.0, name="pace")
    await link.start()
    loop = asyncio.get_running_loop()
    sent_at: list[float] = []
    carry = slow.submit

    def noted(m: Any, done: Any) -> None:
        sent_at.append(loop.time())
        carry(m, done)

    slow.submit = noted  # type: ignore[method-assign, assignment]
    for n in range(600):
        await kit.put(n % 4, message(f"s{n}", to="+441234567890", segments=1))
    for n in range(200):
        await kit.put(n % 4, message(f"f{n}", segments=1))
    try:
        async with working(kit, [slow, fast], limits, concurrency=20, pace=RedisSlots(link)):
            await until(lambda: len(fast.submitted) == 200, "those behind the slow one's to be carried")
            assert len(slow.submitted) < 300
            await until(lambda: len(slow.submitted) >= 200, "seconds of the slow one's", timeout_s=60.0)
    finally:
        await link.close()
    busiest = max(sum(1 for t in sent_at if s <= t < s + 1.0) for s in sent_at)
    assert 40 <= busiest <= 53
    assert max(Counter(m.id for m in slow.submitted).values()) == 1


async def test_what_a_carrier_never_answers_goes_to_another_before_the_time_out_where_that_is_wanted(
    kit: QueueKit,
) -> None:
    silent, good = Carrier("silent"), Carrier("good")
    silent.latency_s = None
    await kit.put(0, message("code"))
    async with working(kit, [silent, good], plan(), hedge=True, timeout_s=8.0):
        await settled(kit, 2)
        # The answer that comes after all charges nobody a second time: verdicts are taken in order.
        silent.finish(1)
        silent.latency_s = 0.0
        await kit.put(0, message("next"))
        await settled(kit, 3)
    assert good.submitted[0].tried == ("silent",)
    assert await kit.usage() == {7: (4, 0)}
    assert [(r.event, r.code, r.outcome_unknown) for r in await kit.rows()] == [
        ("retrying", "overdue", True),
        ("sent", "", False),
        ("sent", "", False),
    ]
