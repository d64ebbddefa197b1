"""Databases of one server as divisions, beside one that has all rows."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator

import pytest

from engine.stores.clickhouse.client import connect, parse_url
from engine.stores.clickhouse.division import urls_of
from engine.stores.migrate import migrate_clickhouse
from tests.activity.world import World, new_world
from tests.clickhouse_databases import in_database

_numbers = itertools.count(1)


@pytest.fixture
async def named(clickhouse_url: str) -> AsyncIterator[list[str]]:
    """The URLs of three databases that are not there yet; those that are made are dropped."""
    own = f"divided_{next(_numbers)}_{uuid.uuid4().hex[:6]}"
    urls = [in_database(clickhouse_url, f"{own}_{number}") for number in range(3)]
    yield urls
    client = await connect(parse_url(clickhouse_url), database="default", timeout_s=30)
    for url in urls:
        await client.command(f"DROP DATABASE IF EXISTS {parse_url(url).database}")
    await client.close()


@pytest.fixture
async def url(named: list[str]) -> str:
    """Two divisions with the tables of this version."""
    two = " ".join(named[:2])
    await migrate_clickhouse(two)
    return two


@pytest.fixture
async def world(redis_url: str, clickhouse_url: str) -> AsyncIterator[World]:
    """One database with all rows."""
    async with new_world(redis_url, clickhouse_url) as world:
        yield world


async def asked(url: str, sql: str) -> list[list[tuple[object, ...]]]:
    """The rows of an answer, of each division."""
    found = []
    for one in urls_of(url):
        place = parse_url(one)
        client = await connect(place, database=place.database, timeout_s=30)
        found.append([tuple(row) for row in (await client.query(sql)).result_rows])
        await client.close()
    return found
