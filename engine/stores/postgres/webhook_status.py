"""What waits to be told to organisations, in PostgreSQL, for operators.

It only reads. What it costs does not grow with what waits, but for counting it by an index.
"""

from __future__ import annotations

from typing import Any

import msgspec

# So many origins are looked at, and so many that fail are named.
_ORIGINS_MAX, _FAILING_MAX = 1_000, 20

_COUNTS = """
SELECT (SELECT count(*) FROM webhook_deliveries WHERE failed_at IS NULL),
    (SELECT count(*) FROM webhook_deliveries WHERE failed_at > now() - interval '24 hours'),
    (SELECT coalesce(max(extract(epoch FROM now() - oldest.kept_at)), 0)::float8
     FROM generate_series(0, $1 - 1) AS of (shard), LATERAL (
        SELECT kept_at FROM webhook_deliveries d WHERE failed_at IS NULL AND d.shard = of.shard
        ORDER BY kept_at LIMIT 1) oldest)"""
# Of deliveries that have failed before and wait, by their own index: from one origin to the next, and of each
# the one that was kept first. Not of origins that have taken a delivery since the last failure. Where an
# endpoint takes nothing, most of what waits has never been tried.
_FAILING = """
WITH RECURSIVE t AS (
    (SELECT shard, organisation_id, origin, 1 AS number FROM webhook_deliveries
     WHERE failed_at IS NULL AND attempts > 0 ORDER BY shard, organisation_id, origin LIMIT 1)
    UNION ALL
    SELECT n.*, t.number + 1 FROM t, LATERAL (
        SELECT d.shard, d.organisation_id, d.origin FROM webhook_deliveries d
        WHERE d.failed_at IS NULL AND d.attempts > 0
          AND (d.shard, d.organisation_id, d.origin) > (t.shard, t.organisation_id, t.origin)
        ORDER BY d.shard, d.organisation_id, d.origin LIMIT 1) n
    WHERE t.number < $1
)
SELECT t.organisation_id, t.origin, d.attempts, extract(epoch FROM now() - d.kept_at)::float8, d.last_status,
    d.last_reason
FROM t, LATERAL (
    SELECT attempts, kept_at, last_status, last_reason FROM webhook_deliveries d
    WHERE d.failed_at IS NULL AND d.attempts > 0 AND d.shard = t.shard
      AND d.organisation_id = t.organisation_id AND d.origin = t.origin
    ORDER BY kept_at LIMIT 1) d
WHERE NOT EXISTS (
    SELECT 1 FROM webhook_recoveries r
    WHERE r.shard = t.shard AND r.organisation_id = t.organisation_id AND r.origin = t.origin)
ORDER BY d.kept_at"""


class FailingEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An origin of an organisation whose last attempt failed, and is to be made again."""

    organisation_id: int
    # Scheme, host and port.
    origin: str
    # Attempts of the delivery that waits longest of those that failed, and since when it waits, milliseconds.
    attempts: int
    waits_ms: int
    # Of its last attempt: the HTTP status, null when there was no answer, and a word for what went wrong.
    last_status: int | None
    last_reason: str


class WebhookStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries of webhooks that could not be made at once, of all organisations."""

    # How many wait, and since when the oldest does, milliseconds.
    waiting: int = 0
    oldest_ms: int = 0
    # How many have failed for good in the last 24 hours.
    failed: int = 0
    # How many origins fail, up to a thousand, and those that fail longest.
    failing_endpoints: int = 0
    failing: list[FailingEndpoint] = []


async def webhook_status(connection: Any, shards: int) -> WebhookStatus:
    """The status, of all `shards`."""
    waiting, failed, oldest_s = await connection.fetchrow(_COUNTS, shards)
    rows = await connection.fetch(_FAILING, _ORIGINS_MAX) if waiting else []
    return WebhookStatus(
        waiting=waiting,
        oldest_ms=int(oldest_s * 1000),
        failed=failed,
        failing_endpoints=len(rows),
        failing=[
            FailingEndpoint(
                organisation_id=organisation_id, origin=origin, attempts=attempts,
                waits_ms=int(waits_s * 1000), last_status=last_status or None, last_reason=last_reason,
            )
            for organisation_id, origin, attempts, waits_s, last_status, last_reason in rows[:_FAILING_MAX]
        ],
    )  # fmt: skip
