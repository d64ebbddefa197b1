"""The table `losses`: what was lost when Redis or PostgreSQL went back, one row for each shard.

The ledger writes a row when it closes or marks a shard. One of Redis is settled by the audit that takes its
difference up, one of PostgreSQL when the usage that it lost is rebuilt (`rebuilt_usage.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from engine.credit.ledger_records import Books, LostSpan
from engine.credit.rebuilding import OpenLoss
from engine.credit.uncharged import Uncharged

_COUNT = "UPDATE shards SET losses = losses + 1, lost_at = now() WHERE shard = ANY($1::int[])"
_SAVE = """
INSERT INTO losses (shard, who, cause, from_ms, until_ms, had_usage, released, reopened)
SELECT n.shard, n.who, n.cause, n.from_ms, coalesce(n.until_ms, (extract(epoch FROM now()) * 1000)::bigint),
       $6, $7, $8
FROM unnest($1::int[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
    AS n (shard, who, cause, from_ms, until_ms)"""

_OPEN = """
SELECT id, at, shard, who, from_ms, until_ms, had_usage FROM losses WHERE settled_at IS NULL ORDER BY id"""
# The newest of a shard has what was found for all of them.
_SETTLE = """
UPDATE losses SET settled_at = now(), uncharged_units = CASE WHEN last THEN $2::bigint ELSE 0 END,
    uncharged_messages = CASE WHEN last THEN $3::bigint ELSE 0 END,
    gone_messages = CASE WHEN last THEN $4::bigint ELSE 0 END
FROM (SELECT id, id = max(id) OVER () AS last FROM losses WHERE id = ANY($1::bigint[])) AS n
WHERE losses.id = n.id"""

# Losses of Redis are spoken of for so many days.
_RECENT_DAYS = 7
_IN_ALL = f"""
SELECT count(DISTINCT shard) FILTER (WHERE settled_at IS NULL AND who <> 'redis')::int,
       coalesce(sum(uncharged_units) FILTER (WHERE at > now() - interval '{_RECENT_DAYS} days'), 0)::bigint,
       coalesce(sum(uncharged_messages) FILTER (WHERE at > now() - interval '{_RECENT_DAYS} days'), 0)::bigint
FROM losses"""  # noqa: S608 - built from the constant above


async def losses_in_all(connection: asyncpg.Connection) -> tuple[int, int, int]:
    """(Of how many shards usage waits to be rebuilt; of losses of Redis of the last days, the units that
    were sent and not charged, and how many messages that were as far as is known)."""
    shards, units, messages = await connection.fetchrow(_IN_ALL)
    return shards, units, messages


async def open_losses_of(connection: asyncpg.Connection) -> list[OpenLoss]:
    """The losses that nothing was done about yet, oldest first."""
    return [OpenLoss(*row) for row in await connection.fetch(_OPEN)]


async def settle_losses(connection: asyncpg.Connection, losses: Sequence[OpenLoss], found: Uncharged) -> None:
    """Note what an audit has found of losses of Redis of one shard."""
    ids = [loss.id for loss in losses]
    await connection.execute(_SETTLE, ids, found.units, found.messages, found.gone_messages)


async def save_losses(connection: asyncpg.Connection, spans: Sequence[LostSpan]) -> None:
    """Write what shards have lost whose books need not be closed."""
    await _save(connection, spans, had_usage=True, released=0, reopened=0)


async def save_loss(connection: asyncpg.Connection, span: LostSpan, books: Books, *, had_usage: bool) -> None:
    """Write what a shard has lost whose books are closed in this transaction, with the units that it moved.

    `had_usage`: whether its accounts held or were charged units before.
    """
    moved = {"release": 0, "reopen": 0}
    for (_, _, movement), units in books.movements.items():
        if movement in moved:
            moved[movement] += units
    await _save(connection, [span], had_usage=had_usage, released=moved["release"], reopened=moved["reopen"])


async def _save(
    connection: asyncpg.Connection,
    spans: Sequence[LostSpan],
    *,
    had_usage: bool,
    released: int,
    reopened: int,
) -> None:
    rows = [(s.shard, s.who, s.cause, s.since.ms, s.until and s.until.ms) for s in spans]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 5
    await connection.execute(_SAVE, *columns, had_usage, released, reopened)
    # An audit then takes the activity of these shards up anew.
    await connection.execute(_COUNT, [s.shard for s in spans if s.who == "redis"])
