"""The number of shards belongs to the data: written once, and another one is refused everywhere."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec
import pytest

from engine.config import Config, Redis, Store
from engine.errors import ConfigError
from engine.shards import shard_of
from engine.stores import migrate
from engine.stores.postgres.layout import confirm_shards, keep_shards
from supervisor import prepare, reload
from supervisor.cli import checks
from tests.adversity.proxy import Proxy
from tests.postgres_databases import database

SCRIPTS = Path(migrate.__file__).parent / "postgres" / "migrations"


@pytest.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with database(postgres_url, "layout_store") as url:
        yield url


@pytest.fixture
async def old_url(postgres_url: str, tmp_path: Path) -> AsyncIterator[str]:
    """A database with the tables of the version before the number was kept."""
    for script in SCRIPTS.glob("000[1-6]_*.sql"):
        shutil.copy(script, tmp_path)
    admin = await asyncpg.connect(postgres_url)
    await admin.execute("DROP DATABASE IF EXISTS layout_old WITH (FORCE)")
    await admin.execute("CREATE DATABASE layout_old")
    url = postgres_url.rpartition("/")[0] + "/layout_old"
    await migrate.migrate_postgres(url, tmp_path)
    yield url
    await admin.execute("DROP DATABASE IF EXISTS layout_old WITH (FORCE)")
    await admin.close()


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def test_the_first_start_keeps_its_number_and_another_is_refused_in_one_sentence(url: str) -> None:
    assert await keep_shards(url, 8) == 8
    assert await keep_shards(url, 8) == 8
    assert await keep_shards(url, 0) == 8
    with pytest.raises(ConfigError, match=r"^`shards` must be 8 or left out, not 16: .*\.$"):
        await keep_shards(url, 16)


async def test_where_nobody_says_a_number_new_data_have_sixteen(url: str) -> None:
    assert await keep_shards(url, 0) == 16


async def test_of_two_nodes_that_start_with_different_numbers_one_wins(url: str) -> None:
    for _ in range(10):
        await execute(url, "TRUNCATE layout")
        wanted = (4, 8)
        outcomes = await asyncio.gather(*(keep_shards(url, n) for n in wanted), return_exceptions=True)
        kept = await keep_shards(url, 0)
        for number, outcome in zip(wanted, outcomes, strict=True):
            assert outcome == kept if number == kept else isinstance(outcome, ConfigError)


async def test_an_older_installation_has_the_number_its_ledger_had(old_url: str) -> None:
    await execute(
        old_url, "INSERT INTO shards (shard, generation) SELECT s, 'g' FROM generate_series(0, 7) s"
    )
    assert (await migrate.migrate_postgres(old_url))[:2] == ["0007_layout.sql", "0008_audit_checkpoints.sql"]
    assert await keep_shards(old_url, 0) == 8
    with pytest.raises(ConfigError, match="must be 8"):
        await keep_shards(old_url, 16)


async def test_one_whose_ledger_never_ran_has_the_number_that_spreads_its_organisations(
    old_url: str,
) -> None:
    # As a version of that time made them.
    made = {o: shard_of(o, 6) for o in range(1, 41)}
    await execute(old_url, "INSERT INTO organisations (name) SELECT 'old' FROM generate_series(1, 40)")
    for o, shard in made.items():
        await execute(old_url, f"INSERT INTO accounts (organisation_id, shard) VALUES ({o}, {shard})")
    assert set(made.values()) == set(range(6))
    await migrate.migrate_postgres(old_url)
    with pytest.raises(ConfigError, match="must be 6"):
        await keep_shards(old_url, 16)
    assert await keep_shards(old_url, 6) == 6


async def test_up_check_and_a_role_that_starts_refuse_another_number(url: str, redis_url: str) -> None:
    assert await checks._postgres(url, 16) == await checks._postgres(url, 0)
    await keep_shards(url, 8)
    with pytest.raises(ConfigError, match="must be 8"):
        await checks._postgres(url, 16)
    await checks._postgres(url, 0)
    with pytest.raises(ConfigError, match="must be 8"):
        await prepare._migrate(Config(shards=16, postgres=Store(url=url), redis=Redis(url=redis_url)))
    with pytest.raises(ConfigError, match="must be 8"):
        await confirm_shards(url, 16)
    await confirm_shards(url, 8)


async def test_a_role_starts_while_postgresql_is_away(url: str) -> None:
    await keep_shards(url, 8)
    async with Proxy.to(url) as proxy:
        proxy.refuse()
        await confirm_shards(proxy.url(url), 16)


def test_a_reload_may_name_the_number_or_leave_it_out() -> None:
    before, running = Config(), Config(shards=8)
    for named in (0, 8):
        read = msgspec.structs.replace(before, shards=named)
        assert reload.carried_on(before, read, running, "").shards == 8
    with pytest.raises(ConfigError, match="must be 8"):
        reload.carried_on(before, Config(shards=4), running, "")
