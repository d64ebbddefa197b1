"""Migrations are applied once, in order, by whoever comes first, and never silently differ."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from engine.errors import ConfigError, Unavailable
from engine.stores import migrate
from engine.stores.clickhouse.client import answering, connect, parse_url
from engine.stores.migrate import Script, due, migrate_clickhouse, migrate_postgres, scripts_in, statements_of
from tests.activity.world import in_database, until

SHIPPED = Path(migrate.__file__).parent
_numbers = itertools.count(1)


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[str]:
    """The URL of an empty database."""
    name = f"migrate_{next(_numbers)}_{uuid.uuid4().hex[:6]}"
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"CREATE DATABASE {name}")
    yield in_database(postgres_url, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
def clickhouse(clickhouse_url: str) -> str:
    """The URL of a database that does not exist."""
    return in_database(clickhouse_url, f"migrate_{next(_numbers)}_{uuid.uuid4().hex[:6]}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (a int);\nCREATE TABLE also (a int);\n")
    (tmp_path / "0002_second.sql").write_text("CREATE TABLE second (a int);\n")
    return tmp_path


@pytest.fixture
def columns(tmp_path: Path) -> Path:
    """Scripts for ClickHouse."""
    for number, name in enumerate(("one", "two"), 1):
        sql = f"-- {name}; a note\nCREATE TABLE IF NOT EXISTS {name} (a Int64)\nENGINE = Memory;\n"
        (tmp_path / f"{number:04}_{name}.sql").write_text(sql)
    return tmp_path


async def fetch(url: str, sql: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def query(url: str, sql: str) -> list[Any]:
    place = parse_url(url)
    client = await connect(place, database=place.database, timeout_s=10)
    async with answering(place, 10):
        found = await client.query(sql)
    await client.close()
    return list(found.result_rows)


async def test_what_is_shipped_for_postgresql_is_applied_once_and_in_order(postgres: str) -> None:
    names = [script.name for script in scripts_in(SHIPPED / "postgres" / "migrations")]
    assert names
    assert await migrate_postgres(postgres) == names
    assert await migrate_postgres(postgres) == []
    recorded = await fetch(postgres, "SELECT name FROM smsengine_migrations ORDER BY number")
    assert [name for (name,) in recorded] == names


async def test_what_is_shipped_for_clickhouse_is_applied_once_and_its_database_made(clickhouse: str) -> None:
    names = [script.name for script in scripts_in(SHIPPED / "clickhouse" / "migrations")]
    assert names
    assert await migrate_clickhouse(clickhouse) == names
    assert await migrate_clickhouse(clickhouse) == []
    recorded = await query(clickhouse, "SELECT name FROM smsengine_migrations ORDER BY number")
    assert [name for (name,) in recorded] == names


async def test_every_statement_for_clickhouse_may_be_executed_again(clickhouse: str) -> None:
    """For the process that is killed before it records the script."""
    await migrate_clickhouse(clickhouse)
    await query(clickhouse, "TRUNCATE TABLE smsengine_migrations")
    assert await migrate_clickhouse(clickhouse) == [
        s.name for s in scripts_in(SHIPPED / "clickhouse" / "migrations")
    ]


async def test_several_at_once_apply_each_postgresql_script_once(postgres: str, folder: Path) -> None:
    applied = await asyncio.gather(*(migrate_postgres(postgres, folder) for _ in range(5)))
    assert sorted(itertools.chain(*applied)) == ["0001_first.sql", "0002_second.sql"]


async def test_several_at_once_leave_clickhouse_as_one_would(clickhouse: str, columns: Path) -> None:
    await asyncio.gather(*(migrate_clickhouse(clickhouse, columns) for _ in range(4)))
    assert await migrate_clickhouse(clickhouse, columns) == []
    assert await query(clickhouse, "SELECT count() FROM one") == [(0,)]


async def test_a_new_script_is_applied_to_a_database_that_has_the_others(postgres: str, folder: Path) -> None:
    await migrate_postgres(postgres, folder)
    (folder / "0003_third.sql").write_text("CREATE TABLE third (a int);")
    assert await migrate_postgres(postgres, folder) == ["0003_third.sql"]


async def test_a_script_changed_after_it_was_applied_to_postgresql_is_refused(
    postgres: str, folder: Path
) -> None:
    await migrate_postgres(postgres, folder)
    (folder / "0001_first.sql").write_text("CREATE TABLE first (a bigint);")
    with pytest.raises(ConfigError, match=r"0001_first\.sql has changed .* PostgreSQL") as caught:
        await migrate_postgres(postgres, folder)
    assert "\n" not in str(caught.value)


async def test_a_script_changed_after_it_was_applied_to_clickhouse_is_refused(
    clickhouse: str, columns: Path
) -> None:
    await migrate_clickhouse(clickhouse, columns)
    (columns / "0002_two.sql").write_text("CREATE TABLE IF NOT EXISTS two (b Int64) ENGINE = Memory;\n")
    with pytest.raises(ConfigError, match=r"0002_two\.sql has changed .* ClickHouse"):
        await migrate_clickhouse(clickhouse, columns)


async def test_a_script_that_fails_is_undone_whole_and_those_before_it_stay(
    postgres: str, folder: Path
) -> None:
    (folder / "0002_second.sql").write_text("CREATE TABLE second (a int);\nSELECT 1 / 0;")
    with pytest.raises(ConfigError, match=r"0002_second\.sql fails .* division by zero"):
        await migrate_postgres(postgres, folder)
    tables = await fetch(postgres, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    assert tables == [("also",), ("first",), ("smsengine_migrations",)]
    (folder / "0002_second.sql").write_text("CREATE TABLE second (a int);")
    assert await migrate_postgres(postgres, folder) == ["0002_second.sql"]


async def test_one_that_is_killed_half_way_leaves_nothing_and_no_lock(postgres: str, folder: Path) -> None:
    (folder / "0002_second.sql").write_text("CREATE TABLE second (a int);\nSELECT pg_sleep(60);")
    first = asyncio.create_task(migrate_postgres(postgres, folder))
    other = asyncio.create_task(migrate_postgres(postgres, folder))
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )

    async def killed() -> bool:
        return bool(await fetch(postgres, kill))

    await until(killed)
    (folder / "0002_second.sql").write_text("CREATE TABLE second (a int);")
    await until(killed)
    outcomes = await asyncio.gather(first, other, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    assert await migrate_postgres(postgres, folder) == ["0002_second.sql"]


async def test_servers_that_are_away_are_unavailable() -> None:
    with pytest.raises(Unavailable, match="PostgreSQL"):
        await migrate_postgres("postgresql://u:p@127.0.0.1:1/db", timeout_s=2)
    with pytest.raises(Unavailable, match="ClickHouse"):
        await migrate_clickhouse("http://u:p@127.0.0.1:1/db", timeout_s=2)


async def test_what_the_operator_must_mend_is_said_without_the_password(
    postgres_url: str, clickhouse_url: str
) -> None:
    wrong = {
        "postgresql://sms:hunter2@" + postgres_url.rpartition("@")[2]: "password",
        in_database(postgres_url, "nowhere"): "nowhere",
        "postgres//nonsense": "must be a URL such as",
    }
    for url, expected in wrong.items():
        with pytest.raises(ConfigError, match=expected) as caught:
            await migrate_postgres(url)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="password") as caught:
        await migrate_clickhouse("http://sms:hunter2@" + clickhouse_url.rpartition("@")[2])
    assert "hunter2" not in str(caught.value)


def script(number: int, sha256: str = "x") -> Script:
    return Script(number=number, name=f"{number:04}_s.sql", sql="", sha256=sha256)


def test_due_are_those_not_applied_in_order() -> None:
    assert [s.number for s in due([script(1), script(2), script(3)], {1: "x"}, "it")] == [2, 3]


def test_what_a_newer_version_applied_is_left_alone() -> None:
    assert due([script(1)], {1: "x", 2: "?"}, "it") == []


def test_an_applied_script_whose_file_is_gone_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0001 applied, but its file is missing"):
        due([script(2)], {1: "x"}, "it")


def test_a_new_script_with_an_old_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0001_s\.sql must have a number above 0002"):
        due([script(1), script(2)], {2: "x"}, "it")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["1_a.sql"], "must be named"),
        (["0001_A.sql"], "must be named"),
        (["0001_a.sql", "0001_b.sql"], "same number"),
    ],
)
def test_misnamed_scripts_are_refused(tmp_path: Path, names: list[str], expected: str) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match=expected):
        scripts_in(tmp_path)


def test_a_script_is_cut_at_semicolons_that_end_a_line() -> None:
    sql = "-- note;\nSELECT ';' ,\n  -- in between;\n  1;\n\nSELECT 2 ;  \n-- end\n"
    assert statements_of(sql) == ["SELECT ';' ,\n  1", "SELECT 2"]
