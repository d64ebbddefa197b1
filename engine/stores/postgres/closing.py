"""Closes the books of a shard: all its accounts in one transaction, but for those that others have locked.

A shard may have very many accounts. So it is decided in a thread of its own, while the caller's loop breaks
the silence of the session.

Locks of others. A lock is waited for as long as in a step. Then the transaction is rolled back, so that it
holds up nobody, and the shard is closed without the accounts that are locked. What their close needs stands
in the table `unclosed`; the ledger closes each when its lock is free (`close_account`), and books nothing of
it before. So the other accounts of the shard, and the other shards, wait for nobody.

Killed before the commit: nothing happened, and the next ledger closes the shard. Killed after it: the rows
in `unclosed` say what is left. Frozen: PostgreSQL ends the session, and with it the transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg
import msgspec

from engine.credit.ledger_records import (
    Account,
    Applied,
    Books,
    LostSpan,
    StoredAnswer,
    StreamMark,
    Unclosed,
    WaitingRequest,
)
from engine.credit.posting import close_account
from engine.errors import Unavailable
from engine.stores.postgres.going_back import adrift_of_shard
from engine.stores.postgres.ledger_step import Step, Written, changes, parts, read_step, write_step
from engine.stores.postgres.ledger_term import compare_term, not_next
from engine.stores.postgres.locks import Locked, find_locked
from engine.stores.postgres.losses import save_loss

# How long it may take to read all accounts of a shard that is closed, seconds.
_CLOSE_S = 120.0
# How many of them are written by one statement.
_CLOSE_ACCOUNTS = 10_000
# How often it is decided anew without what was found locked.
_DECISIONS_MAX = 3

_ORGANISATIONS_OF_SHARD = "SELECT organisation_id FROM accounts WHERE shard = $1"
_CLOSE_SHARD = """
UPDATE shards SET former = array_append(former, generation), generation = $2, delivered = 0
WHERE shard = $1"""
_FORGET = "DELETE FROM unclosed WHERE shard = $1"
_SAVE = """
INSERT INTO unclosed (organisation_id, shard, held, news, reopens, booked, cause)
SELECT n.*, $7
FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::bool[], $6::bigint[]) AS n"""
_READ = "SELECT organisation_id, shard, held, news, reopens, booked FROM unclosed ORDER BY organisation_id"
_TAKE = "DELETE FROM unclosed WHERE organisation_id = $1 RETURNING cause"


async def read_unclosed(connection: asyncpg.Connection) -> dict[int, Unclosed]:
    """The accounts that were locked when their shard was closed, by organisation."""
    return {row[0]: Unclosed(*row) for row in await connection.fetch(_READ)}


async def close_books_of(
    session: Callable[[], AbstractAsyncContextManager[asyncpg.Connection]],
    term: int,
    span: LostSpan,
    generation: str,
    mark: StreamMark,
    waiting: Mapping[int, Sequence[WaitingRequest]],
    decide: Callable[[Books], None],
) -> tuple[Books, str]:
    """Close the shard of `span` in one transaction: see `LedgerStore.close_shard`.

    `session` gives the connection for a block, and breaks its silence outside. Returns the books with all
    that `decide` changed, and who has locked the accounts that were left out, "" when none were. Raises
    Unavailable when another ledger leads, the shard does not stand at `mark`, or the row of the term or of
    the shard is locked, or a whole table.
    """
    shard = span.shard
    async with session() as connection:
        rows = await connection.fetch(_ORGANISATIONS_OF_SHARD, shard, timeout=_CLOSE_S)
        step = await read_step(connection, [shard], [row[0] for row in rows], timeout_s=_CLOSE_S)
        adrift = await adrift_of_shard(connection, shard)
    compare_term(step.term, term)
    if step.marks.get(shard) != mark:
        raise not_next([shard])
    locked = Locked()
    for _ in range(_DECISIONS_MAX):
        books = step.books(waiting, unclosed=locked.organisations)
        books.adrift = adrift
        writes = await asyncio.to_thread(_decided, books, term, step, span, generation, decide)
        async with session() as connection:
            try:
                await _write(connection, writes, books, span, generation, had_usage=_had_usage(step))
            except asyncpg.LockNotAvailableError:
                locked = await find_locked(connection, [shard], step.accounts)
                if locked.shards:
                    raise
                continue
        return books, locked.by
    raise Unavailable(f"Others lock one account of shard {shard} after another: {locked.by}.")


def _decided(
    books: Books,
    term: int,
    step: Step,
    span: LostSpan,
    generation: str,
    decide: Callable[[Books], None],
) -> list[tuple[Books, list[Any]]]:
    """Decide, and give what is to be written, in parts; the last one moves the shard's mark."""
    decide(books)
    books.unclosed = [
        msgspec.structs.replace(u, booked=Account(*step.accounts[u.organisation_id]).held)
        for u in books.unclosed
    ]
    marks = {span.shard: StreamMark(link=generation)}
    before = Written(step.marks, marks, span.cause)
    *others, last = parts(books, _CLOSE_ACCOUNTS)
    writes = [(part, changes(term, step, part, before)) for part in others]
    return [*writes, (last, changes(term, step, last, Written(marks, marks, span.cause)))]


async def _write(
    connection: asyncpg.Connection,
    writes: Sequence[tuple[Books, list[Any]]],
    books: Books,
    span: LostSpan,
    generation: str,
    *,
    had_usage: bool,
) -> None:
    async with connection.transaction():
        for part, arguments in writes:
            await write_step(connection, arguments, part)
        await connection.execute("DELETE FROM answers WHERE shard = $1", span.shard)
        await connection.execute(_CLOSE_SHARD, span.shard, generation)
        await connection.execute(_FORGET, span.shard)
        if books.unclosed:
            rows = list(map(msgspec.structs.astuple, books.unclosed))
            await connection.execute(_SAVE, *map(list, zip(*rows, strict=True)), span.cause)
        await save_loss(connection, span, books, had_usage=had_usage)


def _had_usage(step: Step) -> bool:
    """Whether any account holds or was charged units: then the recorded events began before the loss."""
    return any(held or captured for _, _, _, held, captured, *_ in step.accounts.values())


async def close_free_accounts(
    connection: asyncpg.Connection,
    term: int,
    unclosed: dict[int, Unclosed],
    waiting: dict[int, list[WaitingRequest]],
) -> Applied:
    """Close those of the accounts in `unclosed` that are not locked any more, each in a transaction.

    They leave `unclosed`, and those of their requests in `waiting` that are answered leave that. Returns the
    answers, the other accounts, and who has locked them. Raises Unavailable, and asyncpg's
    LockNotAvailableError when the row of the term is locked, or a whole table.
    """
    locked = await find_locked(connection, [], unclosed)
    answers: list[StoredAnswer] = []
    for later in list(unclosed.values()):
        organisation_id = later.organisation_id
        if organisation_id in locked.organisations:
            continue
        step = await read_step(connection, [later.shard], [organisation_id])
        compare_term(step.term, term)
        books = step.books({organisation_id: waiting.get(organisation_id, [])})
        close_account(books, later)
        try:
            async with connection.transaction():
                cause = await connection.fetchval(_TAKE, organisation_id)
                if cause is None:
                    raise not_next([later.shard])
                written = Written(step.marks, step.marks, cause)
                answers += await write_step(connection, changes(term, step, books, written), books)
        except asyncpg.LockNotAvailableError:
            locked = await find_locked(connection, [], unclosed)
            continue
        del unclosed[organisation_id]
        waiting[organisation_id] = books.waiting[organisation_id]
    left: dict[int, list[int]] = {}
    for later in unclosed.values():
        left.setdefault(later.shard, []).append(later.organisation_id)
    return Applied(answers, {}, held_up_by=locked.by, unclosed=left)
