"""The price table against a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from engine.config import Config
from engine.errors import Refusal, Unavailable
from engine.records import PriceSheet
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.prices import Prices
from supervisor.prepare import _seed, with_urls
from tests.adversity.proxy import Proxy
from tests.postgres_databases import database


@pytest.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with database(postgres_url, "prices_store") as url:
        yield url


@pytest.fixture
async def prices(url: str) -> AsyncIterator[Prices]:
    pool = await Pool.connect(url)
    yield Prices(pool)
    await pool.close()


@pytest.fixture
async def rows(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def test_a_fresh_table_is_empty_and_of_version_0(prices: Prices) -> None:
    assert await prices.version() == 0
    assert await prices.read() == PriceSheet(version=0, prices={})


async def test_the_configuration_fills_an_empty_table_and_only_that(url: str, prices: Prices) -> None:
    config = with_urls(Config(prices={"": 3, "+98": 5}), {"postgres": url})
    await asyncio.gather(*(_seed(config) for _ in range(5)))
    assert await prices.read() == PriceSheet(version=1, prices={"": 3, "+98": 5})
    await _seed(with_urls(Config(prices={"": 7}), {"postgres": url}))
    await prices.replace({"": 1})
    await _seed(config)
    assert await prices.read() == PriceSheet(version=2, prices={"": 1})


async def test_a_table_is_replaced_as_a_whole(prices: Prices) -> None:
    await prices.seed({"": 1, "+98": 2, "+1": 3})
    changed = await prices.replace({"+98": 4, "": 1, "+44": 5})
    assert changed == PriceSheet(version=2, prices={"": 1, "+44": 5, "+98": 4})
    assert await prices.read() == changed
    assert await prices.version() == 2


async def test_the_same_table_again_changes_nothing(prices: Prices, rows: Any) -> None:
    await prices.seed({"": 1, "+98": 2})
    before = await rows.fetch("SELECT * FROM prices ORDER BY prefix")
    assert (await prices.replace({"+98": 2, "": 1})).version == 1
    assert await rows.fetch("SELECT * FROM prices ORDER BY prefix") == before
    await prices.replace({"+98": 3, "": 1})
    after = await rows.fetch("SELECT * FROM prices ORDER BY prefix")
    assert after[0] == before[0], "what stayed as it was keeps the time of its change"
    assert after[1]["changed_at"] > before[1]["changed_at"]


async def test_a_change_based_on_another_version_is_refused(prices: Prices) -> None:
    await prices.seed({"": 1})
    assert (await prices.replace({"": 2}, version=1)).version == 2
    with pytest.raises(Refusal) as refused:
        await prices.replace({"": 3}, version=1)
    assert (refused.value.status, refused.value.field) == (409, "version")
    # The first attempt's answer was lost: asked again, it is as wanted.
    assert (await prices.replace({"": 2}, version=1)).version == 2


async def test_changes_at_once_leave_one_whole_table(prices: Prices) -> None:
    tables = [{"": n, **{f"+{n}{i}": n for i in range(50)}} for n in range(1, 9)]
    await asyncio.gather(*(prices.replace(table) for table in tables))
    left = await prices.read()
    assert left.version == 8
    assert left.prices in tables


async def test_of_changes_based_on_one_version_one_counts(prices: Prices) -> None:
    await prices.seed({"": 1})
    outcomes = await asyncio.gather(
        *(prices.replace({"": n}, version=1) for n in range(2, 9)), return_exceptions=True
    )
    assert sum(isinstance(o, PriceSheet) for o in outcomes) == 1
    assert (await prices.read()).version == 2


async def test_a_reader_sees_whole_tables_only(prices: Prices) -> None:
    tables = [{"": n, **{f"+{n}{i}": n for i in range(20)}} for n in (1, 2)]
    await prices.replace(tables[0])

    async def change() -> None:
        for n in range(1, 40):
            await prices.replace(tables[n % 2])

    changing = asyncio.create_task(change())
    seen = set()
    while not changing.done():
        sheet = await prices.read()
        assert sheet.prices == tables[(sheet.version - 1) % 2]
        seen.add(sheet.version)
    await changing
    assert len(seen) > 3


async def test_what_is_no_price_table_is_refused_with_the_field(prices: Prices) -> None:
    await prices.seed({"": 1})
    for table, field in (({"+98": 1}, "prices"), ({"": 1, "+98": 0}, 'prices["+98"]')):
        with pytest.raises(Refusal) as refused:
            await prices.replace(table)
        assert (refused.value.status, refused.value.field) == (422, field)
    assert (await prices.read()).version == 1


async def test_a_change_cut_off_anywhere_is_whole_or_not_there(url: str, prices: Prices) -> None:
    await prices.seed({"": 1})
    lost_after_the_commit = 0
    async with Proxy.to(url) as proxy:
        far = Prices(pool := await Pool.connect(proxy.url(url), timeout_s=2))
        for answer_bytes in range(1, 10_000, 16):
            table = {"": 1 + answer_bytes, "+98": 1 + answer_bytes}
            before = await prices.read()
            proxy.truncate_after(answer_bytes)
            try:
                await far.replace(table)
            except Unavailable:
                after = await prices.read()
                assert after.prices in (before.prices, table)
                lost_after_the_commit += after.prices == table
                assert (await prices.replace(table)).version == before.version + 1
            else:
                break
        assert lost_after_the_commit > 0
        await pool.close()
