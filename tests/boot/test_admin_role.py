"""The role `admin` alone, as on a node without ingest: the admin calls, /metrics and the probes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from engine import api_keys
from engine.boot.admin import serve_admin
from engine.boot.heartbeat import Heartbeat
from engine.boot.process import Process
from engine.config import Config, Redis, Roles, Store
from tests.api.world import until

KEY = api_keys.new_admin_key()


@pytest.fixture
async def url(streams_url: str, books_url: str, tmp_path: Path) -> AsyncIterator[str]:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "admin_key").write_text(KEY)
    config = Config(
        data_dir=str(tmp_path), shards=2, roles=Roles(ingest=0),
        redis=Redis(url=streams_url), postgres=Store(url=books_url), clickhouse=Store(url="http://127.0.0.1:1"),
    )  # fmt: skip
    life = Heartbeat(None)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(serve_admin(Process("admin", config, "n.admin.1", life, listener)))
    await until(lambda: life.was_ready or serving.done(), 20)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    life.draining.set()
    await serving
    with pytest.raises(OSError), contextlib.closing(socket.create_connection(listener.getsockname())):
        pass


async def test_a_node_without_ingest_answers_operators_and_prometheus(url: str) -> None:
    with_key = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(url) as session:

        async def ask(path: str, key: bool = True) -> tuple[int, str]:
            async with session.get(path, headers=with_key if key else {}) as answer:
                return answer.status, await answer.text()

        assert await ask("/healthz", key=False) == (200, '{"status":"ok"}')
        assert (await ask("/readyz", key=False))[0] == 200
        assert (await ask("/metrics", key=False))[0] == 401
        status, text = await ask("/metrics")
        assert (status, 'smsengine_processes{role="admin"} 1' in text) == (200, True)
        assert (await ask("/v1/admin/status"))[0] == 200
        assert (await ask("/v1/admin/organisations", key=False))[0] == 401
        # What is for organisations is not here.
        assert (await ask("/v1/balance"))[0] == 404
