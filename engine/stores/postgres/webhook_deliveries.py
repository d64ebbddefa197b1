"""Deliveries of webhooks that wait or have failed, in PostgreSQL (`engine.webhooks.ports.DeliveryBook`).

Under failure: every call is one transaction. After `Unavailable` nobody knows whether it took effect, and
the same call may be made again: keeping a delivery again changes nothing (`event_id`, `url` are unique),
forgetting one that is gone neither. A claim whose answer was lost ends by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.hosts.webhook_urls import target_of
from engine.stores.postgres.pool import Pool
from engine.webhooks.ports import DueTarget
from engine.webhooks.records import Delivery
from engine.webhooks.recoveries import Origin
from engine.webhooks.schedule import WHOLE_S

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# How long what has failed can be looked up and replayed.
KEPT_DAYS = 30
# Rows that one step of `tidy` changes at most.
_TIDY_MAX = 5_000

_KEEP = """
INSERT INTO webhook_deliveries (shard, organisation_id, endpoint_id, origin, url, event_id, type, event_at,
body,
    attempts, due_at, failed_at, last_status, last_reason)
SELECT shard, organisation_id, endpoint_id, origin, url, event_id, type, event_at, body, attempts,
    now() + make_interval(secs => coalesce(due_in_s, 0)), CASE WHEN due_in_s IS NULL THEN now() END,
    last_status, last_reason
FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::timestamptz[], $9::bytea[], $10::int[], $11::float8[], $12::int[], $13::text[])
    AS d(shard, organisation_id, endpoint_id, origin, url, event_id, type, event_at, body, attempts, due_in_s,
         last_status, last_reason)
ON CONFLICT DO NOTHING"""
_KEEP_ON = """
UPDATE webhook_deliveries w
SET attempts = d.attempts, due_at = now() + make_interval(secs => coalesce(d.due_in_s, 0)),
    failed_at = CASE WHEN d.due_in_s IS NULL THEN now() END, last_status = d.last_status,
    last_reason = d.last_reason
FROM unnest($1::bigint[], $2::int[], $3::float8[], $4::int[], $5::text[])
    AS d(id, attempts, due_in_s, last_status, last_reason)
WHERE w.id = d.id AND w.failed_at IS NULL"""
_FORGET = "DELETE FROM webhook_deliveries WHERE id = ANY($1::bigint[])"
_NOTE_TAKES = """
INSERT INTO webhook_recoveries (shard, organisation_id, origin)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[]) ON CONFLICT DO NOTHING"""
_NOTE_FAILS = """
DELETE FROM webhook_recoveries r
USING unnest($1::int[], $2::bigint[], $3::text[]) AS f(shard, organisation_id, origin)
WHERE (r.shard, r.organisation_id, r.origin) = (f.shard, f.organisation_id, f.origin)"""
# Where nothing that has failed waits any more, nobody asks.
_DELETE_RECOVERIES = """
DELETE FROM webhook_recoveries r WHERE r.shard = ANY($1::int[]) AND NOT EXISTS (
    SELECT 1 FROM webhook_deliveries d
    WHERE d.failed_at IS NULL AND d.attempts > 0 AND d.shard = r.shard
      AND d.organisation_id = r.organisation_id AND d.origin = r.origin)"""
# From one origin to the next by the index: the cost is that of the origins, however much waits for each.
_DUE = """
WITH RECURSIVE t AS (
    (SELECT shard, organisation_id, origin FROM webhook_deliveries
     WHERE failed_at IS NULL ORDER BY shard, organisation_id, origin LIMIT 1)
    UNION ALL
    SELECT n.* FROM t, LATERAL (
        SELECT d.shard, d.organisation_id, d.origin FROM webhook_deliveries d
        WHERE d.failed_at IS NULL
          AND (d.shard, d.organisation_id, d.origin) > (t.shard, t.organisation_id, t.origin)
        ORDER BY d.shard, d.organisation_id, d.origin LIMIT 1) n
)
SELECT t.shard, t.organisation_id, t.origin, extract(epoch FROM d.due_at - now())::float8
FROM t, LATERAL (
    SELECT due_at FROM webhook_deliveries d
    WHERE d.failed_at IS NULL AND d.shard = t.shard AND d.organisation_id = t.organisation_id
      AND d.origin = t.origin
    ORDER BY due_at LIMIT 1) d
WHERE t.shard = ANY($1::int[])
ORDER BY d.due_at"""
_CLAIM = """
WITH due AS (
    SELECT d.id FROM unnest($1::int[], $2::bigint[], $3::text[], $4::int[])
        AS w(shard, organisation_id, origin, most),
    LATERAL (
        SELECT id FROM webhook_deliveries d
        WHERE d.failed_at IS NULL AND d.shard = w.shard AND d.organisation_id = w.organisation_id
          AND d.origin = w.origin AND d.due_at <= now()
        ORDER BY d.due_at LIMIT w.most FOR UPDATE SKIP LOCKED) d
)
UPDATE webhook_deliveries d SET due_at = now() + make_interval(secs => $5::float8) FROM due WHERE d.id =
due.id RETURNING d.id, d.shard, d.organisation_id, d.endpoint_id, d.url, d.event_id, d.type, d.event_at,
d.body,
    d.attempts, d.kept_at"""
_GIVE_UP = """
UPDATE webhook_deliveries SET failed_at = now(), last_reason = 'too-old' WHERE id IN (
    SELECT id FROM webhook_deliveries
    WHERE failed_at IS NULL AND shard = ANY($1::int[]) AND kept_at < now() - make_interval(secs => $2::float8)
    LIMIT $3)"""
_DELETE_OLD = """
DELETE FROM webhook_deliveries WHERE id IN (
    SELECT id FROM webhook_deliveries WHERE failed_at < now() - make_interval(days => $1) LIMIT $2)"""
_COUNT = "SELECT count(*) FROM webhook_deliveries WHERE failed_at IS NULL AND shard = ANY($1::int[])"


class PostgresDeliveries:
    """The port `DeliveryBook`. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def keep(self, deliveries: Sequence[tuple[Delivery, float | None]]) -> None:
        """See the port."""
        new = [_values(delivery, due) for delivery, due in deliveries if not delivery.row_id]
        known = [(d.row_id, d.attempts, due, d.status, d.reason) for d, due in deliveries if d.row_id]
        async with self._pool.transaction() as connection:
            if new:
                await connection.execute(_KEEP, *map(list, zip(*new, strict=True)))
            if known:
                await connection.execute(_KEEP_ON, *map(list, zip(*known, strict=True)))

    async def forget(self, row_ids: Sequence[int]) -> None:
        """See the port."""
        async with self._pool.connection() as connection:
            await connection.execute(_FORGET, list(row_ids))

    async def note_recoveries(self, takes: Mapping[Origin, bool]) -> None:
        """See the port."""
        async with self._pool.transaction() as connection:
            for statement, wanted in ((_NOTE_TAKES, True), (_NOTE_FAILS, False)):
                # In one order, so that two notifiers do not wait for each other.
                origins = sorted(origin for origin, takes_it in takes.items() if takes_it is wanted)
                if origins:
                    await connection.execute(statement, *map(list, zip(*origins, strict=True)))

    async def due_targets(self, shards: Sequence[int]) -> list[DueTarget]:
        """See the port. The first to be due are the first here."""
        async with self._pool.connection() as connection:
            return [DueTarget(*row) for row in await connection.fetch(_DUE, list(shards))]

    async def claim(self, wanted: Sequence[tuple[DueTarget, int]], claim_s: float) -> list[Delivery]:
        """See the port."""
        asked = [(t.shard, t.organisation_id, t.origin, most) for t, most in wanted]
        async with self._pool.transaction() as connection:
            rows = await connection.fetch(_CLAIM, *map(list, zip(*asked, strict=True)), claim_s)
        return [delivery for row in rows if (delivery := _delivery(row)) is not None]

    async def tidy(self, shards: Sequence[int]) -> tuple[int, int]:
        """See the port."""
        async with self._pool.connection() as connection:
            given_up = await connection.execute(_GIVE_UP, list(shards), WHOLE_S * 1.1, _TIDY_MAX)
            await connection.execute(_DELETE_OLD, KEPT_DAYS, _TIDY_MAX)
            await connection.execute(_DELETE_RECOVERIES, list(shards))
            waiting = await connection.fetchval(_COUNT, list(shards))
        return int(given_up.rpartition(" ")[2]), waiting


def _values(d: Delivery, due_in_s: float | None) -> tuple[Any, ...]:
    return (
        d.shard, d.organisation_id, d.endpoint_id, d.target.origin, d.target.url, d.event_id, d.type,
        _EPOCH + timedelta(microseconds=d.at_us), d.body, d.attempts, due_in_s, d.status, d.reason,
    )  # fmt: skip


def _delivery(row: Any) -> Delivery | None:
    target = target_of(row["url"])
    if target is None:
        return None
    return Delivery(
        event_id=row["event_id"],
        type=row["type"],
        organisation_id=row["organisation_id"],
        shard=row["shard"],
        endpoint_id=row["endpoint_id"],
        target=target,
        body=row["body"],
        at_us=_us(row["event_at"]),
        attempts=row["attempts"],
        kept_since_us=_us(row["kept_at"]),
        row_id=row["id"],
    )


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
