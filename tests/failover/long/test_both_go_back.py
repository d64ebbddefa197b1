"""PostgreSQL and Redis both come back in an older state, each in its own: nothing is overspent, everybody is
served again, and what was sent and not charged is rebuilt from the events, or named to the unit.

Real servers: a copy of PostgreSQL's data directory and a length of Redis' file bring back a moment exactly,
while ClickHouse goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from engine.errors import Unavailable
from engine.stores.postgres.rebuilt_usage import LostUsage
from tests.credit.test_credit import World, accepted, drafts, eventually, render, world
from tests.credit.test_rewinds import Machine
from tests.failover.postgres_machine import PostgresMachine
from tests.failover.test_postgres_goes_back import fetch, served
from tests.failover.test_rebuilt_usage import Engine, activity_url, broken

__all__ = ["activity_url"]


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresMachine]:
    machine = PostgresMachine(tmp_path)
    yield machine
    machine.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.server.stop(10)


@pytest.fixture
async def both(postgres: PostgresMachine, redis: Machine) -> AsyncIterator[World]:
    await postgres.prepare()
    async with world(redis.url, postgres.books_url) as w:
        yield w


async def in_books(w: World, organisation_id: int, captured: int, held: int) -> bool:
    query = "SELECT captured::int, held::int FROM accounts WHERE organisation_id = $1"
    try:
        rows = await fetch(w, query, organisation_id)
    except (OSError, asyncpg.PostgresError):
        return False
    return [tuple(row) for row in rows] == [(captured, held)]


@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize("older", ["postgresql", "redis"])
async def test_both_stores_go_back(
    both: World, postgres: PostgresMachine, redis: Machine, activity_url: str, older: str, trimmed: bool
) -> None:
    engine = Engine(both, activity_url)
    await engine.begin()
    org, other = [await both.organisation(1000) for _ in range(2)]
    await engine.send(org, 3)
    assert await served(engine.ingest, org, 4)
    await eventually(partial(in_books, both, org, 3, 4))
    await engine.archived()
    # Each of these moments is the last that one of the stores remembers.
    kept, moment = postgres.backup(), redis.moment()
    await eventually(partial(served, engine.ingest, other, 1), timeout_s=15)
    await engine.settle(5)
    await engine.send(org, 20)
    await eventually(partial(in_books, both, org, 27, 0), timeout_s=15)
    await engine.archived()
    if trimmed:
        await engine.forget_usage()
    if older == "postgresql":
        moment = redis.moment()
    else:
        kept = postgres.backup()
    await eventually(partial(served, engine.ingest, org, 6), timeout_s=15)
    await engine.settle(6)
    assert await served(engine.ingest, org, 2)
    await eventually(partial(in_books, both, org, 33, 2), timeout_s=15)
    await engine.archived()
    redis.kill()
    postgres.restore(kept)
    redis.go_back(moment)
    print("BACK")
    await eventually(partial(served, engine.ingest, org, 1), timeout_s=20)
    print(await fetch(both, "SELECT who, shard, cause, from_ms, until_ms, released, reopened FROM losses"))
    n = await both.link.call("HGETALL", "credit:{0}:held:by")
    print([dict(r) for r in await fetch(both, "SELECT * FROM accounts")], n)
    await engine.settle(1)
    await engine.archived()
    import asyncio
    await asyncio.sleep(2)
    print([dict(r) for r in await fetch(both, "SELECT * FROM accounts")], n)
    print(broken(a := await engine.audit()), [c.detail for c in a.checks])
    print(await engine.rebuild())
    await fetch(both, "UPDATE shards SET lost_at = now() - interval '1 minute'")
    print(broken(a := await engine.audit()), a.uncharged_units, a.uncharged_messages)
    print(broken(a := await engine.audit()), a.uncharged_units, a.uncharged_messages, [c.detail for c in a.checks])
    print([dict(r) for r in await fetch(both, "SELECT * FROM accounts")], n)
    print(await LostUsage(both.directory._pool).losses(10))
    assert 0
