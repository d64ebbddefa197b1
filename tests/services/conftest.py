"""Clean stores for each test of a service."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from engine.stores.migrate import migrate_postgres
from engine.stores.redis import RedisLink, load_functions


@pytest.fixture
async def books_url(postgres_url: str) -> AsyncIterator[str]:
    """A PostgreSQL database of its own, migrated and empty."""
    admin = await asyncpg.connect(postgres_url)
    await admin.execute("DROP DATABASE IF EXISTS books WITH (FORCE)")
    await admin.execute("CREATE DATABASE books")
    url = postgres_url.rpartition("/")[0] + "/books"
    await migrate_postgres(url)
    yield url
    await admin.execute("DROP DATABASE IF EXISTS books WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def streams_url(redis_url: str) -> AsyncIterator[str]:
    """Redis, emptied, with the engine's functions."""
    link = RedisLink(redis_url, timeout_s=5, name="test")
    await link.start()
    await link.call("FLUSHALL")
    await load_functions(link)
    yield redis_url
    await link.close()
