"""A node that is started again while ClickHouse is away sends; what it recorded is there afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.embedded.servers import Server, start_clickhouse
from tests.system.client import Caller, eventually, fetch
from tests.system.conftest import Engine, start_engine
from tests.system.faults import assert_clean
from tests.system.test_outages import frozen


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[Server]:
    """One of an operator: it is not this engine's."""
    server = start_clickhouse(tmp_path / "theirs")
    yield server
    server.stop(10.0)


def started(folder: Path) -> Engine:
    return start_engine(folder / "data", ("--demo", "--config", folder / "engine.toml"))


def test_a_node_started_again_while_clickhouse_hangs_sends_and_ends_as_ever(
    tmp_path: Path, clickhouse: Server
) -> None:
    (tmp_path / "engine.toml").write_text(f'[clickhouse]\nurl = "{clickhouse.url}"\n')
    engine = started(tmp_path)
    engine.kill()
    with frozen(clickhouse.pid):
        engine = started(tmp_path)
        message = {"to": "+989121234567", "text": "hello"}
        caller = Caller(engine.url, engine.api_key)
        status, batch = caller.call("POST", "/v1/messages/batch", {"messages": [message] * 50})
        assert status == 202
        ids = {result["id"] for result in batch["results"]}
        eventually(lambda: ids <= set(fetch(f"{engine.simulator_url}/received?limit=1000")["ids"]))
        assert engine.stop() == 0
        assert "the node starts without it" in engine.log.read_text()
        # No process waited for ClickHouse until it was killed.
        assert "not drained" not in engine.log.read_text()
    engine = started(tmp_path)
    caller = Caller(engine.url, engine.api_key)

    def listed() -> bool:
        status, page = caller.call("GET", "/v1/messages?limit=100")
        return status == 200 and sorted(m["id"] for m in page["messages"]) == sorted(ids)

    eventually(listed)
    assert_clean(engine, 60)
    assert engine.stop() == 0
