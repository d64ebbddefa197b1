"""Nothing of a paused queue is sent, what workers have in hand goes back, and all of it is sent later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from engine.routing.records import RoutingPlan
from engine.stores.redis.limits import RedisLimits
from tests.delivery.carrier import Carrier
from tests.delivery.test_pause import SHARD, come, some
from tests.delivery.test_worker_routes import working
from tests.stores.redis.kit import SHARDS, QueueKit, now_us, until

GOES_ON = RoutingPlan(version=1)
PAUSED = RoutingPlan(version=2, paused_queues=("express",))


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


async def waiting(kit: QueueKit) -> int:
    """Messages in the ready streams and in the lists behind them."""
    lists = RedisLimits(kit.link, SHARDS, lambda _: SHARD, kit.queue)
    return await kit.waiting() + (await lists.backlogs([7]))[0].messages


async def until_all_wait(kit: QueueKit, count: int) -> None:
    """Until no worker has any in hand, and so many wait."""
    async with asyncio.timeout(60):
        while await kit.pending() or await waiting(kit) != count:  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("carriers", [1, 2])
async def test_what_waits_in_a_worker_goes_back_and_is_sent_once_later(kit: QueueKit, carriers: int) -> None:
    all_carriers = [Carrier(f"c{n}") for n in range(carriers)]
    for carrier in all_carriers:
        carrier.latency_s = None
    await come(kit, *some(7, 150))
    async with working(kit, all_carriers, GOES_ON, concurrency=10) as dispatcher:
        await until(lambda: sum(c.in_flight for c in all_carriers) >= 7, "some are being sent")
        dispatcher.use(PAUSED)
        sent = sum(len(c.submitted) for c in all_carriers)
        for carrier in all_carriers:
            carrier.latency_s = 0.0
            carrier.finish(1000)
        # What comes meanwhile is admitted, and waits behind.
        await come(kit, *some(7, 10, first=150))
        await until_all_wait(kit, 160 - sent)
        assert sum(len(c.submitted) for c in all_carriers) == sent
        dispatcher.use(msgspec.structs.replace(GOES_ON, version=3))
        await until(lambda: sum(len(c.submitted) for c in all_carriers) == 160, "it went on")
    assert len({m.id for c in all_carriers for m in c.submitted}) == 160


async def test_the_other_queue_goes_on(kit: QueueKit) -> None:
    carrier = Carrier()
    await come(kit, *some(7, 20))
    async with working(kit, [carrier], msgspec.structs.replace(PAUSED, paused_queues=("normal",))):
        await until(lambda: len(carrier.submitted) == 20, "they are sent")


async def test_what_expires_while_the_queue_is_paused_is_not_sent_and_not_charged(kit: QueueKit) -> None:
    carrier = Carrier()
    async with working(kit, [carrier], PAUSED):
        await come(kit, *some(7, 20, expires_at_us=now_us() + 500_000), *some(7, 5, first=20))
        async with asyncio.timeout(60):
            while (await kit.usage()).get(7) != (0, 40):  # noqa: ASYNC110 - Redis has no event for it
                await asyncio.sleep(0.02)
        await until_all_wait(kit, 5)
        assert carrier.submitted == []
        assert {(r.event, r.code) for r in await kit.rows()} == {("expired", "validity")}


async def test_what_a_worker_died_with_is_not_sent_by_another(kit: QueueKit) -> None:
    carrier = Carrier()
    carrier.latency_s = None
    await come(kit, *some(7, 30))
    async with working(kit, [carrier], GOES_ON, concurrency=10, name="dies"):
        await until(lambda: carrier.in_flight >= 10, "some are being sent")
    await kit.fence("dies")
    other = Carrier("other")
    async with working(kit, [other], PAUSED, name="lives") as dispatcher:
        await until_all_wait(kit, 30)
        assert other.submitted == []
        dispatcher.use(GOES_ON)
        await until(lambda: len(other.submitted) == 30, "it went on")
