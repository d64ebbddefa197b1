"""Redis with a replica and a sentinel, for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.stores.redis.link import RedisLink, load_functions
from tests.failover.servers import Replicated


@pytest.fixture
async def replicated(tmp_path: Path) -> AsyncIterator[Replicated]:
    """One master, one replica, one sentinel; with the engine's functions."""
    servers = Replicated(tmp_path)
    try:
        await servers.start()
        link = RedisLink(servers.url, timeout_s=5, name="test")
        await load_functions(link)
        await link.close()
        yield servers
    finally:
        servers.stop()
