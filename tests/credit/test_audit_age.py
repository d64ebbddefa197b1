"""What an audit and a page of transactions cost does not grow with the age of the engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence

import asyncpg
import pytest

from engine.stores.postgres import audit_sql
from engine.stores.postgres.audit_books import AuditBooks
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


async def idle_accounts(engine: Audited, count: int) -> None:
    """So many new organisations that have done nothing, of which no statistics know."""
    for table in ("organisations", "accounts", "journal", "audit_sums"):
        await engine.books(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    await engine.books("ANALYZE")
    await engine.books(
        "INSERT INTO organisations (id, name) OVERRIDING SYSTEM VALUE"
        " SELECT g, 'idle' FROM generate_series(1000, 999 + $1::int) g",
        count,
    )
    await engine.books(
        f"INSERT INTO accounts (organisation_id, shard) SELECT id, id % {SHARDS} FROM organisations"
        " WHERE id >= 1000"
    )


async def begun(engine: Audited) -> AuditBooks:
    books = await AuditBooks.connect(engine.world.postgres_url, 5.0, 60.0)
    await books.begin()
    await books.prepare(full=False)
    return books


async def read(books: AuditBooks, busy: Sequence[int] = ()) -> list[int]:
    """The organisations whose accounts leave PostgreSQL."""
    return [
        standing.account.organisation_id
        for shard in range(SHARDS)
        async for chunk in books.accounts(shard, busy)
        for standing in chunk
    ]


async def test_accounts_that_are_idle_stay_in_postgresql_and_are_counted(engine: Audited) -> None:
    made = await engine.organisations(2, 5)
    assert (await engine.reader.audit()).closed_shards == SHARDS
    await idle_accounts(engine, 2000)
    books = await begun(engine)
    assert set(await read(books)) <= set(made)
    # An organisation that is known to have done something is read, once.
    assert [o for o in await read(books, [1000, made[0]]) if o == 1000] == [1000]
    books.close()
    audit = await engine.reader.audit()
    assert (audit.verdict, audit.totals["topped_up"]) == ("clean", 2000)
    assert {c.checked for c in audit.checks if c.of == "organisations"} == {2002}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE accounts SET topped_up = 5, available = 5 WHERE organisation_id = 1000",
        "INSERT INTO quotas (holder, organisation_id, units) VALUES ('x', 1000, 3)",
        "INSERT INTO journal (organisation_id, movement, debit, credit, units)"
        " VALUES (1000, 'top-up', 'payments', 'available', 5)",
        "INSERT INTO audit_sums SELECT 1000, 1000 % 4, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0",
    ],
)
async def test_an_idle_account_that_breaks_a_law_is_found(engine: Audited, change: str) -> None:
    await engine.organisations(1, 5)
    assert (await engine.reader.audit()).closed_shards == SHARDS
    await idle_accounts(engine, 10)
    await engine.books(change)
    audit = await engine.reader.audit()
    assert audit.verdict == "not_clean"
    assert "1000" in " ".join(check.detail for check in audit.checks if check.broken)


def with_values(statement: str) -> str:
    return statement.replace("$1", "1").replace("$2", "'{7,1001,1005}'")


@pytest.mark.parametrize("analyzed", [False, True])
async def test_the_plans_of_an_audit_are_the_same_with_old_statistics(
    engine: Audited, analyzed: bool
) -> None:
    await engine.organisations(1, 5)
    await engine.reader.audit()
    await idle_accounts(engine, 5000)
    if analyzed:
        await engine.books("ANALYZE")
    books = await begun(engine)
    loud = await books._connection.fetch("EXPLAIN " + with_values(audit_sql.LOUD))
    plan = "\n".join(row[0] for row in loud)
    assert "Index Only Scan using journal_by_organisation" in plan
    assert "Nested Loop" not in plan
    await books._connection.execute(audit_sql.JOIN_EACH)
    each = audit_sql.ACCOUNTS.format(
        sums=audit_sql.SUMS, full=False, journal=audit_sql.SINCE, some=audit_sql.SOME
    )
    found = await books._connection.fetch("EXPLAIN " + with_values(each))
    plan = "\n".join(row[0] for row in found)
    assert "journal_by_organisation" in plan
    assert "Seq Scan" not in plan
    assert "audit_sums_pkey" in plan
    books.close()
