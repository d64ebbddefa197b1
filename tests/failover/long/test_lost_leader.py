"""The ledger that leads is lost, and another one leads within 5 s, however the first was lost.

The first is a process of its own, and with the faults of the network on a machine of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from engine.credit.ledger_records import Recovered
from engine.stores.migrate import migrate_postgres
from engine.stores.postgres.ledger import PostgresLedger
from tests.adversity.pooler import Pooler
from tests.adversity.proxy import Proxy
from tests.credit.test_credit import SHARDS, World, accepted, drafts, render, world
from tests.failover.machine import Machine, machine, start_open_postgres

log = logging.getLogger(__name__)

REPLACED_S = 5.0
ROOT = Path(__file__).parents[3]


class Standby(PostgresLedger):
    """Tells when it leads."""

    led: asyncio.Event

    async def recover(self) -> Recovered:
        recovered = await super().recover()
        self.led.set()
        return recovered


@asynccontextmanager
async def ledger_process(postgres_url: str, redis_url: str, *before: str) -> AsyncIterator[int]:
    """The id of a process whose ledger leads. `before` are the words before its command."""
    process = await asyncio.create_subprocess_exec(
        *before, sys.executable, "-m", "tests.failover.ledger_process", postgres_url, redis_url, str(SHARDS),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            async for line in process.stdout:
                if b"leading" in line:
                    break
            else:
                raise AssertionError("the ledger ended")
        yield process.pid
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def replaced(w: World, lose: Callable[[], None]) -> None:
    """Lose the leader while a standby stands by and customers send; the standby leads in time."""
    standby = type("Told", (Standby,), {"led": asyncio.Event()})
    org, late = await w.organisation(1000), await w.organisation(1000)
    ingest, _ = await w.holder("h1")
    assert accepted(await ingest.submit(org, drafts(30), render=render)) == 30
    await w.ledger(store=standby)
    assert not standby.led.is_set()
    begun_s = time.monotonic()
    lose()
    # It needs a grant, which only a leader gives.
    waits = asyncio.create_task(ingest.submit(late, drafts(7), render=render))
    async with asyncio.timeout(REPLACED_S):
        await standby.led.wait()
    # Seen with `pytest --log-cli-level=info`.
    log.info("replaced after %.2f s", time.monotonic() - begun_s)
    assert accepted(await waits) == 7
    await w.clean()


@pytest.mark.parametrize(
    ("how", "through"),
    [(signal.SIGKILL, "directly"), (signal.SIGSTOP, "directly"), (signal.SIGSTOP, "pooler")],
)
async def test_a_leader_that_is_killed_or_frozen_is_replaced(
    streams_url: str, books_url: str, how: signal.Signals, through: str
) -> None:
    async with Pooler(books_url, "session") as pooler, world(streams_url, books_url) as w:
        url = pooler.url if through == "pooler" else books_url
        async with ledger_process(url, streams_url) as pid:
            await replaced(w, partial(os.kill, pid, how))


@pytest.fixture
def far() -> Iterator[Machine]:
    with machine() as made:
        yield made


@contextmanager
def open_books(folder: Path) -> Iterator[tuple[str, str]]:
    """(its URL, the URL of its database `books`) of a PostgreSQL that other machines reach."""
    server = start_open_postgres(folder)
    try:
        yield server.url, server.url.rpartition("/")[0] + "/books"
    finally:
        server.stop(10)


@pytest.mark.parametrize("fault", ["pull_cable", "lose_route"])
async def test_a_leader_whose_machine_or_network_is_lost_is_replaced(
    far: Machine, streams_url: str, tmp_path: Path, fault: str
) -> None:
    with open_books(tmp_path) as (admin_url, url):
        admin = await asyncpg.connect(admin_url)
        await admin.execute("CREATE DATABASE books")
        await admin.close()
        await migrate_postgres(url)
        async with Proxy.to(streams_url, listen=far.near) as redis, world(streams_url, url) as w:
            far_url = url.replace("127.0.0.1", far.near)
            async with ledger_process(far_url, redis.url(streams_url), *far.command()):
                await replaced(w, getattr(far, fault))
