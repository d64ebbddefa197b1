"""What an audit and a page of transactions cost does not grow with the age of the engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from engine.stores.postgres.journal import Journal
from engine.stores.postgres.pool import Pool
from tests.credit.audit_world import Audited, Stores, audited
from tests.credit.test_credit import SHARDS, eventually

ORGANISATIONS = 20
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    stores = Stores(tmp_path_factory.mktemp("aged"))
    yield stores
    stores.stop()


@pytest.fixture
async def engine(stores: Stores) -> AsyncIterator[Audited]:
    async with audited(stores) as engine:
        yield engine


async def tuples_read(engine: Audited) -> tuple[int, int]:
    """Rows of the journal read by scans and by indexes so far, of connections that have ended."""
    [row] = await engine.books(
        "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'journal'"
    )
    return row[0], row[1]


async def nobody_else(engine: Audited) -> None:
    """Wait until the connections of audits have ended, and so have counted what they read."""

    async def alone() -> bool:
        found = await engine.books(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'smsengine audit%'"
        )
        return found[0][0] == 0

    await eventually(alone)


@pytest.mark.parametrize("days", [1, 1000])
async def test_an_audit_reads_what_came_since_the_last_whatever_there_was_before(
    engine: Audited, days: int
) -> None:
    made = await engine.organisations(ORGANISATIONS, 1, units=100_000)
    await engine.live(days, time.time_ns() // 1_000_000 - (days + 1) * DAY_MS)
    first = await engine.reader.audit()
    assert (first.verdict, first.closed_shards) == ("clean", SHARDS)
    # What was sent, and held and charged each day.
    assert first.activity_rows == ORGANISATIONS * (1 + 2 * days)
    # One more day, and then a message, so that the day is behind all streams' ends.
    [(closed_ms,)] = await engine.books("SELECT max(stream_ms) FROM audit_checkpoints")
    await engine.live(1, closed_ms + 1)
    for organisation_id in made:
        await engine.send(organisation_id, 1)
    await engine.settled()
    await engine.books("ANALYZE")
    await nobody_else(engine)
    engine.ledger_draining.set()
    scanned, fetched = await tuples_read(engine)
    second = await engine.reader.audit()
    assert second.verdict == "clean", second
    assert second.activity_rows == ORGANISATIONS * 3
    assert ORGANISATIONS * 3 <= second.journal_rows <= ORGANISATIONS * 6
    await nobody_else(engine)
    now_scanned, now_fetched = await tuples_read(engine)
    # The ledger may book a little meanwhile; it reads nothing of the journal.
    assert (now_scanned - scanned, now_fetched - fetched) == (0, second.journal_rows)


async def test_a_page_of_an_organisation_that_is_idle_reads_no_more_than_its_rows(engine: Audited) -> None:
    # One of three that has done nothing since, among two that have done all the rest.
    idle, busy, other = [await engine.world.organisation(10) for _ in range(3)]
    connection = await asyncpg.connect(engine.world.postgres_url)
    await connection.execute(
        "INSERT INTO journal (organisation_id, movement, debit, credit, units)"
        " SELECT CASE i % 2 WHEN 0 THEN $1::bigint ELSE $2 END, 'hold', 'granted', 'held', 1"
        " FROM generate_series(1, 200000) AS s (i)".replace("$1", str(busy)).replace("$2", str(other))
    )
    await connection.execute("ANALYZE journal")
    await connection.close()
    pool = await Pool.connect(engine.world.postgres_url, connections_max=1)
    scanned, fetched = await tuples_read(engine)
    # A prepared statement is planned anew for its first five calls, and then once for all.
    for _ in range(10):
        assert len(await Journal(pool).transactions(idle, 10**18, 101)) == 1
        assert len(await Journal(pool).transactions(busy, 10**18, 101)) == 101
        assert len(await Journal(pool).transactions(busy, 1000, 101)) == 101
    await pool.close()

    async def counted() -> bool:
        return (await tuples_read(engine))[1] > fetched

    await eventually(counted)
    now_scanned, now_fetched = await tuples_read(engine)
    assert now_scanned == scanned
    assert now_fetched - fetched <= 10 * (1 + 101 + 101)
