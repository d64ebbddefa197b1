"""Redis with a replica and a sentinel, for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.failover.servers import Replicated, replicated_servers


@pytest.fixture
async def replicated(tmp_path: Path) -> AsyncIterator[Replicated]:
    """One master, one replica, one sentinel; with the engine's functions."""
    async with replicated_servers(tmp_path) as servers:
        yield servers
