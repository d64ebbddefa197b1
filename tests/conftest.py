"""Real servers for tests, started once per session and only when a test asks for them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from engine.stores.redis.link import RedisLink, load_functions
from supervisor.embedded.servers import Server, start_all, start_clickhouse, start_redis
from tests.postgres_databases import database

# A shell without job control starts what it puts in the background with Ctrl-C ignored, and
# that is inherited: the commands under test must hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def servers_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data directory that the servers of this session share."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def postgres_server(servers_dir: Path) -> Iterator[Server]:
    server = start_all(servers_dir, {"postgres"})["postgres"]
    yield server
    server.stop(10)


@pytest.fixture(scope="session")
def redis_server(servers_dir: Path) -> Iterator[Server]:
    server = start_redis(servers_dir)
    yield server
    server.stop(10)


@pytest.fixture(scope="session")
def clickhouse_server(servers_dir: Path) -> Iterator[Server]:
    server = start_clickhouse(servers_dir)
    yield server
    server.stop(10)


@pytest.fixture(scope="session")
def servers(postgres_server: Server, redis_server: Server, clickhouse_server: Server) -> dict[str, Server]:
    """All three, by name."""
    return {s.name: s for s in (postgres_server, redis_server, clickhouse_server)}


@pytest.fixture(scope="session")
def postgres_url(postgres_server: Server) -> str:
    return postgres_server.url


@pytest.fixture(scope="session")
def redis_url(redis_server: Server) -> str:
    return redis_server.url


@pytest.fixture(scope="session")
def clickhouse_url(clickhouse_server: Server) -> str:
    return clickhouse_server.url


@pytest.fixture
async def books_url(postgres_url: str) -> AsyncIterator[str]:
    """A PostgreSQL database of its own, migrated and empty."""
    async with database(postgres_url, "books") as url:
        yield url


@pytest.fixture
async def streams_url(redis_url: str) -> AsyncIterator[str]:
    """Redis, emptied, with the engine's functions."""
    link = RedisLink(redis_url, timeout_s=60, name="test")
    await link.start()
    await link.call("FLUSHALL")
    await load_functions(link)
    yield redis_url
    await link.close()


@asynccontextmanager
async def own_database(redis_url: str, number: int) -> AsyncIterator[RedisLink]:
    """A logical database of the server to oneself, empty, with the functions."""
    link = RedisLink(redis_url.rpartition("/")[0] + f"/{number}", timeout_s=60, name=f"database {number}")
    await link.start()
    await load_functions(link)
    await link.call("FLUSHDB")
    yield link
    await link.call("FLUSHDB")
    await link.close()
