"""One process has the lease; what becomes of it when it is lost, slept over, or its store is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from engine.errors import ConfigError, Unavailable
from engine.leases.lease import Lease, boot_time_s
from engine.stores.redis.inbound_stream import RedisInboundStream
from engine.stores.redis.link import RedisLink, load_functions
from tests.adversity.proxy import Proxy

LEASE_S = 0.6


class Scene:
    """Leases of several owners over one Redis, reached by way of a proxy."""

    def __init__(self, proxy: Proxy, url: str) -> None:
        self.proxy = proxy
        near = RedisLink(url, timeout_s=5.0, name="near")
        self.links = near, RedisLink(proxy.url(url), timeout_s=0.3, name="far")
        self.direct, self.far = map(RedisInboundStream, self.links)
        self.troubles: list[Unavailable | ConfigError] = []
        self.troubled = asyncio.Event()

    def lease(self, owner: str, *, far: bool = False, clock_s: Callable[[], float] = boot_time_s) -> Lease:
        store = self.far if far else self.direct
        return Lease(store, owner, LEASE_S, of="test", mention=self.mention, clock_s=clock_s)

    async def mention(self, error: Unavailable | ConfigError) -> None:
        self.troubles.append(error)
        self.troubled.set()


@pytest.fixture
async def scene(streams_url: str) -> AsyncIterator[Scene]:
    async with Proxy.to(streams_url) as proxy:
        scene = Scene(proxy, streams_url)
        await load_functions(scene.links[0])
        yield scene
        for link in scene.links:
            await link.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        # What changes is the clock.
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def won(lease: Lease) -> None:
    async with asyncio.timeout(60):
        while not lease.active:
            await lease.stand_by(1)


async def test_one_is_active_and_is_followed_when_it_gives_the_lease_up(scene: Scene) -> None:
    first, second = scene.lease("first"), scene.lease("second")

    async def follow() -> None:
        async with second.held():
            await won(second)

    async with first.held():
        await won(first)
        following = asyncio.create_task(follow())
        await asyncio.sleep(LEASE_S / 2)
        assert (first.active, second.active) == (True, False)
    await following
    assert (first.active, second.active) == (False, False)
    assert await scene.direct.lease("third", 1000)


async def test_it_is_kept_for_longer_than_it_lasts(scene: Scene) -> None:
    lease = scene.lease("first")
    async with lease.held():
        await won(lease)
        began = boot_time_s()
        while boot_time_s() < began + 2.5 * LEASE_S:
            assert lease.active
            assert not await scene.direct.lease("other", round(LEASE_S * 1000))
            await asyncio.sleep(0.02)


async def test_a_lease_that_another_has_got_is_lost_with_the_answer(scene: Scene) -> None:
    lease = scene.lease("first")
    async with lease.held():
        await won(lease)
        # As when it had run out while the holder was frozen: somebody else was faster.
        await scene.direct.release("first")
        assert await scene.direct.lease("other", 60_000)
        await until(lambda: not lease.active)
    assert not await scene.direct.lease("third", 1000)


async def test_who_sleeps_past_the_lease_is_not_active_on_waking(scene: Scene) -> None:
    slept_s = 0.0
    lease = scene.lease("first", clock_s=lambda: boot_time_s() + slept_s)
    async with lease.held():
        await won(lease)
        slept_s = LEASE_S
        # No answer has come in between.
        assert not lease.active
        await won(lease)


async def test_the_time_of_a_lease_runs_from_the_question_not_from_the_answer(scene: Scene) -> None:
    now_s = 100.0
    lease = scene.lease("first", far=True, clock_s=lambda: now_s)
    await scene.far.read()
    scene.proxy.stall()
    async with lease.held():
        await asyncio.sleep(0)
        now_s += LEASE_S
        scene.proxy.flow()
        await lease.stand_by(0.1)
        assert not lease.active


async def test_with_the_store_away_it_stays_until_its_time_is_over_and_comes_back(scene: Scene) -> None:
    lease = scene.lease("first", far=True)
    async with lease.held():
        await won(lease)
        scene.proxy.refuse()
        await scene.troubled.wait()
        assert lease.active
        await until(lambda: not lease.active)
        assert scene.troubles
        scene.proxy.admit()
        await won(lease)


async def test_with_the_store_away_the_end_is_in_peace_and_the_lease_runs_out(scene: Scene) -> None:
    lease = scene.lease("first", far=True)
    async with lease.held():
        await won(lease)
        scene.proxy.refuse()
    assert not lease.active
    other = scene.lease("other")
    async with other.held():
        await won(other)


async def test_what_ends_the_block_gives_the_lease_up(scene: Scene) -> None:
    lease = scene.lease("first")

    async def broken() -> None:
        async with lease.held():
            await won(lease)
            raise ValueError("broken")

    with pytest.raises(ExceptionGroup) as caught:
        await broken()
    assert caught.group_contains(ValueError)
    assert await scene.direct.lease("other", 1000)
