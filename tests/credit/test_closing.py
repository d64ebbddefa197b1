"""A shard whose books are closed while somebody has locked one of its accounts."""

from __future__ import annotations

import asyncio
from functools import partial

import asyncpg
import msgspec
from structlog.testing import capture_logs

from engine.credit.ledger_records import LostSpan, RemainingUnits, StreamMark
from engine.credit.posting import close_books, decide
from engine.shards import shard_of
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.redis.link import load_functions
from engine.stream_id import STREAM_START
from tests.credit.test_credit import SHARDS, World, eventually, world
from tests.credit.test_locked_accounts import Books, books, entry, request
from tests.credit.test_rewinds import served

__all__ = ["books"]

_LOCK = "SELECT FROM accounts WHERE organisation_id = $1 FOR UPDATE"


async def three_organisations(w: World) -> tuple[int, int, int]:
    """Two of one shard and one of another, with 1000 units each."""
    first = await w.organisation(1000)
    shard = shard_of(first, SHARDS)
    beside = apart = 0
    while not (beside and apart):
        made = await w.organisation(1000)
        beside, apart = (made, apart) if shard_of(made, SHARDS) == shard else (beside, made)
    return first, beside, apart


async def test_one_locked_account_of_a_lost_shard_holds_up_no_other_account_and_no_other_shard(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        locked, beside, apart = await three_organisations(w)
        for organisation_id in (locked, beside, apart):
            assert await served(ingest, organisation_id, 10)

        async def held(organisation_id: int, units: int) -> bool:
            return (await w.directory.balance(organisation_id)).held == units

        await eventually(partial(held, locked, 10))
        operator = await asyncpg.connect(books_url, server_settings={"application_name": "operator"})
        transaction = operator.transaction()
        await transaction.start()
        await operator.execute(_LOCK, locked)
        with capture_logs() as lines:
            await w.link.call("FLUSHALL")
            await load_functions(w.link)
            for organisation_id in (beside, apart):
                await eventually(partial(served, ingest, organisation_id, 3))
                await eventually(partial(held, organisation_id, 3))
        waits = [line for line in lines if line["event"].startswith("accounts of a closed shard are locked")]
        assert [line["shard"] for line in waits] == [shard_of(locked, SHARDS)]
        assert f"process {operator.get_server_pid()} (operator)" in waits[0]["held_up_by"]
        # Nothing of the locked account is booked yet, and an audit does not say that units are missing.
        assert await held(locked, 10)
        await w.clean(lost=True, waits=("held",))
        # What it sends waits, or is answered by 503 once.
        asks = asyncio.create_task(served(ingest, locked, 7))
        await asyncio.wait({asks}, timeout=0.3)
        assert not (asks.done() and asks.result())
        await transaction.rollback()
        await operator.close()
        if not await asks:
            await eventually(partial(served, ingest, locked, 7))
        await eventually(partial(held, locked, 7))
        await w.clean(lost=True)


async def test_what_a_ledger_left_unclosed_is_closed_by_the_next_once(books: Books, books_url: str) -> None:
    # Each has 5 units that a holder has which is gone.
    locked, free = await books.organisations(1, 2)
    operator = await asyncpg.connect(books_url)
    transaction = operator.transaction()
    await transaction.start()
    await operator.execute(_LOCK, locked)
    left = {locked: RemainingUnits(2, 2), free: RemainingUnits(3, 3)}
    by = await books.store.close_shard(
        "g2", StreamMark(), lambda b: close_books(b, 1, left), LostSpan(1, "redis", "lost", STREAM_START)
    )
    assert f"process {operator.get_server_pid()}" in by
    assert (await books.store.close_accounts()).held_up_by == by
    # An entry that concerns it waits; others of its shard go on.
    ask = entry(1, 1, "request", "h", request(free, 1, 1))

    first = msgspec.structs.replace(ask, follows="g2")
    # Its requests wait, and hold up nobody; what moves its units does.
    second = entry(1, 2, "request", "h", request(locked, 2, 1))
    third = entry(1, 3, "fence", "gone")
    settled = entry(1, 4, "settle", "", msgspec.msgpack.encode([free, 1, 0, locked, 1, 0]))
    applied = await books.store.apply([first, second, third, settled], decide, 0)
    assert (applied.marks[1].position.ms, applied.held_up) == (3, {1})
    assert [answer.holder for answer in applied.answers] == ["h"]
    await books.store.resign()
    other = PostgresLedger(books_url, timeout_s=5)
    assert await other.lead()
    await other.recover()
    await transaction.rollback()
    await operator.close()
    (granted,) = (await other.close_accounts()).answers
    assert msgspec.msgpack.decode(granted.payload)[:3] == ["grant", 2, locked]
    assert (await other.close_accounts()).answers == []
    rows = await books.beside.fetch(
        "SELECT organisation_id, available, granted, held FROM accounts ORDER BY organisation_id"
    )
    assert [tuple(row) for row in rows] == [(locked, 2, 1, 2), (free, 1, 1, 3)]
    assert await books.beside.fetchval("SELECT count(*) FROM unclosed") == 0
    causes = "SELECT DISTINCT reference FROM journal WHERE organisation_id = $1"
    assert [tuple(r) for r in await books.beside.fetch(causes, locked)] == [("lost",)]
    assert (await other.apply([settled], decide, 0)).held_up == frozenset()
    await other.resign()


async def test_what_a_ledger_that_does_not_know_of_it_books_meanwhile_stays(books: Books) -> None:
    """An older version leads between; what was left to close is closed by the difference."""
    (organisation_id,) = await books.organisations(1, 1)
    accounts = "UPDATE accounts SET granted = 0, held = 5 WHERE organisation_id = $1"
    await books.beside.execute("DELETE FROM quotas")
    await books.beside.execute(accounts, organisation_id)
    transaction = books.beside.transaction()
    await transaction.start()
    await books.beside.execute(_LOCK, organisation_id)
    # Of the 5 units that it holds, the messages of 3 are gone.
    left = {organisation_id: RemainingUnits(2, 0)}
    await books.store.close_shard(
        "g2", StreamMark(), lambda b: close_books(b, 1, left), LostSpan(1, "redis", "lost", STREAM_START)
    )
    await books.beside.execute("UPDATE accounts SET held = held - 1, captured = captured + 1")
    await transaction.commit()
    await books.store.close_accounts()
    row = await books.beside.fetchrow("SELECT available, held, captured FROM accounts")
    assert tuple(row) == (3, 1, 1)
