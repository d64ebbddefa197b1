"""What the tests of ClickHouse's tables begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.stores.clickhouse.reports import ClickHouseReports
from tests.activity.world import World, new_world
from tests.stores.clickhouse.report_scene import Archiver, Reader


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


@pytest.fixture
async def archiver(world: World) -> AsyncIterator[Archiver]:
    archiver = Archiver(world)
    yield archiver
    await archiver.periods.close()


@pytest.fixture
async def reader(world: World) -> AsyncIterator[ClickHouseReports]:
    reader = Reader(world.clickhouse_url)
    yield reader
    await reader.close()
