"""Nothing of a paused organisation is sent, it costs the others nothing, and it goes on in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from engine.limits.keeper import LimitKeeper
from engine.limits.table import LimitTable
from engine.records import Message
from engine.redis_keys import due_key
from engine.stores.redis.limits import RedisLimits
from engine.stream_id import StreamId
from tests.delivery.carrier import Carrier
from tests.delivery.test_worker_routes import plan, working
from tests.limits.test_keeper import Books
from tests.stores.redis.kit import SHARDS, QueueKit, message, now_us, until

SHARD = 1
PAUSED, OTHER = 7, 8


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


async def come(kit: QueueKit, *messages: Message) -> None:
    """Messages come into the line of their queue, in this order, as those that are due do."""
    packer = msgspec.msgpack.Encoder().encode
    await kit.link.batch(
        [("ZADD", due_key(SHARD, kit.queue), at, packer(m)) for at, m in enumerate(messages, 1)]
    )


def some(organisation_id: int, count: int, first: int = 0, **more: int) -> list[Message]:
    return [
        message(f"{organisation_id}-{n:04}", organisation_id=organisation_id, **more)
        for n in range(first, first + count)
    ]


class Limited:
    """The limits of a queue, without PostgreSQL."""

    def __init__(self, kit: QueueKit, on_pause: Callable[[dict[int, StreamId]], None]) -> None:
        self.books = Books()
        self._redis = RedisLimits(kit.link, SHARDS, lambda _: SHARD, kit.queue)
        self._keeper = LimitKeeper(LimitTable(self.books), self._redis, lambda _: SHARD, on_pause)

    async def pause(self, organisation_id: int, *, paused: bool = True) -> None:
        self.books.put(organisation_id, paused=paused)
        await self._keeper.look()

    async def waiting(self, organisation_id: int) -> int:
        return (await self._redis.backlogs([organisation_id]))[0].messages


def ids(carrier: Carrier, organisation_id: int) -> list[str]:
    return [m.id for m in carrier.submitted if m.organisation_id == organisation_id]


@pytest.mark.parametrize("carriers", [1, 2])
async def test_what_is_paused_waits_and_goes_on_in_order(kit: QueueKit, carriers: int) -> None:
    all_carriers = [Carrier(f"c{n}") for n in range(carriers)]
    for carrier in all_carriers:
        carrier.latency_s = None
    first = all_carriers[0]
    mixed = [m for pair in zip(some(PAUSED, 150), some(OTHER, 150), strict=True) for m in pair]
    await come(kit, *mixed)
    async with working(kit, all_carriers, plan(), concurrency=10) as dispatcher:
        limited = Limited(kit, dispatcher.pause)
        await until(lambda: sum(c.in_flight for c in all_carriers) >= 7, "some are being sent")
        await limited.pause(PAUSED)
        sent = [ids(carrier, PAUSED) for carrier in all_carriers]
        for carrier in all_carriers:
            carrier.latency_s = 0.0
            carrier.finish(1000)
        await until(lambda: sum(len(ids(c, OTHER)) for c in all_carriers) == 150, "the others are sent")
        assert [ids(carrier, PAUSED) for carrier in all_carriers] == sent
        # What comes meanwhile waits behind.
        await come(kit, *some(PAUSED, 5, first=150))
        left = 155 - sum(map(len, sent))
        async with asyncio.timeout(60):
            while await limited.waiting(PAUSED) < left or await kit.pending():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert (await limited.waiting(PAUSED), await kit.waiting(), await kit.due()) == (left, 0, [])
        await limited.pause(PAUSED, paused=False)
        await until(lambda: sum(len(ids(c, PAUSED)) for c in all_carriers) == 155, "it went on")
    if carriers == 1:
        assert ids(first, PAUSED) == sorted(ids(first, PAUSED))
    assert (await kit.usage())[OTHER] == (300, 0)


async def test_what_expires_while_it_is_paused_is_not_sent_and_not_charged(kit: QueueKit) -> None:
    carrier = Carrier()
    soon = now_us() + 1_000_000
    await come(kit, *some(PAUSED, 20, expires_at_us=soon), *some(PAUSED, 5, first=20))
    async with working(kit, [carrier], plan()) as dispatcher:
        limited = Limited(kit, dispatcher.pause)
        # Before anything is sent, whatever the worker has read by then.
        dispatcher.pause({PAUSED: StreamId(1 << 60, 0)})
        await limited.pause(PAUSED)
        async with asyncio.timeout(60):
            while (await kit.usage()).get(PAUSED) != (0, 40):  # noqa: ASYNC110 - Redis has no event for it
                await asyncio.sleep(0.02)
        assert await limited.waiting(PAUSED) == 5
        assert carrier.submitted == []
        assert {(r.event, r.code) for r in await kit.rows()} == {("expired", "validity")}
        await limited.pause(PAUSED, paused=False)
        await until(lambda: len(ids(carrier, PAUSED)) == 5, "it went on")
    assert ids(carrier, PAUSED) == [f"{PAUSED}-{n:04}" for n in range(20, 25)]


async def test_what_a_worker_died_with_goes_back_to_the_backlog_of_a_paused_organisation(
    kit: QueueKit,
) -> None:
    carrier = Carrier()
    carrier.latency_s = None
    await come(kit, *some(PAUSED, 30))
    async with working(kit, [carrier], plan(), concurrency=10, name="dies"):
        await until(lambda: carrier.in_flight >= 10, "some are being sent")
    await kit.fence("dies")
    other = Carrier("other")
    async with working(kit, [other], plan(), name="lives") as dispatcher:
        limited = Limited(kit, dispatcher.pause)
        dispatcher.pause({PAUSED: StreamId(1 << 60, 0)})
        await limited.pause(PAUSED)
        async with asyncio.timeout(60):
            while await limited.waiting(PAUSED) < 30 or await kit.pending():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        assert other.submitted == []
        await limited.pause(PAUSED, paused=False)
        await until(lambda: len(other.submitted) == 30, "it went on")
    assert ids(other, PAUSED) == sorted(ids(other, PAUSED))
