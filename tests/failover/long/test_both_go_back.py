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

from tests.credit.test_credit import World, eventually, world
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


CASES = [
    # Which store is put back further; whether its usage was trimmed; whether a ledger has seen them before.
    pytest.param("postgresql", False, "warm", id="postgresql further"),
    pytest.param("postgresql", True, "warm", id="postgresql further, usage trimmed"),
    pytest.param("postgresql", True, "cold", id="postgresql further, usage trimmed, new ledger"),
    pytest.param("postgresql", False, "cold", id="postgresql further, new ledger"),
    pytest.param("redis", False, "warm", id="redis further"),
    pytest.param("redis", True, "cold", id="redis further, usage trimmed, new ledger"),
]


@pytest.mark.parametrize(("further", "trimmed", "ledger"), CASES)
async def test_all_that_was_sent_is_charged_or_named_and_everybody_is_served(
    both: World,
    postgres: PostgresMachine,
    redis: Machine,
    activity_url: str,
    further: str,
    trimmed: bool,
    ledger: str,
) -> None:
    engine = Engine(both, activity_url)
    await engine.begin()
    org, other = [await both.organisation(1000) for _ in range(2)]
    await engine.send(org, 3)
    assert await served(engine.ingest, org, 4)
    await eventually(partial(in_books, both, org, 3, 4))
    await engine.archived()
    # What the one remembers that is put back further.
    kept, moment = postgres.backup(), redis.moment()
    await eventually(partial(served, engine.ingest, other, 1), timeout_s=15)
    await engine.settle(5)
    await engine.send(org, 20)
    await eventually(partial(in_books, both, org, 27, 0), timeout_s=15)
    await engine.archived()
    if trimmed:
        await engine.forget_usage()
    # What the other one remembers.
    if further == "postgresql":
        moment = redis.moment()
    else:
        kept = postgres.backup()
    await eventually(partial(served, engine.ingest, org, 6), timeout_s=15)
    await engine.settle(6)
    # These are in no queue afterwards.
    assert await served(engine.ingest, org, 2)
    await eventually(partial(in_books, both, org, 33, 2), timeout_s=15)
    await engine.archived()
    if ledger == "cold":
        engine.leaving.set()
    redis.kill()
    postgres.restore(kept)
    redis.go_back(moment)
    if ledger == "cold":
        await both.ledger()
    await eventually(partial(served, engine.ingest, org, 1), timeout_s=20)
    # A message that is back in its queue is sent with it.
    await engine.settle(1)
    await engine.archived()

    async def nothing_is_held() -> bool:
        rows = await fetch(both, "SELECT sum(held)::int FROM accounts")
        return bool(rows[0][0] == 0)

    await eventually(nothing_is_held)
    assert (await engine.rebuild()).not_rebuilt == []
    assert (await engine.rebuild()).rebuilt == []
    await fetch(both, "UPDATE shards SET lost_at = now() - interval '1 minute'")
    await engine.audit()
    found = await engine.audit()
    captured = (await fetch(both, "SELECT sum(captured)::int FROM accounts"))[0][0]
    if (further, trimmed, ledger) == ("postgresql", False, "cold"):
        # Nothing but the events knows then that Redis went back. The audit names what was not charged.
        assert broken(found) == {"activity": "not_clean"}
        assert f"organisation {org} (the books are ahead: held by -8, captured by -6 units)" in next(
            c.detail for c in found.checks if c.name == "activity"
        )
        assert captured + 6 == engine.sendings
    else:
        assert broken(found) == {}
        assert captured + found.uncharged_units == engine.sendings
