"""Books usage again that PostgreSQL lost, as rebuilt from the recorded activity; lists losses.

Under failure. `book` is one transaction for some organisations. Each has a row in `rebuilt` for the loss, and
one that has it is passed over: so a call that is made again, or at the same time, books nothing twice.
Killed in between: those that are booked stay so, and the next call books the others. What is to be booked was
found before the accounts are locked. That does not matter: all that the ledger books meanwhile is in the
activity too. PostgreSQL goes back once more meanwhile: the loss is not there, or not the last of its shard
any more, and nothing is booked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from engine.credit.laws import Units
from engine.credit.ledger_records import UnbookedUsage
from engine.credit.rebuilding import OpenLoss, span_of, split
from engine.organisations import LossSum, RebuiltUsage
from engine.stores.postgres.going_back import save_unbooked
from engine.stores.postgres.losses import open_losses_of
from engine.stores.postgres.pool import Pool
from engine.stream_id import StreamId

# Organisations that are booked in one transaction.
_CHUNK = 100

_THIS = """
SELECT 1 FROM losses WHERE id = $1 AND at = $2 AND settled_at IS NULL
    AND NOT EXISTS (SELECT FROM losses later WHERE later.shard = losses.shard AND later.id > losses.id
                    AND later.who <> 'redis') FOR SHARE"""
_LOCK = """
SELECT organisation_id, available, granted, low_balance FROM accounts
WHERE organisation_id = ANY($1::bigint[]) ORDER BY organisation_id FOR NO KEY UPDATE"""
_TAKE = """
INSERT INTO rebuilt (loss_id, organisation_id, held, captured, released, messages, unbooked)
SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
ON CONFLICT DO NOTHING RETURNING organisation_id"""
# What is held stays as it is: what is booked is over.
_CHARGE = """
UPDATE accounts a SET available = a.available - n.captured, captured = a.captured + n.captured
FROM unnest($1::bigint[], $2::bigint[]) AS n (organisation_id, captured)
WHERE a.organisation_id = n.organisation_id AND n.captured > 0"""
_JOURNAL = """
INSERT INTO journal (organisation_id, movement, debit, credit, units, shard, reference)
SELECT m.*, $6, $7 FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[])
    AS m (organisation_id, movement, debit, credit, units)
WHERE m.units > 0"""
_LOW = """
INSERT INTO balance_events (shard, organisation_id, event, units)
SELECT $1, n.organisation_id, 'low_balance', n.units
FROM unnest($2::bigint[], $3::bigint[]) AS n (organisation_id, units)"""
# Where Redis went back too, an audit takes up what is left of the difference: see `save_losses`.
_SETTLE = """
WITH settled AS (
    UPDATE losses SET settled_at = now() WHERE id = ANY($1::bigint[]) AND settled_at IS NULL
    RETURNING shard, who, cause, from_ms, at),
counted AS (
    UPDATE shards SET losses = losses + 1, lost_at = now()
    WHERE shard IN (SELECT shard FROM settled WHERE who = 'both' OR $2))
INSERT INTO losses (shard, who, cause, from_ms, until_ms, had_usage)
SELECT shard, 'redis', cause, from_ms, (extract(epoch FROM at) * 1000)::bigint, true FROM settled
WHERE who = 'both' OR $2"""
# Losses that were found together have one cause, and are written within moments of each other.
_LIST = """
SELECT min(l.at), l.who, l.cause, array_agg(DISTINCT l.shard ORDER BY l.shard),
       sum(l.released)::bigint, sum(l.reopened)::bigint, sum(l.uncharged_units)::bigint,
       CASE WHEN bool_or(l.uncharged_units > 0 AND l.uncharged_messages IS NULL) THEN NULL
            ELSE sum(l.uncharged_messages)::bigint END,
       sum(l.gone_messages)::bigint, coalesce(sum(r.units), 0)::bigint, coalesce(sum(r.messages), 0)::bigint,
       count(*) FILTER (WHERE l.settled_at IS NULL AND l.who <> 'redis')::int
FROM losses l LEFT JOIN LATERAL (
    SELECT sum(captured) AS units, sum(messages) AS messages FROM rebuilt WHERE loss_id = l.id) r ON true
GROUP BY l.who, l.cause, date_trunc('minute', l.at) ORDER BY min(l.id) DESC LIMIT $1"""


class ToBook(NamedTuple):
    """What is to be booked of one organisation."""

    organisation_id: int
    units: Units
    messages: int


class LostUsage:
    """The losses in the books, and what is done about them. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def losses(self, limit: int) -> list[LossSum]:
        """At most `limit` losses, the last first."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_LIST, limit)
        return [
            LossSum(
                at=at, who=who, cause=cause, shards=shards, released=released, reopened=reopened,
                uncharged_units=units, uncharged_messages=messages, gone_messages=gone,
                rebuilt_units=rebuilt, rebuilt_messages=rebuilt_messages, to_rebuild=to_rebuild,
            )
            for at, who, cause, shards, released, reopened, units, messages, gone, rebuilt, rebuilt_messages,
            to_rebuild in rows
        ]  # fmt: skip

    async def to_rebuild(self) -> list[OpenLoss]:
        """The losses whose usage waits to be rebuilt, oldest first."""
        async with self._pool.connection() as connection:
            return [loss for loss in await open_losses_of(connection) if loss.of_books]

    async def book(self, loss: OpenLoss, usage: Sequence[ToBook]) -> list[RebuiltUsage]:
        """Book usage that was rebuilt for `loss`, the last of its shard; what this call has booked."""
        booked: list[RebuiltUsage] = []
        for start in range(0, len(usage), _CHUNK):
            async with self._pool.transaction() as connection:
                if await connection.fetchval(_THIS, loss.id, loss.at):
                    booked += await _book(connection, loss, usage[start : start + _CHUNK])
        return booked

    async def settle(self, losses: Sequence[OpenLoss], *, redis_too: bool) -> None:
        """Note that nothing more is to be rebuilt for these losses; done again, it changes nothing.

        `redis_too`: Redis has lost data as well, so an audit takes up what is left of the difference.
        """
        async with self._pool.transaction() as connection:
            await connection.execute(_SETTLE, [loss.id for loss in losses], redis_too)


async def _book(connection: Any, loss: OpenLoss, usage: Sequence[ToBook]) -> list[RebuiltUsage]:
    """Book the usage of those organisations that have none for this loss yet."""
    accounts = {row[0]: row for row in await connection.fetch(_LOCK, [u.organisation_id for u in usage])}
    parts = {}
    for u in usage:
        account = accounts.get(u.organisation_id)
        parts[u.organisation_id] = split(u.units, account["available"] if account else None)
    rows = [(u.organisation_id, *u.units, u.messages, parts[u.organisation_id][1].captured) for u in usage]
    taken = {row[0] for row in await connection.fetch(_TAKE, loss.id, *_columns(rows, 6))}
    booked = {o: parts[o][0] for o in taken}
    charged = [(o, units.captured) for o, units in booked.items()]
    await connection.execute(_CHARGE, *_columns(charged, 2))
    movements = [movement for o, units in booked.items() for movement in _movements(o, units)]
    await connection.execute(_JOURNAL, *_columns(movements, 5), loss.shard, _reference(loss))
    await save_unbooked(connection, [_set_aside(loss, o, parts[o][1]) for o in taken if any(parts[o][1])])
    low = []
    for o, captured in charged:
        if o in accounts and (threshold := accounts[o]["low_balance"]) is not None:
            before = accounts[o]["available"] + accounts[o]["granted"]
            if before - captured < threshold <= before:
                low.append((o, before - captured))
    await connection.execute(_LOW, loss.shard, *_columns(low, 2))
    return [
        rebuilt_of(loss.shard, u, parts[u.organisation_id][1]) for u in usage if u.organisation_id in taken
    ]


def rebuilt_of(shard: int, usage: ToBook, unbooked: Units) -> RebuiltUsage:
    """The usage as an operator sees it; `unbooked` is what the organisation lacks units for."""
    return RebuiltUsage(
        organisation_id=usage.organisation_id, shard=shard, captured=usage.units.captured,
        released=usage.units.released, messages=usage.messages, unbooked=unbooked.captured,
    )  # fmt: skip


def _movements(organisation_id: int, units: Units) -> list[tuple[int, str, str, str, int]]:
    """The rows of the journal: (organisation, movement, debit, credit, units)."""
    held, captured, released = units
    return [
        (organisation_id, "grant", "available", "granted", held),
        (organisation_id, "hold", "granted", "held", held),
        # The close gave units back whose messages had been sent: that is undone.
        (organisation_id, "hold", "available", "held", -released),
        (organisation_id, "capture", "held", "captured", captured),
        (organisation_id, "release", "held", "available", released),
    ]


def _set_aside(loss: OpenLoss, organisation_id: int, units: Units) -> UnbookedUsage:
    return UnbookedUsage(
        organisation_id=organisation_id, shard=loss.shard, position=StreamId(loss.until_ms, 0), kind="usage",
        holder="", held=units.held, captured=units.captured, released=units.released,
    )  # fmt: skip


def _reference(loss: OpenLoss) -> str:
    return f"rebuilt from the activity recorded {span_of(loss.from_ms, loss.until_ms)}"


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
