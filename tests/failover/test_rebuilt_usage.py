"""Usage that is gone from PostgreSQL and from Redis is rebuilt from the recorded activity, exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest

from engine import redis_keys as keys
from engine.activity.archiver import Archiver
from engine.credit.laws import Audit
from engine.delivery.settlement import after_verdict
from engine.errors import Unavailable
from engine.organisations import Rebuilding
from engine.records import Verdict
from engine.stores.audit import AuditReader
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.migrate import migrate_clickhouse
from engine.stores.postgres import rebuilt_usage
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.rebuilt_usage import LostUsage
from engine.stores.postgres.unbooked import Unbooked
from engine.stores.rebuild import Rebuild
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.usage import RedisUsage
from engine.stores.status import LedgerStatus, StatusReader
from tests.activity.world import QUICK, in_database
from tests.credit.test_credit import SHARDS, World, accepted, drafts, eventually, now_us, render, world
from tests.credit.test_full_redis import PAUSES, worker
from tests.failover.postgres_machine import PostgresMachine
from tests.failover.test_postgres_goes_back import fetch, held, served


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[PostgresMachine]:
    machine = PostgresMachine(tmp_path)
    yield machine
    machine.stop()


@pytest.fixture
async def activity_url(clickhouse_url: str) -> str:
    url = in_database(clickhouse_url, f"rebuilt_{now_us()}")
    await migrate_clickhouse(url)
    return url


@pytest.fixture
async def both(machine: PostgresMachine, streams_url: str) -> AsyncIterator[World]:
    await machine.prepare()
    async with world(streams_url, machine.books_url) as w:
        yield w


class Engine:
    """Messages that are sent, archived, and rebuilt."""

    def __init__(self, w: World, activity_url: str) -> None:
        self.w = w
        self.activity_url = activity_url
        self._reader: Any = None
        # How many messages a provider has taken, those that it was given twice too.
        self.sendings = 0

    async def begin(self, store: type[PostgresLedger] = PostgresLedger) -> None:
        self.leaving = await self.w.ledger(store=store)
        self.ingest, _ = await self.w.holder("h1")
        self._reader = await worker(self.w, "w1")
        stream = RedisActivityStream(self.w.redis_url, SHARDS)
        store = ClickHouseActivityStore(self.activity_url)
        draining = asyncio.Event()
        archiving = asyncio.create_task(Archiver(stream, store, "a1", QUICK).run(draining))

        async def end() -> None:
            draining.set()
            await archiving
            await stream.close()
            await store.close()

        self.w.stack.push_async_callback(end)

    async def settle(self, count: int, kind: Any = "accepted") -> None:
        """Send what waits, or fail it, until `count` messages are over."""
        verdict = Verdict(kind=kind, provider="p", provider_message_id="x", code="0", latency_us=5)
        async with asyncio.timeout(60):
            while count > 0:
                entries = await self._reader.read(50, 50)
                settlements = [after_verdict(e, verdict, now_us(), PAUSES, Random(1)) for e in entries]
                settled = await self._reader.settle(settlements)
                count -= settled
                self.sendings += settled * (kind == "accepted")

    async def send(self, organisation_id: int, count: int, kind: Any = "accepted") -> None:
        await eventually(partial(served, self.ingest, organisation_id, count))
        await self.settle(count, kind)

    async def archived(self) -> None:
        async def idle() -> bool:
            return not any(await self.w.link.batch([("XLEN", keys.activity_key(s)) for s in range(SHARDS)]))

        await eventually(idle)

    async def forget_usage(self) -> None:
        """All usage is applied, noted, archived and trimmed."""
        await self.archived()

        async def noted() -> bool:
            lives = await RedisUsage(self.w.link, self.w.link, SHARDS).lives({})
            return all(x.note is not None and x.note.position == x.last_position for x in lives if x.length)

        await eventually(noted)
        for shard in range(SHARDS):
            await self.w.link.call("XTRIM", keys.usage_key(shard), "MAXLEN", 0)

    async def went_back(self) -> None:
        """The ledger has found that PostgreSQL went back, and leads."""

        async def closed() -> bool:
            try:
                return bool(await fetch(self.w, "SELECT FROM losses WHERE who = 'postgres'"))
            except (OSError, asyncpg.PostgresError):
                return False

        await eventually(closed)

    def auditor(self, activity_url: str = "") -> tuple[AuditReader, ClickHouseActivityStore]:
        activity = ClickHouseActivityStore(activity_url or self.activity_url)
        self.w.stack.push_async_callback(activity.close)
        return AuditReader(self.w.postgres_url, self.w.link, activity, SHARDS), activity

    async def audit(self) -> Audit:
        await self.archived()
        return await self.auditor()[0].audit()

    async def status(self) -> LedgerStatus:
        pool = await Pool.connect(self.w.postgres_url)
        self.w.stack.push_async_callback(pool.close)
        stream = RedisActivityStream(self.w.redis_url, SHARDS)
        return await StatusReader(pool, self.w.link, stream, SHARDS).ledger()

    async def rebuild(self, *, dry_run: bool = False, activity_url: str = "", pool: Any = None) -> Rebuilding:
        lost = LostUsage(pool or self.w.directory._pool)
        return await Rebuild(*self.auditor(activity_url), lost).rebuild(dry_run=dry_run, timeout_s=60)


class Dying:
    """A pool of a process that is killed in its transaction number `left`, before it commits."""

    def __init__(self, pool: Pool, left: int) -> None:
        self._pool = pool
        self._left = left
        self.connection = pool.connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self._pool.transaction() as connection:
            yield connection
            self._left -= 1
            if self._left <= 0:
                raise Unavailable("killed")


def broken(audit: Audit) -> dict[str, str]:
    return {check.name: check.verdict for check in audit.checks if check.verdict != "clean"}


async def repaired(w: World, poor: int, fresh: int) -> None:
    """What the operator does for those that are suspended."""
    repair = Unbooked(w.directory._pool, SHARDS)
    assert {(u.organisation_id, u.missing) for u in await repair.sums(0, 10)} == {(poor, 51), (fresh, 7)}
    await w.directory.top_up(poor, 100, "second")
    await repair.book(poor, None, None)
    await repair.book(fresh, "lost with the backup", "again")


async def test_what_was_trimmed_is_booked_from_the_recorded_events_once(
    both: World, machine: PostgresMachine, activity_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(both, activity_url)
    await engine.begin()
    rich, waiting, poor = [await both.organisation(units) for units in (1000, 1000, 10)]
    await engine.send(rich, 1)
    await engine.send(poor, 1)
    # These are held when PostgreSQL is backed up, and sent after that.
    assert await served(engine.ingest, waiting, 5)
    await eventually(partial(held, both, waiting, 5))
    kept = machine.backup()
    await engine.settle(5)
    await engine.send(rich, 30)
    await engine.send(rich, 3, "permanent")
    # The books forget these: a top-up that is spent, and an organisation with its first one.
    await both.directory.top_up(poor, 100, "second")
    await engine.send(poor, 60)
    fresh = await both.organisation(50)
    await engine.send(fresh, 7)

    async def charged() -> bool:
        rows = await fetch(both, "SELECT sum(captured)::int, sum(held)::int FROM accounts")
        return tuple(rows[0]) == (104, 0)

    await eventually(charged)
    await engine.forget_usage()
    machine.restore(kept)
    await engine.went_back()
    # The holder is granted anew, and sends on.
    await engine.send(rich, 2)
    found = await engine.audit()
    assert broken(found)["activity"] == "not_clean"
    assert "books repair --from-activity" in next(c.advice for c in found.checks if c.name == "activity")
    assert (await engine.status()).shards_to_rebuild > 0

    dry = await engine.rebuild(dry_run=True)
    seen = {u.organisation_id: (u.captured, u.messages, u.released, u.unbooked) for u in dry.rebuilt}
    assert seen == {rich: (30, 30, 3, 0), waiting: (5, 5, -5, 0), poor: (60, 60, 0, 51), fresh: (7, 7, 0, 7)}
    assert dry.not_rebuilt == []

    # A process is killed in the middle, then two do it at once, then one again.
    monkeypatch.setattr(rebuilt_usage, "_CHUNK", 1)
    for left in (1, 3):
        killed = await engine.rebuild(pool=Dying(both.directory._pool, left))
        assert any("killed" in sentence for sentence in killed.not_rebuilt)
    twice = await asyncio.gather(engine.rebuild(), engine.rebuild())
    again = await engine.rebuild()
    assert [*again.rebuilt, *again.not_rebuilt, *twice[0].not_rebuilt, *twice[1].not_rebuilt] == []
    rows = await fetch(
        both,
        "SELECT organisation_id, captured::int, messages::int, released::int, unbooked::int FROM rebuilt",
    )
    assert {row[0]: tuple(row)[1:] for row in rows} == seen

    # What lacks units is suspended, all else is right; the operator puts the top-up back.
    assert broken(await engine.audit()) == {"unbooked": "not_clean"}
    await repaired(both, poor, fresh)
    assert broken(await engine.audit()) == {}
    rows = await fetch(both, "SELECT organisation_id, captured::int, held::int FROM accounts ORDER BY 1")
    assert [tuple(row) for row in rows] == [(rich, 33, 0), (waiting, 5, 0), (poor, 61, 0), (fresh, 7, 0)]
    references = await fetch(both, "SELECT DISTINCT reference FROM journal WHERE movement = 'capture'")
    assert any(str(r[0]).startswith("rebuilt from the activity recorded ") for r in references)
    await engine.send(poor, 3)
    assert accepted(await engine.ingest.submit(rich, drafts(1), render=render)) == 1


async def test_what_clickhouse_does_not_have_is_said_and_nothing_is_booked(
    both: World, machine: PostgresMachine, activity_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(both, activity_url)
    await engine.begin()
    org = await both.organisation(1000)
    await engine.send(org, 1)

    async def charged(units: int) -> bool:
        return (await both.directory.balance(org)).posted == 1000 - units

    await eventually(partial(charged, 1))
    kept = machine.backup()
    await engine.send(org, 30)
    await eventually(partial(charged, 31))
    await engine.forget_usage()
    machine.restore(kept)
    await engine.went_back()
    await engine.send(org, 2)
    await engine.archived()
    away = await engine.rebuild(activity_url="http://127.0.0.1:1/none")
    (sentence,) = away.not_rebuilt
    assert (
        "cannot be rebuilt now: ClickHouse at http://127.0.0.1:1 cannot be reached: nothing listens there"
        in sentence
    )
    dropped = in_database(activity_url, f"dropped_{now_us()}")
    await migrate_clickhouse(dropped)
    gone = await engine.rebuild(activity_url=dropped)
    assert "ClickHouse does not have its recorded activity any more" in gone.not_rebuilt[0]
    assert [*away.rebuilt, *gone.rebuilt, *await fetch(both, "SELECT FROM rebuilt")] == []
    # Then Redis loses data too. No audit takes up as lost what can still be rebuilt.
    await fetch(both, "UPDATE shards SET losses = losses + 1, lost_at = now() - interval '1 minute'")
    for _ in range(2):
        found = await engine.audit()
        assert broken(found) == {"activity": "not_checked"}
        assert "books repair --from-activity" in next(c.advice for c in found.checks if c.name == "activity")
    auditor, activity = engine.auditor()
    first, lacking = [], auditor.lacking

    async def another_call_is_first(timeout_s: float) -> Any:
        first.append(await engine.rebuild())
        return await lacking(timeout_s)

    monkeypatch.setattr(auditor, "lacking", another_call_is_first)
    second = await Rebuild(auditor, activity, LostUsage(both.directory._pool)).rebuild(
        dry_run=False, timeout_s=60
    )
    assert [(u.captured, u.messages) for u in first[0].rebuilt] == [(30, 30)]
    assert [*second.rebuilt, *second.not_rebuilt] == []
    # The audit of the second call has taken the loss of Redis up.
    found = await engine.audit()
    assert (broken(found), found.uncharged_units) == ({}, 0)
