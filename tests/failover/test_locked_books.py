"""Transactions that somebody leaves open on rows of the books: they hold up what they lock, and are named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from engine.credit.posting import decide
from engine.errors import Unavailable
from engine.stores.postgres import ledger as postgres_ledger
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.postgres.ledger_step import Step, read_step
from engine.stores.postgres.locks import blocker
from engine.stores.postgres.pool import Pool
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.status import StatusReader
from tests.credit.test_credit import SHARDS, accepted, drafts, eventually, render, world
from tests.credit.test_locked_accounts import Books, books, entry, request

__all__ = ["books"]

ROWS = {
    "account": "SELECT FROM accounts WHERE organisation_id = {o} FOR UPDATE",
    "account changed": "UPDATE accounts SET low_balance = 5 WHERE organisation_id = {o}",
    "quota": "SELECT FROM quotas WHERE organisation_id = {o} FOR UPDATE",
    "new quota": "INSERT INTO quotas (organisation_id, holder, units) VALUES ({o}, 'h', 0)",
    "shard": "SELECT FROM shards WHERE shard = 1 FOR UPDATE",
}


@asynccontextmanager
async def left_open(url: str, statement: str) -> AsyncIterator[int]:
    """The process in PostgreSQL of a transaction that has executed `statement` and stays open."""
    connection = await asyncpg.connect(url, server_settings={"application_name": "operator"})
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(statement)
    yield connection.get_server_pid()
    if not connection.is_closed():
        await transaction.rollback()
        await connection.close()


@pytest.mark.parametrize("locked", ROWS)
async def test_a_row_that_is_locked_holds_up_its_shard_and_is_named(
    books: Books, books_url: str, locked: str
) -> None:
    mine, apart = await books.organisation(1, 100), await books.organisation(2, 100)
    ask = entry(1, 1, "request", "h", request(mine, 1, 5))
    if locked == "quota":
        mine, ask = (await books.organisations(1, 1))[0], entry(1, 1, "fence")
    others = [entry(2, n, "request", "h", request(apart, n, 10)) for n in (1, 2)]
    async with left_open(books_url, ROWS[locked].format(o=mine)) as pid:
        for other in others:
            applied = await books.store.apply([ask, other], decide, 0)
            assert set(applied.marks) == {2}
            assert applied.held_up == {1}
            assert f"process {pid} (operator) of role sms" in applied.held_up_by
            assert "since" in applied.held_up_by
    healed = await books.store.apply([ask], decide, 0)
    assert (set(healed.marks), healed.held_up, healed.held_up_by) == ({1}, frozenset(), "")


@pytest.mark.parametrize(
    "statement", ["SELECT FROM ledger_term FOR UPDATE", "LOCK TABLE accounts", "LOCK TABLE journal"]
)
async def test_who_locks_what_everybody_needs_is_named(books: Books, books_url: str, statement: str) -> None:
    ask = entry(1, 1, "request", "h", request(await books.organisation(1, 100), 1, 10))
    async with left_open(books_url, statement) as pid:
        with pytest.raises(
            Unavailable, match=rf"process {pid} \(operator\) of role sms.*idle in transaction"
        ):
            await books.store.apply([ask], decide, 0)
        assert f"process {pid} (operator)" in await blocker(books.beside)
        # It is not old yet.
        assert await blocker(books.beside, 60) == ""
    assert len((await books.store.apply([ask], decide, 0)).answers) == 1
    assert await blocker(books.beside) == ""


async def test_a_ledger_that_waits_for_the_term_says_so_once_and_goes_on(
    streams_url: str, books_url: str
) -> None:
    class Trying(PostgresLedger):
        tried = 0

        async def lead(self) -> bool:
            Trying.tried += 1
            return await super().lead()

    with capture_logs() as lines:
        async with world(streams_url, books_url) as w:
            await w.ledger(store=Trying)
            ingest, _ = await w.holder("h1")
            org = await w.organisation(1000)
            async with left_open(books_url, "SELECT FROM ledger_term FOR UPDATE") as pid:
                waits = asyncio.create_task(ingest.submit(org, drafts(7), render=render))

                async def tried_often() -> bool:
                    return Trying.tried > 3

                await eventually(tried_often)
                with pytest.raises(Unavailable, match="cannot be looked up now"):
                    await waits

            async def served() -> bool:
                try:
                    return accepted(await ingest.submit(org, drafts(7), render=render)) == 7
                except Unavailable:
                    return False

            await eventually(served)
            await w.clean()
    reasons = [line["reason"] for line in lines if line["event"] == "ledger waits"]
    assert len(reasons) == 1, reasons
    assert f"process {pid} (operator)" in reasons[0]


def after_reading(monkeypatch: pytest.MonkeyPatch, do: Callable[[], Awaitable[object]]) -> None:
    """Let `do` happen when the ledger has read and has not written."""

    async def read(*arguments: Any) -> Step:
        step = await read_step(*arguments)
        await do()
        return step

    monkeypatch.setattr(postgres_ledger, "read_step", read)


async def test_a_top_up_while_the_ledger_decides_waits_for_nothing_and_counts(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    organisation_id = await books.organisation(1, 100)
    add = "topped_up = topped_up + 50, available = available + 50"
    top_up = f"UPDATE accounts SET {add} WHERE organisation_id = $1"
    after_reading(monkeypatch, partial(books.beside.execute, top_up, organisation_id))
    await books.store.apply([entry(1, 1, "request", "h", request(organisation_id, 1, 40))], decide, 0)
    row = await books.beside.fetchrow("SELECT topped_up, available, granted FROM accounts")
    assert tuple(row) == (150, 110, 40)


@pytest.mark.parametrize("change", ["available = 10, captured = 90", "available = 10, topped_up = 10"])
async def test_an_account_that_somebody_changes_by_hand_meanwhile_is_decided_anew(
    books: Books, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    organisation_id = await books.organisation(1, 100)
    asks = [entry(1, 1, "request", "h", request(organisation_id, 1, 40))]
    by_hand = f"UPDATE accounts SET {change} WHERE organisation_id = $1"
    with monkeypatch.context() as patched:
        after_reading(patched, partial(books.beside.execute, by_hand, organisation_id))
        with pytest.raises(Unavailable, match="40001"):
            await books.store.apply(asks, decide, 0)
    await books.store.recover()
    refused = (await books.store.apply(asks, decide, 0)).answers[0]
    assert msgspec.msgpack.decode(refused.payload)[0] == "refusal"
    assert await books.beside.fetchval("SELECT count(*) FROM journal WHERE movement = 'grant'") == 0


async def test_a_step_that_is_not_written_leaves_nothing_behind(
    books: Books, books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that had to wait for a recall is decided twice, and stands in the line once."""
    mine = (await books.organisations(1, 1))[0]
    async with left_open(books_url, ROWS["shard"]):
        ask = entry(1, 1, "request", "h", request(mine, 1, 5))
        assert (await books.store.apply([ask], decide, 0)).held_up == {1}
    (recall,) = (await books.store.apply([ask], decide, 0)).answers
    assert (recall.holder, msgspec.msgpack.decode(recall.payload)[0]) == ("gone", "recall")
    assert await books.beside.fetchval("SELECT count(*) FROM waiting_requests") == 1
    assert [len(line) for line in (await books.store.recover()).waiting.values()] == [1]


async def test_the_status_names_a_transaction_that_keeps_locks(streams_url: str, books_url: str) -> None:
    async with world(streams_url, books_url) as w:
        pool = await Pool.connect(books_url)
        w.stack.push_async_callback(pool.close)
        reader = StatusReader(pool, w.link, RedisActivityStream(streams_url, SHARDS), SHARDS)
        await w.organisation(100)
        async with left_open(books_url, "SELECT FROM accounts FOR UPDATE") as pid:

            async def named() -> bool:
                return f"process {pid} (operator)" in (await reader.ledger()).held_up_by

            await eventually(named)
        assert (await reader.ledger()).held_up_by == ""
