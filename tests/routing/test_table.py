"""The routing plan that a worker has, while PostgreSQL and Redis come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from engine.errors import Unavailable
from engine.routing.records import Route, RoutingPlan
from engine.routing.table import RoutingTable
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.routing import Routing
from engine.stores.redis.link import RedisLink
from engine.stores.redis.routing_copy import RoutingCopy
from tests.adversity.proxy import Proxy

NAMES = ("a", "b")
ROUTE = Route(providers=("a",))


class Counted(Routing):
    """The real store; counts how often it is looked at."""

    looks = 0

    async def version(self) -> int:
        self.looks += 1
        return await super().version()


class Process:
    """A routing table on connections of its own, and the plans it was told of."""

    def __init__(self, pool: Pool, link: RedisLink, **times: float) -> None:
        self.told: list[RoutingPlan] = []
        # How many looks there had been when it was told of each.
        self.looks_told: list[int] = []
        self.store = Counted(pool)
        self.table = RoutingTable(self.store, RoutingCopy(link), self._tell, **times)

    def _tell(self, plan: RoutingPlan) -> None:
        self.told.append(plan)
        self.looks_told.append(self.store.looks)

    @property
    def version(self) -> int:
        return self.table.plan.version


@asynccontextmanager
async def process(
    books_url: str, redis_url: str, *, answer_s: float = 1.0, **times: float
) -> AsyncIterator[Process]:
    pool = await Pool.connect(books_url, timeout_s=answer_s, connections_max=1)
    link = RedisLink(redis_url, timeout_s=2.0, name="routing")
    made = Process(pool, link, **({"look_s": 0.02, "first_s": 0.3} | times))
    running = asyncio.create_task(made.table.run())
    yield made
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    await link.close()
    await pool.close()


@pytest.fixture
async def routing(books_url: str) -> AsyncIterator[Routing]:
    pool = await Pool.connect(books_url)
    yield Routing(pool, NAMES)
    await pool.close()


async def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def until_copied(redis_url: str, plan: RoutingPlan, timeout_s: float = 60.0) -> None:
    link = RedisLink(redis_url, timeout_s=5, name="test")
    deadline = time.monotonic() + timeout_s
    while (newest := await RoutingCopy(link).newest()) != plan:
        assert time.monotonic() < deadline, f"the copy is {newest}"
        await asyncio.sleep(0.01)
    await link.close()


async def test_a_change_is_in_force_everywhere_with_the_next_look(
    books_url: str, streams_url: str, routing: Routing
) -> None:
    async with (
        process(books_url, streams_url, look_s=1.0) as one,
        process(books_url, streams_url, look_s=1.0) as other,
    ):
        for each in (one, other):
            await each.table.start()
            assert [told.version for told in each.told] == [0]
        changed = await routing.replace([ROUTE])
        looks = [each.store.looks for each in (one, other)]
        await until(lambda: one.told[-1] == changed and other.told[-1] == changed)
        # One may have been under way.
        assert all(
            each.looks_told[-1] - before <= 2 for each, before in zip((one, other), looks, strict=True)
        )
        assert one.table.plan == changed


async def test_each_change_is_told_once_and_what_stays_is_not(
    books_url: str, streams_url: str, routing: Routing
) -> None:
    async with process(books_url, streams_url) as p:
        await p.table.start()
        for n in range(1, 6):
            await routing.set_paused("a", n % 2 == 1)
            await until(lambda n=n: p.version == n)  # type: ignore[misc]
            for _ in range(3):
                await p.table.refresh()
        assert [told.version for told in p.told] == list(range(6))


async def test_a_process_starts_by_the_copy_while_postgres_is_away_and_catches_up(
    books_url: str, streams_url: str, routing: Routing
) -> None:
    known = await routing.replace([ROUTE])
    async with process(books_url, streams_url) as first:
        await first.table.start()
    async with Proxy.to(books_url) as proxy:
        for away in (proxy.refuse, proxy.stall):
            away()
            async with process(proxy.url(books_url), streams_url, answer_s=60.0) as p:
                with pytest.raises(Unavailable):
                    _ = p.table.plan
                # As long as it is told, not as long as PostgreSQL may take for an answer.
                async with asyncio.timeout(20):
                    await p.table.start()
                assert p.told == [known]
                known = await routing.set_paused("a", "a" not in known.paused)
                proxy.admit()
                proxy.flow()
                await until(lambda p=p, known=known: p.told[-1] == known)  # type: ignore[misc]


async def test_with_neither_postgres_nor_a_copy_it_does_not_guess(
    books_url: str, streams_url: str, routing: Routing
) -> None:
    async with Proxy.to(books_url) as proxy:
        proxy.refuse()
        async with process(proxy.url(books_url), streams_url) as p:
            with pytest.raises(Unavailable, match="Redis has no copy"):
                await p.table.start()
            assert p.told == []
            proxy.admit()
            await p.table.start()
            assert p.version == 0


async def test_the_plan_last_known_stays_while_both_are_away(
    books_url: str, streams_url: str, routing: Routing
) -> None:
    await routing.replace([ROUTE])
    async with (
        Proxy.to(books_url) as postgres,
        Proxy.to(streams_url) as redis,
        process(postgres.url(books_url), redis.url(streams_url), copy_s=0.0) as p,
    ):
        await p.table.start()
        postgres.refuse()
        redis.refuse()
        await routing.replace([])
        for _ in range(20):
            assert p.version == 1
            await asyncio.sleep(0.01)
        postgres.admit()
        await until(lambda: p.version == 2)
        redis.admit()
        await until_copied(streams_url, p.table.plan)


async def test_a_copy_that_redis_lost_is_put_again(
    books_url: str, streams_url: str, routing: Routing
) -> None:
    known = await routing.replace([ROUTE])
    link = RedisLink(streams_url, timeout_s=5, name="test")
    async with process(books_url, streams_url, copy_s=0.1) as p:
        await p.table.start()
        assert await RoutingCopy(link).newest() == known
        await link.call("FLUSHDB")
        await until_copied(streams_url, known)
    await link.close()


async def test_a_frozen_process_that_comes_back_does_not_overwrite_a_newer_copy(
    books_url: str, streams_url: str, routing: Routing
) -> None:
    await routing.replace([ROUTE])
    async with Proxy.to(streams_url) as proxy, process(books_url, streams_url) as quick:
        # What it puts is under way for as long as the proxy lets nothing through.
        async with process(books_url, proxy.url(streams_url), look_s=60.0) as slow:
            proxy.stall(requests=True)
            starting = asyncio.create_task(slow.table.start())
            await until(lambda: bool(slow.told))
            newer = await routing.replace([])
            await quick.table.start()
            proxy.flow()
            await starting
            assert slow.version == 1
        link = RedisLink(streams_url, timeout_s=5, name="test")
        assert await RoutingCopy(link).newest() == newer
        await link.close()
