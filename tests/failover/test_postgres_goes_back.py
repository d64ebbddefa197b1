"""PostgreSQL comes back without its last moments: noticed, named, and borne by those concerned alone.

The server here is the tests' own. A backup is a copy of its data directory, and restoring it brings
back exactly that moment, while Redis has gone on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from engine import redis_keys as keys
from engine.errors import Refusal, Unavailable
from engine.intake.ingest import Ingest
from engine.shards import shard_of
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.postgres.unbooked import Unbooked
from engine.stores.redis.usage import RedisUsage
from tests.credit.test_credit import SHARDS, World, accepted, drafts, eventually, render, world
from tests.credit.test_full_redis import send_all, worker
from tests.failover.postgres_machine import PostgresMachine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[PostgresMachine]:
    machine = PostgresMachine(tmp_path)
    yield machine
    machine.stop()


@pytest.fixture
async def both(machine: PostgresMachine, streams_url: str) -> AsyncIterator[World]:
    await machine.prepare()
    async with world(streams_url, machine.books_url) as w:
        yield w


async def fetch(w: World, query: str, *arguments: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(w.postgres_url)
    try:
        return list(await connection.fetch(query, *arguments))
    finally:
        await connection.close()


async def served(ingest: Ingest, organisation_id: int, count: int) -> bool:
    """Whether so many messages were accepted; False also while nobody knows."""
    try:
        submitted = await ingest.submit(organisation_id, drafts(count), render=render)
    except (Unavailable, Refusal):
        return False
    return accepted(submitted) == count


async def served_in_time(ingest: Ingest, organisation_id: int, count: int) -> bool:
    """The same of one that has enough: the ledger may be busy, but a refusal is a fault."""
    try:
        submitted = await ingest.submit(organisation_id, drafts(count), render=render)
    except Unavailable:
        return False
    assert accepted(submitted) == count
    return True


async def held(w: World, organisation_id: int, units: int) -> bool:
    try:
        return (await w.directory.balance(organisation_id)).held == units
    except Unavailable:
        return False


async def test_a_lost_top_up_and_a_lost_organisation_stop_nobody_else(
    both: World, machine: PostgresMachine
) -> None:
    await both.ledger()
    ingest, _ = await both.holder("h1")
    bystander, poor = await both.organisation(1000), await both.organisation(10)
    assert await served(ingest, bystander, 5)
    await eventually(partial(held, both, bystander, 5))
    kept = machine.backup()
    await eventually(partial(served, ingest, bystander, 1))
    # The books forget these: a top-up, and an organisation with its first one.
    await both.directory.top_up(poor, 100, "second")
    fresh = await both.organisation(50)
    await eventually(partial(served_in_time, ingest, poor, 60))
    await eventually(partial(served_in_time, ingest, fresh, 7))
    await eventually(partial(held, both, poor, 60))
    await eventually(partial(held, both, fresh, 7))
    machine.restore(kept)
    await eventually(partial(served, ingest, bystander, 20))
    await eventually(partial(held, both, bystander, 26))
    # All that was used is in the books, or waits to be booked; nothing is missing.
    rows = await fetch(
        both,
        "SELECT organisation_id, sum(held)::int, sum(captured)::int FROM unbooked GROUP BY 1 ORDER BY 1",
    )
    assert [tuple(row) for row in rows] == [(poor, 50, 0), (fresh, 7, 0)]
    assert await broken_laws(both) == {"unbooked": "not_clean"}
    # The organisation that lacks units is granted none, though it pays in.
    await both.directory.top_up(poor, 5, "third")
    await eventually(partial(refused, ingest, poor))
    # The operator puts the top-up back, and makes the organisation again.
    pool = both.directory._pool
    repair = Unbooked(pool, SHARDS)
    assert [(u.organisation_id, u.missing) for u in await repair.sums(0, 10)] == [(poor, 45), (fresh, 7)]
    await both.directory.top_up(poor, 100, "second")
    await repair.book(poor, None, None)
    await repair.book(fresh, "lost with the backup", "again")
    await eventually(partial(served, ingest, poor, 20))
    await eventually(partial(held, both, poor, 80))
    await eventually(partial(held, both, fresh, 7))
    assert await broken_laws(both) == {}


async def refused(ingest: Ingest, organisation_id: int) -> bool:
    """Whether a message is refused for want of units; False also while nobody knows."""
    try:
        submitted = await ingest.submit(organisation_id, drafts(1), render=render)
    except (Refusal, Unavailable) as e:
        return isinstance(e, Refusal) and e.status == 402
    return accepted(submitted) == 0


async def broken_laws(w: World) -> dict[str, str]:
    """{law: verdict} of those that are not clean, once the ledger has booked all usage."""
    found = await w.audit()
    return {check.name: check.verdict for check in found.checks if check.verdict != "clean"}


async def test_usage_is_applied_again_and_what_holders_were_granted_ends(
    both: World, machine: PostgresMachine
) -> None:
    await both.ledger()
    ingest, _ = await both.holder("h1")
    org = await both.organisation(1000)
    assert await served(ingest, org, 1)
    await eventually(partial(held, both, org, 1))
    kept = machine.backup()
    await eventually(partial(served, ingest, org, 200))
    await eventually(partial(held, both, org, 201))
    fresh = await both.directory.create_organisation("lost")
    with capture_logs() as lines:
        machine.restore(kept)
        await eventually(partial(served, ingest, org, 3))
        await eventually(partial(held, both, org, 204))
    named = [line for line in lines if line["event"].startswith("PostgreSQL went back")]
    assert named
    assert not named[0]["shards_without_all_usage"]
    assert await broken_laws(both) == {}
    # No other organisation gets the id of one that is forgotten.
    assert (await both.directory.create_organisation("new")).id > fresh.id
    assert [row[0] for row in await fetch(both, "SELECT losses FROM shards")] == [0] * SHARDS


async def test_where_usage_was_trimmed_the_books_hold_what_redis_has_and_the_rest_is_named(
    both: World, machine: PostgresMachine
) -> None:
    await both.ledger()
    ingest, _ = await both.holder("h1")
    org = await both.organisation(1000)
    assert await served(ingest, org, 1)
    await eventually(partial(held, both, org, 1))
    kept = machine.backup()
    await eventually(partial(served, ingest, org, 200))
    await eventually(partial(held, both, org, 201))

    async def noted() -> bool:
        life = (await RedisUsage(both.link, both.link, SHARDS).lives({}))[shard_of(org, SHARDS)]
        return life.note is not None and life.note.position == life.last_position

    await eventually(noted)
    for shard in range(SHARDS):
        await both.link.call("XTRIM", keys.usage_key(shard), "MAXLEN", 0)
    machine.restore(kept)
    await eventually(partial(served, ingest, org, 3))
    await eventually(partial(held, both, org, 204))
    causes = await fetch(both, "SELECT DISTINCT reference FROM journal WHERE movement = 'hold'")
    assert any(str(row[0]).startswith("PostgreSQL went back behind the usage") for row in causes)
    # The books hold what the messages hold, and no event is without its units.
    assert await broken_laws(both) == {}


class CutShort(PostgresLedger):
    """Its first close of books ends after Redis was closed and before the books are."""

    cut = False

    async def close_shard(self, *arguments: Any, **named: Any) -> None:
        """Fail once, then close."""
        if not self.cut:
            self.cut = True
            raise Unavailable("cut short")
        await super().close_shard(*arguments, **named)


@pytest.mark.parametrize(("store", "closes"), [(PostgresLedger, 1), (CutShort, 2)])
async def test_a_ledger_that_starts_cold_tells_trimmed_usage_from_a_redis_that_went_back(
    both: World, machine: PostgresMachine, store: type[PostgresLedger], closes: int
) -> None:
    draining = await both.ledger()
    ingest, quota = await both.holder("h1")
    org = await both.organisation(1000)
    reader = await worker(both, "w1")
    assert await served(ingest, org, 1)
    assert await send_all(reader, 1) == 1
    await eventually(partial(charged, both, org, 1))
    kept = machine.backup()
    await eventually(partial(served, ingest, org, 30))
    assert await send_all(reader, 30) == 30
    await eventually(partial(charged, both, org, 31))
    fresh = await both.directory.create_organisation("lost")
    await quota.leave()
    draining.set()
    shard = shard_of(org, SHARDS)

    async def noted() -> bool:
        life = (await RedisUsage(both.link, both.link, SHARDS).lives({}))[shard]
        return life.note is not None and life.note.position == life.last_position

    await eventually(noted)
    await both.link.call("XTRIM", keys.usage_key(shard), "MAXLEN", 0)
    machine.restore(kept)
    with capture_logs() as lines:
        await both.ledger(store=store)
    named = [line for line in lines if line["event"].startswith("PostgreSQL went back")]
    assert [line["shards_without_all_usage"] for line in named] == [[shard]] * closes
    closed = [line["cause"] for line in lines if line["event"] == "closing the books of a shard"]
    assert [cause.partition(" generation ")[0] for cause in closed] == [
        "PostgreSQL went back behind the usage that"
    ] * closes
    # No audit takes up the difference: each one names the organisation and what its books lack.
    assert [row[0] for row in await fetch(both, "SELECT losses FROM shards")] == [0] * SHARDS
    for _ in range(2):
        found = await both.audit()
        assert {c.name: c.verdict for c in found.checks if c.verdict != "clean"} == {"activity": "not_clean"}
        assert any(str(org) in c.detail and "-30" in c.detail for c in found.checks if c.name == "activity")
    assert (await both.directory.create_organisation("new")).id > fresh.id


async def charged(w: World, organisation_id: int, units: int) -> bool:
    try:
        balance = await w.directory.balance(organisation_id)
    except Unavailable:
        return False
    return (balance.posted, balance.held) == (1000 - units, 0)
