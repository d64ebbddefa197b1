"""Two ledgers that both believe they lead, over real servers: nothing is booked twice.

The lock that chooses one leader does not hold here, as with a pooler that gives each transaction another
session. What keeps the books is the proof in each transaction.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from engine.credit.ledger_records import Books, LostSpan, StreamMark
from engine.credit.posting import decide
from engine.errors import Unavailable
from engine.stores.postgres.ledger import PostgresLedger
from engine.stream_id import STREAM_START, StreamId
from tests.credit.test_credit import SHARDS, accepted, drafts, eventually, render, world
from tests.credit.test_locked_accounts import Books as BooksBeside
from tests.credit.test_locked_accounts import books, entry, request

_LOST = LostSpan(1, "redis", "lost", STREAM_START)

__all__ = ["books"]


class Unlocked(PostgresLedger):
    """A ledger whose lock is lost as soon as it has it."""

    async def lead(self) -> bool:
        leads = await super().lead()
        connection: Any = self._connection
        await connection.execute("SELECT pg_advisory_unlock_all()")
        return leads


async def second_of(url: str) -> PostgresLedger:
    """A ledger that leads although another does."""
    second = Unlocked(url, timeout_s=5)
    assert await second.lead()
    return second


async def unlock(store: PostgresLedger) -> None:
    connection: Any = store._connection
    await connection.execute("SELECT pg_advisory_unlock_all()")


async def test_two_ledgers_that_both_lead_book_nothing_twice(streams_url: str, books_url: str) -> None:
    with capture_logs() as lines:
        async with world(streams_url, books_url) as w:
            await w.ledger(store=Unlocked)
            await w.ledger(store=Unlocked)
            first, _ = await w.holder("h1")
            second, _ = await w.holder("h2")
            organisations = [await w.organisation(400) for _ in range(6)]

            async def client(organisation_id: int, turn: int) -> int:
                units = 0
                for _ in range(10):
                    ingest = (first, second)[turn % 2]
                    units += accepted(await ingest.submit(organisation_id, drafts(5), render=render))
                    turn += 1
                return units

            sent = await asyncio.gather(*[client(o, turn) for o in organisations for turn in range(2)])
            assert sent == [50] * len(sent)

            async def posted() -> bool:
                return all([(await w.directory.balance(o)).held == 100 for o in organisations])

            await eventually(posted)
            connection = await asyncpg.connect(books_url)
            booked = await connection.fetchval("SELECT sum(units) FROM journal WHERE movement = 'hold'")
            await connection.close()
            assert booked == 100 * len(organisations)
            await w.clean()
    reasons = {line["reason"] for line in lines if line["event"] == "ledger waits"}
    assert "Another ledger leads: it has read the books after this one." in reasons


async def test_whoever_read_the_books_last_writes_them_and_the_other_steps_down(
    books: BooksBeside, books_url: str
) -> None:
    organisation_id = await books.organisation(1, 100)
    ask = [entry(1, 1, "request", "h", request(organisation_id, 1, 10))]
    await unlock(books.store)
    second = await second_of(books_url)
    await second.recover()
    with pytest.raises(Unavailable, match="Another ledger leads"):
        await books.store.apply(ask, decide, 0)
    assert len((await second.apply(ask, decide, 0)).answers) == 1
    for write in (
        books.store.mark_lost([_LOST]),
        books.store.leave_out_ids(1),
        books.store.open_shards("h", [SHARDS]),
        books.store.close_shard("h", StreamMark(), lambda _: None, _LOST),
    ):
        with pytest.raises(Unavailable, match="Another ledger leads"):
            await write
    row = await books.beside.fetchrow("SELECT generation, losses FROM shards WHERE shard = 1")
    assert tuple(row) == ("g", 0)
    assert await books.beside.fetchval("SELECT granted FROM accounts") == 10
    await second.resign()


async def test_entries_that_the_books_do_not_go_on_with_are_not_applied(books: BooksBeside) -> None:
    """PostgreSQL went back, or had these entries already: each is noticed before anything is decided."""
    organisation_id = await books.organisation(1, 100)
    asks = [entry(1, n, "request", "h", request(organisation_id, n, 10)) for n in (1, 2)]
    decided: list[Any] = []

    def note(books: Books, entries: Any, begun: Any) -> None:
        decided.append(entries)
        decide(books, entries, begun)

    await books.store.apply(asks[:1], note, 0)
    for wrong in (asks[0], msgspec.structs.replace(asks[1], follows="another")):
        with pytest.raises(Unavailable, match="do not go on"):
            await books.store.apply([wrong], note, 0)
    with pytest.raises(Unavailable, match="do not go on"):
        await books.store.close_shard("h", StreamMark(), lambda _: decided.append(None), _LOST)
    assert len(decided) == 1
    assert (await books.store.apply(asks[1:], note, 0)).marks == {1: StreamMark(StreamId(2, 0), "link2")}
