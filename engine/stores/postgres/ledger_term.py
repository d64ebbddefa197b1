"""The proof, in each transaction of a ledger, that it leads and that its entries are the next ones.

The advisory lock chooses a leader, but it cannot be relied on alone: behind a pooler two sessions can
have it, and after a failover the lock is on another server. So a ledger that reads the books counts the
term up, and each of its transactions begins with this proof, before anything is decided:

- the term is still its own: nobody has read the books since in order to lead;
- the books stand where its first entry of each shard follows, so an entry counts once, also when
  PostgreSQL itself went back behind an open connection.

The rows stay locked until the transaction ends, so the transactions of two ledgers never overlap.
Killed or frozen with the lock: it is free with the session, see `engine.stores.postgres.ledger`.
"""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from engine.credit.ledger_records import StreamMark, UsageEntry
from engine.credit.posting import next_after
from engine.errors import Unavailable
from engine.stream_id import StreamId

_TAKE = "UPDATE ledger_term SET term = term + 1 RETURNING term"
_TERM = "SELECT term FROM ledger_term FOR UPDATE"
_TERM_AND_MARKS = """
SELECT term, shard, position, link FROM ledger_term, shards
WHERE shard = ANY($1::int[]) ORDER BY shard FOR UPDATE"""


async def take_term(connection: asyncpg.Connection) -> int:
    """Begin a new term; from now on no transaction of another ledger commits. Waits for one under way."""
    term: int = await connection.fetchval(_TAKE)
    return term


async def prove_term(connection: asyncpg.Connection, term: int) -> None:
    """Lock the term until this transaction ends. Raises Unavailable when it is not `term`."""
    _compare(await connection.fetchval(_TERM), term)


async def prove_next(connection: asyncpg.Connection, term: int, first: Mapping[int, UsageEntry]) -> None:
    """Lock the term and the shards. `first`: by shard, the first of the entries that are to be applied.

    Raises Unavailable when the term is not `term`, or when an entry is not the next one in the books.
    """
    marks = await _locked_marks(connection, term, list(first))
    for shard, entry in first.items():
        if shard not in marks or not next_after(marks[shard], entry):
            raise _not_next(shard)


async def prove_mark(connection: asyncpg.Connection, term: int, shard: int, mark: StreamMark) -> None:
    """Lock the term and a shard. Raises Unavailable unless both are as they were read."""
    if (await _locked_marks(connection, term, [shard])).get(shard) != mark:
        raise _not_next(shard)


async def _locked_marks(
    connection: asyncpg.Connection, term: int, shards: list[int]
) -> dict[int, StreamMark]:
    rows = await connection.fetch(_TERM_AND_MARKS, shards)
    if rows:
        _compare(rows[0]["term"], term)
    return {row["shard"]: StreamMark(StreamId.parse(row["position"]), row["link"]) for row in rows}


def _compare(present: int | None, term: int) -> None:
    if present != term:
        raise Unavailable("Another ledger leads: it has read the books after this one.")


def _not_next(shard: int) -> Unavailable:
    return Unavailable(f"The books of shard {shard} do not go on with what this ledger has read.")
