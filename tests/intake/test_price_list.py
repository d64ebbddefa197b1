"""Prices that change while messages come: real PostgreSQL and Redis, several lists."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from engine.config import Queues
from engine.credit.quota import Quota
from engine.errors import Unavailable
from engine.ids import MessageIds
from engine.intake.ingest import Ingest
from engine.intake.price_list import PriceList
from engine.limits.gate import Gate
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.prices import Prices
from tests.adversity.proxy import Proxy
from tests.credit.test_credit import World, drafts, now_us, render, world

TO = "+4915112345678"


@pytest.fixture
async def prices(books_url: str) -> AsyncIterator[Prices]:
    pool = await Pool.connect(books_url)
    yield Prices(pool)
    await pool.close()


@asynccontextmanager
async def kept(url: str, look_s: float) -> AsyncIterator[PriceList]:
    """A price list that keeps up, on connections of its own."""
    pool = await Pool.connect(url, timeout_s=1.0)
    prices = PriceList(Prices(pool), look_s)
    await prices.refresh()
    running = asyncio.create_task(prices.run())
    yield prices
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    await pool.close()


async def until_price(prices: PriceList, units: int, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while prices.units_per_segment(TO) != units:
        assert time.monotonic() < deadline, "the change was not noticed"
        await asyncio.sleep(0.005)


def ingest_with(quota: Quota, prices: PriceList) -> Ingest:
    ids = MessageIds(random.getrandbits(26), random.getrandbits(48))
    gate = Gate(clock_s=time.monotonic)
    return Ingest(quota, prices, Queues().validities_s(), ids, now_us=now_us, timeout_s=5.0, gate=gate)


async def organisation_with(w: World, units: int) -> tuple[int, Quota]:
    await w.ledger()
    return await w.organisation(units), (await w.holder("h1"))[1]


async def test_a_change_is_in_force_everywhere_within_about_a_second(books_url: str, prices: Prices) -> None:
    await prices.seed({"": 1})
    async with kept(books_url, 1.0) as one, kept(books_url, 1.0) as other:
        assert one.units_per_segment(TO) == other.units_per_segment(TO) == 1
        await prices.replace({"": 1, "+49": 4})
        changed_at = time.monotonic()
        await asyncio.gather(until_price(one, 4), until_price(other, 4))
        # Generous for a shared machine; one look each second.
        assert time.monotonic() - changed_at < 3.0


async def test_no_price_is_told_before_one_is_known(streams_url: str, books_url: str, prices: Prices) -> None:
    async with world(streams_url, books_url) as w, kept(books_url, 0.01) as unset:
        org, quota = await organisation_with(w, 100)
        ingest = ingest_with(quota, unset)
        with pytest.raises(Unavailable, match="prices are not known"):
            await ingest.submit(org, drafts(1), render=render)
        await prices.seed({"": 5})

        async def priced() -> bytes:
            while True:
                try:
                    return (await ingest.submit(org, drafts(1), render=render)).answer
                except Unavailable:
                    await asyncio.sleep(0.01)

        async with asyncio.timeout(60):
            assert [o["units"] for o in msgspec.json.decode(await priced())] == [5]
        await w.clean()


async def test_a_submission_has_one_price_while_prices_change(
    streams_url: str, books_url: str, prices: Prices
) -> None:
    await prices.seed({"": 1})
    async with world(streams_url, books_url) as w, kept(books_url, 0.001) as changing:
        org, quota = await organisation_with(w, 10_000_000)
        ingest = ingest_with(quota, changing)
        ending = asyncio.Event()

        async def change() -> None:
            n = 0
            while not ending.is_set():
                n += 1
                await prices.replace({"": 1 + n % 5})

        altering = asyncio.create_task(change())
        seen: set[int] = set()
        deadline = time.monotonic() + 60
        while len(seen) < 4 and time.monotonic() < deadline:
            told = msgspec.json.decode((await ingest.submit(org, drafts(50), render=render)).answer)
            costs = {outcome["units"] for outcome in told}
            assert len(costs) == 1
            seen |= costs
        ending.set()
        await altering
        assert len(seen) >= 4, "prices did change meanwhile"
        await w.clean()


async def test_prices_last_known_stay_while_postgres_is_away(books_url: str, prices: Prices) -> None:
    await prices.seed({"": 2})
    async with Proxy.to(books_url) as proxy, kept(proxy.url(books_url), 0.02) as far:
        proxy.refuse()
        proxy.cut()
        await prices.replace({"": 3})
        for _ in range(20):
            assert far.units_per_segment(TO) == 2
            await asyncio.sleep(0.01)
        proxy.admit()
        await until_price(far, 3)
        # Hanging rather than refusing.
        proxy.stall()
        await prices.replace({"": 4})
        assert far.units_per_segment(TO) == 3
        proxy.flow()
        await until_price(far, 4)


async def test_prices_spoilt_by_hand_change_nothing(books_url: str, prices: Prices) -> None:
    await prices.seed({"": 2})
    async with kept(books_url, 0.01) as list_:
        pool = await Pool.connect(books_url)
        async with pool.transaction() as connection:
            await connection.execute("UPDATE prices SET prefix = '+1'")
            await connection.execute("UPDATE price_version SET version = 9")
        await list_.refresh()
        assert list_.units_per_segment(TO) == 2
        await prices.replace({"": 3})
        await until_price(list_, 3)
        await pool.close()
