"""The proof, in each transaction of a ledger, that it leads and that its entries are the next ones.

The advisory lock chooses a leader, but it cannot be relied on alone: behind a pooler two sessions can
have it, and after a failover the lock is on another server. So a ledger that reads the books counts the
term up. It compares before it decides, and each of its transactions begins with the same proof under lock
(`write_books`, or `prove_term`):

- the term is still its own: nobody has read the books since in order to lead;
- the books stand where its first entry of each shard follows, so an entry counts once, also when
  PostgreSQL itself went back behind an open connection.

The rows stay locked until the transaction ends, so the transactions of two ledgers never overlap.
Killed or frozen with the lock: it is free with the session, see `engine.stores.postgres.ledger`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import asyncpg

from engine.credit.ledger_records import StreamMark, UsageEntry
from engine.credit.posting import next_after
from engine.errors import Unavailable

_TAKE = "UPDATE ledger_term SET term = term + 1 RETURNING term"
_TERM = "SELECT term FROM ledger_term FOR UPDATE"


async def take_term(connection: asyncpg.Connection) -> int:
    """Begin a new term; from now on no transaction of another ledger commits. Waits for one under way."""
    term: int = await connection.fetchval(_TAKE)
    return term


async def prove_term(connection: asyncpg.Connection, term: int) -> None:
    """Lock the term until this transaction ends. Raises Unavailable when it is not `term`."""
    compare_term(await connection.fetchval(_TERM), term)


def compare_term(present: int, term: int) -> None:
    """Raise Unavailable when the term that was read is not `term`."""
    if present != term:
        raise another_leads()


def compare_next(marks: Mapping[int, StreamMark], first: Mapping[int, UsageEntry]) -> None:
    """Raise Unavailable unless the first entry of each shard is the next one after its mark."""
    for shard, entry in first.items():
        if shard not in marks or not next_after(marks[shard], entry):
            raise not_next([shard])


def another_leads() -> Unavailable:
    """The reason to step down when the term is another's."""
    return Unavailable("Another ledger leads: it has read the books after this one.")


def not_next(shards: Iterable[int]) -> Unavailable:
    """The reason to step down when the books of one of these shards stand elsewhere."""
    named = ", ".join(map(str, sorted(shards)))
    return Unavailable(f"The books of shard {named} do not go on with what this ledger has read.")
