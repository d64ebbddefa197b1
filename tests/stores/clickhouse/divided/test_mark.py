"""Divisions are made together, and none is ever taken for another."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from engine.config import decode
from engine.errors import ConfigError
from engine.stores.clickhouse.client import connect, parse_url
from engine.stores.clickhouse.divided.erasure import DividedErasure
from engine.stores.clickhouse.division_mark import (
    SHARDS_SQL,
    Mark,
    confirm_cluster,
    confirm_divisions,
    wrong_cluster,
)
from engine.stores.clickhouse.retention import KeptDays, keep_for
from engine.stores.clickhouse.rights import confirm_rights
from engine.stores.migrate import migrate_clickhouse, statements_of
from supervisor.cli.checks import _check, _clickhouse
from tests.stores.clickhouse.divided.conftest import asked
from tests.stores.clickhouse.test_rights import before, refusal

TABLES = "SELECT name FROM system.tables WHERE database = currentDatabase() ORDER BY 1"


async def test_a_second_start_finds_all_divisions_as_they_were_made(url: str) -> None:
    assert await migrate_clickhouse(url) == []
    await confirm_rights(url, 30)
    first, second = await asked(url, TABLES)
    assert first == second
    assert ("smsengine_division",) in first
    assert await asked(url, "SELECT * FROM smsengine_division") == [[(1, 2)], [(2, 2)]]
    changed = await keep_for(url, KeptDays(events=90, texts=7), 30)
    assert sorted(changed) == ["activity"] * 4
    for [(create,)] in await asked(url, "SHOW CREATE TABLE activity"):
        assert "toIntervalDay(90)" in str(create)
    assert await keep_for(url, KeptDays(events=90, texts=7), 30) == []


async def test_a_start_that_was_killed_before_one_division_had_all_is_completed(url: str) -> None:
    first, second = url.split()
    done = "SELECT count(), uniqExact(number) FROM smsengine_migrations"
    before = (await asked(first, done))[0]
    await asked(
        second, "ALTER TABLE smsengine_migrations DELETE WHERE number > 5 SETTINGS mutations_sync = 1"
    )
    names = await migrate_clickhouse(url)
    assert names[0].startswith("0006")
    assert await asked(url, done) == [before, before]
    assert (await asked(first, TABLES)) == (await asked(second, TABLES))


async def test_divisions_in_another_order_or_another_number_are_refused(named: list[str], url: str) -> None:
    first, second, third = named
    for wrong, said in (
        (
            f"{second} {first}",
            r"has division 2 of 2 in that database, and clickhouse.urls has it as number 1 of 2",
        ),
        (f"{first} {second} {third}", r"has division 1 of 2 in that database, .* number 1 of 3"),
        (f"{first} {third}", "has no tables in that database, but other divisions have"),
        (first, r"has division 1 of 2 in that database; clickhouse.urls must name all 2, in their order"),
    ):
        with pytest.raises(ConfigError, match=said):
            await migrate_clickhouse(wrong)
    assert await migrate_clickhouse(url) == []


async def databases(url: str) -> set[object]:
    return {name for (name,) in (await asked(url, "SHOW DATABASES"))[0]}


async def test_a_refused_start_leaves_no_database_and_a_check_says_the_same(
    named: list[str], url: str
) -> None:
    first, _, third = named
    before = await databases(first)
    for wrong in (f"{first} {third}", f"{first}?cluster=sms"):
        with pytest.raises(ConfigError) as refused:
            await migrate_clickhouse(wrong)
        [checked] = [one for one in [await _check("clickhouse", _clickhouse(wrong))] if not one.ok]
        assert checked.detail == str(refused.value).rstrip(".")
        assert "smsengine migrate" not in checked.detail
    assert await databases(first) == before
    # What is not there yet, and would be made, is still to be made.
    new = await _check("clickhouse", _clickhouse(third))
    assert (new.ok, "run `smsengine migrate`" in new.detail) == (False, True)


async def test_of_several_urls_the_malformed_one_is_named(named: list[str]) -> None:
    for wrong, said in (
        ("http://127.0.0.1:x/a", "Number 2 of clickhouse.urls cannot be read: its port is malformed"),
        ("http:///a", "Number 2 of clickhouse.urls must look like"),
    ):
        for refused in (migrate_clickhouse, partial(confirm_divisions, timeout_s=30), DividedErasure):
            with pytest.raises(ConfigError, match=said):
                await refused(f"{named[0]} {wrong}")  # type: ignore[misc]


async def test_a_check_finds_divisions_in_another_order_and_changes_nothing(url: str) -> None:
    first, second = url.split()
    await confirm_divisions(url, 30)
    with pytest.raises(ConfigError, match=r"has division 2 of 2 .* as number 1 of 2"):
        await confirm_divisions(f"{second} {first}", 30)
    with pytest.raises(ConfigError, match=r"clickhouse\.urls must name all 2"):
        await confirm_divisions(first, 30)
    await asked(second, "TRUNCATE TABLE smsengine_division")
    with pytest.raises(ConfigError, match="has the rows of all organisations"):
        await confirm_divisions(url, 30)
    assert await asked(second, "SELECT * FROM smsengine_division") == [[]]


async def test_a_database_with_the_rows_of_all_cannot_be_divided(named: list[str]) -> None:
    await migrate_clickhouse(named[0])
    with pytest.raises(ConfigError, match="has the rows of all organisations in that database"):
        await migrate_clickhouse(" ".join(named[:2]))
    assert await asked(named[0], "SELECT count() FROM system.tables WHERE name = 'smsengine_division' "
                                 "AND database = currentDatabase()") == [[(0,)]]  # fmt: skip


async def test_a_division_that_lost_its_rows_is_made_anew_by_what_the_documentation_says(url: str) -> None:
    first, second = url.split()
    database = second.rpartition("/")[2]
    for statement in (f"DROP DATABASE {database} SYNC", f"CREATE DATABASE {database}"):
        await asked(first, statement)
    with pytest.raises(
        ConfigError, match=rf"database {database} \(number 2 of .*\), has no tables .* lost its"
    ):
        await migrate_clickhouse(url)
    text = (Path(__file__).parents[4] / "docs" / "operations.md").read_text()
    step = text.partition("**A division that lost its rows**")[2].partition("```sql\n")[2].partition("```")[0]
    statements = statements_of(step)
    assert len(statements) == 2
    for statement in statements:
        await asked(second, statement)
    assert (await migrate_clickhouse(url))[0].startswith("0001")
    first_tables, second_tables = await asked(url, TABLES)
    assert first_tables == second_tables
    await confirm_divisions(url, 30)


async def test_databases_of_one_server_are_told_apart_in_errors(url: str) -> None:
    first, second = url.split()
    database = second.rpartition("/")[2]
    for refused in (migrate_clickhouse, partial(confirm_divisions, timeout_s=30)):
        with pytest.raises(
            ConfigError, match=rf", database {database} \(number 1 of clickhouse\.urls\), has"
        ):
            await refused(f"{second} {first}")


async def test_a_user_who_may_not_read_the_clusters_is_not_refused_for_that(clickhouse_url: str) -> None:
    def without_right(head: bytes) -> bytes | None:
        return None if b"param_cluster" in head else head

    async with before(clickhouse_url, without_right, refusal()) as url:
        place = msgspec.structs.replace(parse_url(url), cluster="sms")
        client = await connect(place, database="default", timeout_s=30)
        with pytest.raises(DatabaseError, match="Not enough privileges"):
            await client.query(SHARDS_SQL, parameters={"cluster": "sms"})
        await confirm_cluster(client, place, Mark(1, 2), 30)
        await client.close()


def test_urls_are_settings_that_each_get_what_is_said_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s p\n")
    text = f"""
    [clickhouse]
    urls = ["http://u@one:1/a", "http://u@two/b"]
    cluster = "sms"
    password_file = "{tmp_path / "password"}"
    """
    one, two = map(parse_url, decode(text, "test").clickhouse.url.split())
    assert (one.host, one.port, one.database, one.password, one.cluster) == ("one", 1, "a", "s p", "sms")
    assert (two.host, two.port, two.database, two.password, two.cluster) == ("two", 8123, "b", "s p", "sms")
    for wrong, said in (
        (
            'url = "http://a/x"\nurls = ["http://b/x"]',
            "clickhouse.url must be left out beside clickhouse.urls",
        ),
        ('url = "http://a/x http://b/x"', "clickhouse.url must be without white space"),
        ('urls = ["http://a/x", "http://a/x"]', "clickhouse.urls must be different URLs"),
        ('urls = ["http://a/x", "b"]', "clickhouse.urls must be different URLs"),
        (
            'urls = ["http://a/x", "http://b/x"]\n[activity]\nnumbers = "hashed"',
            "numbers_key_file must be given with clickhouse.url or clickhouse.urls",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            decode(f"[clickhouse]\n{wrong}", "test")
    with pytest.raises(ConfigError, match=r"must be one; clickhouse\.urls may name several"):
        parse_url("http://a/x http://b/x")


CLUSTERS = """
<clickhouse><remote_servers>
  <two><shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard>
       <shard><replica><host>127.0.0.2</host><port>9000</port></replica>
              <replica><host>127.0.0.3</host><port>9000</port></replica></shard></two>
  <one><shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard></one>
</remote_servers></clickhouse>
"""
ASK = """
import json, sys
from chdb.state.sqlitelike import connect
found = connect(sys.argv[1])
for cluster in ("two", "one", "none"):
    print(found.query(sys.argv[2], "TabSeparated", params={"cluster": cluster}).bytes().decode().strip())
"""


def test_a_cluster_has_one_shard_or_one_for_each_division(tmp_path: Path) -> None:
    (tmp_path / "clusters.xml").write_text(CLUSTERS)
    # The engine knows clusters from a file, and is asked as a server would be.
    place = f"{tmp_path / 'store'}?config-file={tmp_path / 'clusters.xml'}"
    found = subprocess.run(
        [sys.executable, "-c", ASK, place, SHARDS_SQL], capture_output=True, text=True, check=True
    )
    two, one, none = map(int, found.stdout.split())
    assert (two, one, none) == (2, 1, 0)
    for divisions, shards in ((1, one), (2, two), (2, one), (3, none)):
        assert wrong_cluster("c", shards, divisions) == ""
    assert wrong_cluster("c", two, 1).startswith(
        "the cluster c has 2 shards, and the settings name 1 server;"
    )
    assert "2 shards, and the settings name 3 servers;" in wrong_cluster("c", two, 3)
    assert json.dumps(found.stderr) == '""'
