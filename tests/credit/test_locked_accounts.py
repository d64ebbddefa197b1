"""Accounts that somebody else has locked, and fences of very many quotas: both hold up nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import asyncpg
import msgspec
import pytest

from engine.credit.ledger_records import StreamMark, UsageEntry
from engine.credit.posting import decide
from engine.credit.records import QuotaRequest
from engine.errors import Unavailable
from engine.shards import shard_of
from engine.stores.postgres.ledger import PostgresLedger
from engine.stream_id import StreamId
from tests.credit.test_credit import SHARDS, World, accepted, drafts, eventually, render, world

_MANY = """
WITH named AS (INSERT INTO organisations (name) SELECT 'many' FROM generate_series(1, $2) RETURNING id),
    opened AS (
        INSERT INTO accounts (organisation_id, shard, topped_up, granted)
        SELECT id, $1, 5, 5 FROM named RETURNING organisation_id)
SELECT organisation_id FROM opened"""
_GIVE = "INSERT INTO quotas (organisation_id, holder, units) SELECT unnest($1::bigint[]), 'gone', 5"


def entry(shard: int, position: int, kind: Any, holder: str = "gone", data: bytes = b"") -> UsageEntry:
    """An entry of the chain whose links are `link1`, `link2`, ..., by position."""
    follows = f"link{position - 1}" if position > 1 else ""
    return UsageEntry(shard, StreamId(position, 0), kind, holder, 1, data, follows, f"link{position}")


def request(organisation_id: int, number: int, needed: int) -> bytes:
    return msgspec.msgpack.encode(
        QuotaRequest(
            number=number, organisation_id=organisation_id, wanted=needed, needed=needed, waiting=needed
        )
    )


class Books:
    """The ledger's store, leading, and a connection beside it."""

    def __init__(self, store: PostgresLedger, beside: asyncpg.Connection) -> None:
        self.store = store
        self.beside = beside

    async def organisations(self, shard: int, count: int) -> list[int]:
        """So many with an account of 5 units, all granted to the holder `gone`."""
        rows = await self.beside.fetch(_MANY, shard, count)
        made = [row[0] for row in rows]
        await self.beside.execute(_GIVE, made)
        return made

    async def organisation(self, shard: int, units: int) -> int:
        made = (await self.beside.fetch(_MANY, shard, 1))[0][0]
        await self.beside.execute("UPDATE accounts SET topped_up = $2, available = $2, granted = 0"
                                  " WHERE organisation_id = $1", made, units)  # fmt: skip
        return int(made)


@pytest.fixture
async def books(books_url: str) -> AsyncIterator[Books]:
    # A process that gets no core for seconds is a silent ledger to PostgreSQL, which ends its session, and a
    # PostgreSQL that gets none is a slow one. Other tests are about both.
    store = PostgresLedger(books_url, timeout_s=60, silence_s=60)
    assert await store.lead()
    await store.recover()
    await store.open_shards("g", range(SHARDS))
    beside = await asyncpg.connect(books_url)
    yield Books(store, beside)
    await beside.close()
    await store.resign()


async def two_organisations_apart(w: World) -> tuple[int, int]:
    """In different shards, with 1000 units each."""
    first = await w.organisation(1000)
    while True:
        second = await w.organisation(1000)
        if shard_of(first, SHARDS) != shard_of(second, SHARDS):
            return first, second


async def test_an_account_that_somebody_locks_holds_up_its_shard_and_no_other(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        locked, other = await two_organisations_apart(w)
        beside = await asyncpg.connect(books_url)
        transaction = beside.transaction()
        await transaction.start()
        await beside.execute("SELECT FROM accounts WHERE organisation_id = $1 FOR UPDATE", locked)
        waits = asyncio.create_task(ingest.submit(locked, drafts(7), render=render))
        for _ in range(5):
            assert accepted(await ingest.submit(other, drafts(20), render=render)) == 20

        async def posted(organisation_id: int, units: int) -> bool:
            return (await w.directory.balance(organisation_id)).held == units

        await eventually(partial(posted, other, 100))
        assert not waits.done()
        await transaction.rollback()
        await beside.close()
        assert accepted(await waits) == 7
        await eventually(partial(posted, locked, 7))
        await w.clean()


async def test_of_a_shard_that_is_held_up_what_comes_before_is_applied_and_the_rest_later(
    books: Books,
) -> None:
    free, locked = await books.organisation(1, 100), await books.organisation(1, 100)
    apart = await books.organisation(2, 100)
    entries = [
        entry(1, 1, "request", "h", request(free, 1, 10)),
        entry(1, 2, "request", "h", request(locked, 2, 10)),
        entry(1, 3, "request", "h", request(free, 3, 10)),
        entry(2, 1, "request", "h", request(apart, 4, 10)),
    ]
    async with books.beside.transaction():
        await books.beside.execute("SELECT FROM accounts WHERE organisation_id = $1 FOR UPDATE", locked)
        applied = await books.store.apply(entries, decide, 0)
        assert applied.marks == {
            1: StreamMark(StreamId(1, 0), "link1"),
            2: StreamMark(StreamId(1, 0), "link1"),
        }
        assert applied.held_up == {1}
        assert [answer.shard for answer in applied.answers] == [1, 2]
        again = await books.store.apply(entries[1:3], decide, 0)
        assert (again.marks, again.answers, again.held_up) == ({}, [], {1})
    healed = await books.store.apply(entries[1:3], decide, 0)
    assert (healed.marks, healed.held_up) == ({1: StreamMark(StreamId(3, 0), "link3")}, frozenset())
    assert len(healed.answers) == 2


async def test_a_fence_of_forty_thousand_quotas_comes_to_its_end_and_lets_others_in_between(
    books: Books,
) -> None:
    await books.organisations(1, 40_000)
    apart = await books.organisation(2, 1000)
    fence, rounds = entry(1, 1, "fence"), 0
    while True:
        rounds += 1
        ask = entry(2, rounds, "request", "h", request(apart, rounds, 1))
        applied = await books.store.apply([fence, ask], decide, 0)
        assert applied.marks[2].position == StreamId(rounds, 0)
        assert not applied.held_up
        if 1 in applied.marks:
            break
        assert rounds < 60
    assert rounds > 1
    left = await books.beside.fetchrow(
        "SELECT count(*) FILTER (WHERE granted > 0), sum(available) FROM accounts WHERE shard = 1"
    )
    assert tuple(left) == (0, 200_000)
    assert await books.beside.fetchval("SELECT count(*) FROM quotas WHERE holder = 'gone'") == 0
    assert await books.beside.fetchval("SELECT sum(units) FROM journal WHERE movement = 'fence'") == 200_000


async def test_a_fence_comes_to_its_end_also_where_postgres_is_too_slow_for_it(
    books: Books, books_url: str
) -> None:
    await books.organisations(1, 5_000)
    await books.store.resign()
    # The largest step of a fence takes four seconds or more.
    await books.beside.execute("""
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END $$""")
    await books.beside.execute(
        "CREATE TRIGGER slow BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    ledger, failed, applied = PostgresLedger(books_url, timeout_s=1, silence_s=60), 0, 0
    async with asyncio.timeout(240):
        while True:
            try:
                while not await ledger.lead():  # noqa: ASYNC110 - the server drops the lock of the one before
                    await asyncio.sleep(0.01)
                marks = (await ledger.recover()).marks
                while not marks[1].link:
                    marks = marks | (await ledger.apply([entry(1, 1, "fence")], decide, 0)).marks
                    applied += 1
                break
            except Unavailable:
                failed += 1
                await ledger.resign()
    assert failed
    assert applied > 1
    assert await books.beside.fetchval("SELECT sum(available) FROM accounts") == 25_000
    # When it has ended, the next ones may be as large as ever again.
    assert ledger._quotas_max <= 1_000
    await books.beside.execute("DROP FUNCTION slow CASCADE")
    for n in range(2, 100):
        await ledger.apply([entry(1, n, "request", "h", request(1, n, 1))], decide, 0)
    assert ledger._quotas_max == 4_000
    await ledger.resign()


async def test_a_fence_that_was_begun_goes_on_with_another_ledger(books: Books, books_url: str) -> None:
    await books.organisations(1, 10_000)
    assert (await books.store.apply([entry(1, 1, "fence")], decide, 0)).marks == {}
    await books.store.resign()
    second = PostgresLedger(books_url, timeout_s=5)
    async with asyncio.timeout(60):
        while not await second.lead():  # noqa: ASYNC110 - the server drops the first one's lock
            await asyncio.sleep(0.01)
    assert (await second.recover()).marks[1] == StreamMark()
    rounds = 0
    while 1 not in (await second.apply([entry(1, 1, "fence")], decide, 0)).marks:
        rounds += 1
        assert rounds < 10
    await second.resign()
    assert await books.beside.fetchval("SELECT sum(available) FROM accounts") == 50_000
    assert await books.beside.fetchval("SELECT sum(units) FROM journal WHERE movement = 'fence'") == 50_000


async def test_a_fence_frees_what_is_not_locked_and_the_rest_later(books: Books) -> None:
    made = await books.organisations(1, 20)
    async with books.beside.transaction():
        await books.beside.execute("SELECT FROM accounts WHERE organisation_id = $1 FOR UPDATE", made[3])
        applied = await books.store.apply([entry(1, 1, "fence")], decide, 0)
        assert (applied.marks, applied.held_up) == ({}, {1})
        assert await books.beside.fetchval("SELECT sum(available) FROM accounts") == 95
    healed = await books.store.apply([entry(1, 1, "fence")], decide, 0)
    assert healed.marks == {1: StreamMark(StreamId(1, 0), "link1")}
    assert await books.beside.fetchval("SELECT sum(available) FROM accounts") == 100


async def test_a_ledger_that_is_frozen_in_a_transaction_keeps_neither_locks_nor_the_lead(
    books_url: str, books: Books
) -> None:
    organisation_id = await books.organisation(1, 100)
    await books.store.resign()
    frozen = PostgresLedger(books_url, timeout_s=5, silence_s=0.3)
    standby = PostgresLedger(books_url, timeout_s=5)
    async with asyncio.timeout(60):
        while not await frozen.lead():  # noqa: ASYNC110 - the server drops the first one's lock
            await asyncio.sleep(0.01)
        speaking, connection = frozen._speaking, cast(Any, frozen._connection)
        assert speaking is not None
        speaking.cancel()
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM accounts FOR UPDATE")
        # It says nothing more: granted once PostgreSQL has ended its session.
        await books.beside.execute(
            "UPDATE accounts SET topped_up = topped_up + 1, available = available + 1"
            " WHERE organisation_id = $1", organisation_id,
        )  # fmt: skip
        while not await standby.lead():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    await standby.resign()
    await frozen.resign()


async def test_a_step_is_two_statements_however_much_it_writes(books: Books) -> None:
    """One that reads and one that writes: a leader far from PostgreSQL waits for each."""
    made = await books.organisations(1, 300)
    entries = [entry(1, n, "request", "h", request(o, n, 5)) for n, o in enumerate(made, 1)]
    # The first step of a session asks for the types too.
    await books.store.apply([entry(2, 1, "fence")], decide, 0)
    statements: list[str] = []
    connection: Any = books.store._connection
    connection.add_query_logger(lambda record: statements.append(record.query))
    applied = await books.store.apply(entries, decide, 1)
    assert len(applied.answers) == 300
    rows = await books.beside.fetch("SELECT number FROM waiting_requests ORDER BY id")
    assert [row[0] for row in rows] == list(range(1, 301))
    assert len(statements) == 2, statements
