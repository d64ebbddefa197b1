"""The whole engine on a ClickHouse whose rows are divided over two databases, as over two servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from engine.shards import shard_of
from supervisor.embedded.servers import Server
from tests.clickhouse_databases import in_database
from tests.stores.clickhouse.divided.conftest import asked
from tests.system.agreement import Kinds
from tests.system.client import eventually
from tests.system.conftest import Engine, start_engine

ENDED = {"sent", "delivered", "undelivered", "failed", "expired", "canceled"}
ERASED = "+4915112345678"


@pytest.fixture(scope="module")
def urls(clickhouse_server: Server) -> list[str]:
    return [in_database(clickhouse_server.url, f"half_{number}") for number in range(2)]


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory, urls: list[str]) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("divided")
    config = folder / "engine.toml"
    config.write_text(f"[clickhouse]\nurls = {urls!r}\n")
    engine = start_engine(folder / "data", ("--demo", "--config", config))
    yield engine
    assert engine.stop() == 0, engine.log.read_text()[-3000:]


def test_all_that_is_said_of_messages_agrees_over_two_divisions(divided: Engine, urls: list[str]) -> None:
    engine, both = divided, [Kinds(divided) for _ in range(2)]
    while shard_of(both[0].id, 2) == shard_of(both[1].id, 2):
        both[1] = Kinds(divided)
    for kinds in both:
        kinds.send(58)
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        for scheduled in kinds.send(2, send_at=tomorrow):
            kinds.cancel(scheduled)
        kinds.wait(lambda m: m["status"] in ENDED)
        kinds.agree()
    # Each organisation is in its division alone.
    found = asyncio.run(asked(" ".join(urls), "SELECT DISTINCT organisation_id FROM activity"))
    homes = [{row[0] for row in rows} for rows in found]
    for kinds in both:
        assert [kinds.id in of for of in homes] == [shard_of(kinds.id, 2) == n for n in range(2)]
    # Operators see all of them.
    admin = both[0].admin
    status, report = admin.call("GET", "/v1/admin/reports/summary?group_by=organisation")
    assert status == 200
    messages = {row["organisation"]: row["messages"] for row in report["rows"]}
    assert [messages[kinds.id] for kinds in both] == [60, 60]

    def audited() -> bool:
        return engine.run("audit").returncode == 0

    eventually(audited)
    assert "(2 divisions)" in engine.run("check").stdout
    done = engine.run("erase", ERASED, "--yes")
    assert done.returncode == 0, done.stderr

    def erased() -> bool:
        return all(ERASED not in kinds.export("format=jsonl") for kinds in both)

    eventually(erased)


def test_a_server_that_is_one_of_two_is_not_taken_for_all(
    divided: Engine, urls: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert divided.process.poll() is None
    folder = tmp_path_factory.mktemp("half")
    (folder / "engine.toml").write_text(f"[clickhouse]\nurl = {urls[1]!r}\n")
    place = urlsplit(urls[1])
    with pytest.raises(
        AssertionError, match=r"has division 2 of 2 in that database; clickhouse\.urls must name"
    ):
        start_engine(folder / "data", ("--demo", "--config", folder / "engine.toml"))
    assert place.password
    assert place.password not in (folder / "data.log").read_text()
    assert divided.run("org", "list").returncode == 0
