"""Dead letters in a running engine: a worker of the test sets messages aside, as the last of several does."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog

from engine.delivery.settlement import DELIVERIES_MAX, before_sending
from engine.records import Entry
from engine.stores.redis.link import RedisLink
from engine.stores.redis.queue import QueueStreams
from supervisor.datadir import DataDir
from supervisor.running import Running
from tests.console.browser.traffic import send
from tests.system.client import Caller, eventually
from tests.system.conftest import Engine


def make_dead_letters(engine: Engine, recipients: list[str]) -> None:
    """One of the normal queue for each recipient. Nothing else is to be sent in that queue meanwhile."""
    # A worker of our own is to be given the messages.
    _scale(engine, 0)
    try:
        send(engine, [{"to": to, "text": "Hello", "queue": "normal"} for to in recipients])
        # The thread of a test that drives a browser has a loop already.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(_set_aside(engine, len(recipients)))).result()
    finally:
        _scale(engine, None)


def _scale(engine: Engine, processes: int | None) -> None:
    """Let the normal queue have so many workers, None: as configured, and wait until it is so."""
    admin = Caller(engine.admin_url, engine.admin_key)
    status, answer = admin.call(
        "POST", "/v1/admin/queues/normal/scale", {"processes": processes, "force": True}
    )
    assert status == 200, answer
    wanted = 1 if processes is None else processes
    eventually(lambda: _workers(admin) == wanted, timeout_s=60)


def _workers(admin: Caller) -> int:
    _, status = admin.call("GET", "/v1/admin/status")
    processes = status["nodes"][0]["processes"]
    return sum(one["role"] == "normal" and one["state"] == "ready" for one in processes)


async def _set_aside(engine: Engine, count: int) -> None:
    running = DataDir(engine.data_dir).running(Running)
    assert running is not None
    url, shards = running.config.redis.url, running.config.shards
    links = [RedisLink(url, timeout_s=10, name=f"undertaker {use}") for use in ("commands", "reading")]
    reader = QueueStreams(
        *links,
        queue="normal",
        shards=shards,
        worker_name="undertaker",
        timeout_s=10,
        log=structlog.get_logger(),
    )
    await reader.join()
    found: list[Entry] = []
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline, "the messages did not come"
        found += await reader.read(count - len(found), 500)
    dead = [
        before_sending(msgspec.structs.replace(entry, deliveries=DELIVERIES_MAX + 1), time.time_ns() // 1000)
        for entry in found
    ]
    assert await reader.settle([one for one in dead if one]) == count
    for link in links:
        await link.close()
