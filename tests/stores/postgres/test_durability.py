"""A PostgreSQL that may lose commits is told of."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from engine.config import Config, Store
from supervisor.cli.checks import _check_all
from supervisor.prepare import _check_postgres
from tests.postgres_databases import database

WARNING = (
    "synchronous_commit is off: a crash of PostgreSQL loses top-ups and charges that were answered for; "
    "set synchronous_commit to on"
)


@pytest.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with database(postgres_url, "durability") as url:
        yield url


async def set_for_all(url: str, value: str) -> None:
    """What every further session of the database has."""
    connection = await asyncpg.connect(url)
    await connection.execute(f"ALTER DATABASE durability SET synchronous_commit = {value}")
    await connection.close()


@pytest.mark.parametrize(("value", "is_said"), [("off", True), ("on", False), ("local", False)])
async def test_commits_that_a_crash_may_lose_are_told_by_the_check_and_at_the_start(
    url: str, value: str, is_said: bool
) -> None:
    await set_for_all(url, value)
    config = Config(postgres=Store(url=url))
    [found] = [check for check in await _check_all(config, "") if check.part == "postgres"]
    assert (found.ok, WARNING in found.detail) == (True, is_said), found.detail
    with capture_logs() as logs:
        await _check_postgres(config)
    assert (WARNING in [line.get("warning") for line in logs]) is is_said
