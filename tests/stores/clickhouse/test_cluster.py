"""The statements for a cluster: of the same migrations, and ones that ClickHouse can read.

They are not carried out: that takes several servers and Keeper. The engine parses each of them.
"""

from __future__ import annotations

import re
from pathlib import Path

import clickhouse_connect
import pytest

from engine.config import decode
from engine.errors import ConfigError
from engine.stores import migrate
from engine.stores.clickhouse.client import connect, parse_url
from engine.stores.clickhouse.cluster import on_cluster
from engine.stores.migrate import migrate_clickhouse, scripts_in, statements_of

SCRIPTS = scripts_in(Path(migrate.__file__).parent / "clickhouse" / "migrations")
STATEMENTS = [migrate._CREATE_CLICKHOUSE, *(s for script in SCRIPTS for s in statements_of(script.sql))]


def without(statement: str) -> str:
    """The statement of a cluster without what a cluster adds."""
    single = statement.replace(" ON CLUSTER `three`", "").replace("ENGINE = Replicated", "ENGINE = ")
    single = single.replace(" replicated_deduplication_window", " non_replicated_deduplication_window")
    return re.sub(r", \w+_seconds = 604800", "", single)


def test_each_statement_is_that_of_one_server_but_for_what_a_cluster_adds() -> None:
    for statement in STATEMENTS:
        assert on_cluster(statement, "") == statement
        made = on_cluster(statement, "three")
        assert without(made) == statement
        assert made.count("ON CLUSTER") == (not statement.startswith("INSERT"))
        if statement.startswith("CREATE TABLE"):
            assert re.search(r"ENGINE = Replicated(|Aggregating|Replacing)MergeTree\b", made)
            assert "non_replicated" not in made
    tables = [s for s in STATEMENTS if s.startswith("CREATE TABLE")]
    assert len(tables) > 8
    for unknown in ("TRUNCATE TABLE activity", "CREATE TABLE IF NOT EXISTS a (b Int8)\nENGINE = Memory"):
        with pytest.raises(ValueError, match=r"cluster|replicated"):
            on_cluster(unknown, "three")


async def test_the_engine_reads_each_statement(clickhouse_url: str) -> None:
    client = await connect(parse_url(clickhouse_url), database="default", timeout_s=30)
    made = [on_cluster(s, "a-b.c") for s in [*STATEMENTS, "CREATE DATABASE IF NOT EXISTS `a \\` b`"]]
    query = "SELECT formatQuerySingleLine(arrayJoin({statements:Array(String)}))"
    found = await client.query(query, parameters={"statements": made})
    assert len(found.result_rows) == len(made)
    assert sum("ON CLUSTER `a-b.c`" in row[0] for row in found.result_rows) == len(
        [statement for statement in made if not statement.startswith("INSERT")]
    )
    with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError):
        await client.query(query, parameters={"statements": [made[0].replace("ENGINE", "ENGINES")]})
    await client.close()


def test_the_cluster_is_a_setting_that_becomes_part_of_the_url() -> None:
    url = decode("[clickhouse]\nurl = 'http://h/sms'\ncluster = 'three'", "test").clickhouse.url
    place = parse_url(url)
    assert (url, place.cluster, place.tls_files) == ("http://h/sms?cluster=three", "three", {})
    for text in ("cluster = 'three'", "url = 'http://h/sms'\ncluster = 'a b'"):
        with pytest.raises(ConfigError, match=r"clickhouse\.cluster must be the name of a cluster"):
            decode(f"[clickhouse]\n{text}", "test")


async def test_tables_of_one_server_are_not_taken_for_those_of_a_cluster(clickhouse_url: str) -> None:
    url = clickhouse_url.rpartition("/")[0] + "/not_replicated"
    await migrate_clickhouse(url)
    with pytest.raises(ConfigError, match="tables that are not replicated"):
        await migrate_clickhouse(f"{url}?cluster=three")
    client = await connect(parse_url(url), database="default", timeout_s=30)
    await client.command("DROP DATABASE not_replicated")
    await client.close()
