"""The whole engine at Redis' limit of memory: clients are told why, workers drain, and it heals by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine.stores.redis.link import RedisLink
from engine.stores.redis.memory import memory_of
from supervisor.datadir import DataDir
from supervisor.running import Running
from tests.system.client import Caller, behave, eventually, fetch
from tests.system.conftest import Engine, answer


@pytest.fixture
def limited(engine: Engine) -> Iterator[Engine]:
    """An engine whose Redis is given a limit; without one again afterwards."""
    yield engine
    limit(engine, 0)
    behave(engine.simulator_url, outage=False)


def limit(engine: Engine, share: float) -> None:
    """Set `maxmemory` so that this share of it is used; 0: no limit."""

    async def change() -> None:
        running = DataDir(engine.data_dir).running(Running)
        assert running is not None
        link = RedisLink(running.config.redis.url, timeout_s=10, name="limit")
        used = memory_of(await link.call("INFO", "memory")).used_bytes
        await link.call("CONFIG", "SET", "maxmemory", int(used / share) if share else 0)
        await link.close()

    asyncio.run(change())


def under_way(engine: Engine) -> int:
    """Messages on their way to the provider. Those that wait for their time may be of another test."""
    _, status = Caller(engine.admin_url, engine.admin_key).call("GET", "/v1/admin/status")
    return sum(q["waiting"] + q["in_hand"] for q in status["queues"].values())


def test_a_full_redis_refuses_with_the_reason_drains_and_admits_again(limited: Engine) -> None:
    caller = Caller(limited.url, limited.api_key)
    message: dict[str, Any] = {"to": "+989121234567", "text": "hello"}
    eventually(lambda: under_way(limited) == 0)
    behave(limited.simulator_url, outage=True)
    accepted, batch = caller.call("POST", "/v1/messages/batch", {"messages": [message] * 200})
    assert accepted == 202
    ids = {result["id"] for result in batch["results"]}
    # All the messages wait, and there is less room than is used.
    limit(limited, 1.2)
    status, problem = caller.call("POST", "/v1/messages", message)
    assert (status, problem["status"], problem["code"]) == (503, 503, "unavailable")
    assert "Redis has little memory left" in problem["detail"]
    assert int(caller.headers["Retry-After"]) == 5
    # The operator is told too, before anybody looks into a log.
    shown = eventually(lambda: "new messages are refused" in (s := limited.run("status").stdout) and s)
    assert "MB of its maxmemory" in " ".join(shown.split())
    checks = {c["part"]: c for c in json.loads(limited.run("check", "--json").stdout)["checks"]}
    assert not checks["api"]["ok"]
    assert "is unavailable; redis: Redis has little memory left" in checks["api"]["detail"]
    # The carrier is back: they are sent and settled though Redis is full.
    behave(limited.simulator_url, outage=False)
    received = f"{limited.simulator_url}/received?limit=1000000"
    eventually(lambda: ids <= set(fetch(received)["ids"]))
    eventually(lambda: under_way(limited) == 0)
    assert caller.call("POST", "/v1/messages", message)[0] == 503
    limit(limited, 0.5)
    eventually(lambda: "refused" not in limited.run("status").stdout)
    eventually(lambda: caller.call("POST", "/v1/messages", message)[0] == 202)
    eventually(lambda: under_way(limited) == 0)
    assert eventually(lambda: (a := answer(limited.run("audit", "--json")))["clean"] and a)
