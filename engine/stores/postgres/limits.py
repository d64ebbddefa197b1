"""The limits of organisations, and who is paused, in PostgreSQL.

Under failure. A change is one transaction: it takes effect as a whole or not at all. After `Unavailable`
nobody knows which. Asking for the same again is safe; it changes nothing the second time. Two changes at once
are made one after the other, and the later one stays. `engine.limits.keeper` brings them to Redis.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from engine.changes import difference
from engine.errors import Refusal
from engine.limits.records import (
    BACKLOG_MAX_MAX,
    BACKLOG_MAX_MIN,
    RATE_MAX_MAX,
    RATE_MAX_MIN,
    WEIGHT_DEFAULT,
    WEIGHT_MAX,
    WEIGHT_MIN,
    LimitChanges,
    LimitRow,
)
from engine.organisations import Limits, Pause
from engine.records import IdempotentCall
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import check_text, no_organisation
from engine.stores.postgres.idempotency import claim
from engine.stores.postgres.pool import Pool

# What a field may be: from, to, and in words.
_ALLOWED = {
    "weight": (WEIGHT_MIN, WEIGHT_MAX, ", or null: 1"),
    "backlog_max": (BACKLOG_MAX_MIN, BACKLOG_MAX_MAX, " messages, or null: as the configuration says"),
    "rate_max": (RATE_MAX_MIN, RATE_MAX_MAX, " messages a second, or null: no limit"),
}
_CHANGES = """
SELECT v.version, l.organisation_id, l.weight, l.backlog_max, l.rate_max, l.paused_at IS NOT NULL
FROM limits_version v LEFT JOIN organisation_limits l ON l.version > $1"""
_LOCK = "SELECT version FROM limits_version FOR UPDATE"
_COUNT_UP = """
UPDATE limits_version
SET version = greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint)
RETURNING version"""
_OF = """
SELECT l.weight, l.backlog_max, l.rate_max, l.paused_at, coalesce(l.pause_reason, '')
FROM organisations o LEFT JOIN organisation_limits l ON l.organisation_id = o.id WHERE o.id = $1"""
_WRITE = """
INSERT INTO organisation_limits
    (organisation_id, weight, backlog_max, rate_max, paused_at, pause_reason, version)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (organisation_id) DO UPDATE
SET (weight, backlog_max, rate_max, paused_at, pause_reason, version)
    = (EXCLUDED.weight, EXCLUDED.backlog_max, EXCLUDED.rate_max, EXCLUDED.paused_at, EXCLUDED.pause_reason,
       EXCLUDED.version)"""
_PAUSED = """
SELECT o.id, o.name, l.paused_at, l.pause_reason FROM organisation_limits l
JOIN organisations o ON o.id = l.organisation_id
WHERE l.paused_at IS NOT NULL ORDER BY o.id LIMIT $1"""


class PausedOrganisation(msgspec.Struct, frozen=True):
    """An organisation that an operator has paused."""

    id: int
    name: str
    since: datetime
    reason: str


class LimitBook:
    """Reads and changes the limits. Every call raises Unavailable."""

    def __init__(self, pool: Pool, backlog_max: int | None = None) -> None:
        """`backlog_max`: as the configuration says, where nothing was set."""
        self._pool = pool
        self.default = Limits(weight=WEIGHT_DEFAULT, backlog_max=backlog_max)

    async def changes(self, since: int) -> LimitChanges:
        """What was set after the version `since`; all of it after 0."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_CHANGES, since)
        return LimitChanges(
            rows[0][0],
            [
                LimitRow(o, Limits(weight=weight, backlog_max=backlog_max, rate_max=rate_max), paused)
                for _, o, weight, backlog_max, rate_max, paused in rows
                if o is not None
            ],
        )

    async def limits(self, organisation_id: int) -> Limits:
        """What was set for an organisation. Raises Refusal 404."""
        async with self._pool.connection() as connection:
            return (await _of(connection, organisation_id))[0]

    async def change(self, organisation_id: int, values: Mapping[str, float | None]) -> Limits:
        """Set those of the limits that `values` names; None: as for all. Returns the limits then.

        Doing it again changes nothing. Raises Refusal 404, 422.
        """
        for field, value in values.items():
            least, most, rest = _ALLOWED[field]
            # The comparison is false for NaN, too.
            if value is not None and not least <= value <= most:
                detail = f"`{field}` must be from {least:,g} to {most:,.0f}{rest}."
                raise Refusal("invalid_field", 422, detail, field)
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            now, pause = await _of(connection, organisation_id)
            wanted = msgspec.structs.replace(now, **values)
            if wanted != now:
                await _write(connection, organisation_id, wanted, pause)
                await note_change(connection, *difference(_fields(now), _fields(wanted)))
            return wanted

    async def set_paused(
        self, organisation_id: int, paused: bool, reason: str = "", once: IdempotentCall | None = None
    ) -> None:
        """Pause an organisation or let it go on. Doing it again changes nothing but the reason.

        With `once` it is done at most once: when it is repeated later, and somebody has done the opposite
        meanwhile, that stays. Raises Refusal 404, 409 when `once` was used for another request, 422.
        """
        if reason:
            check_text("reason", reason)
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            done = await claim(connection, once) is not None
            limits, pause = await _of(connection, organisation_id)
            same = pause is None if not paused else pause is not None and reason in ("", pause.reason)
            if done or same:
                return
            since = pause.since if pause else await connection.fetchval("SELECT now()")
            wanted = Pause(since=since, reason=reason) if paused else None
            await _write(connection, organisation_id, limits, wanted)
            await note_change(connection, {"pause": pause}, {"pause": wanted})

    async def paused(self, limit: int) -> list[PausedOrganisation]:
        """At most `limit` organisations that are paused, in the order of their ids."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_PAUSED, limit)
        return [PausedOrganisation(*row) for row in rows]


def _fields(limits: Limits) -> dict[str, Any]:
    return msgspec.structs.asdict(limits)


async def _of(connection: Any, organisation_id: int) -> tuple[Limits, Pause | None]:
    row = await connection.fetchrow(_OF, organisation_id)
    if row is None:
        raise no_organisation()
    weight, backlog_max, rate_max, since, reason = row
    pause = None if since is None else Pause(since=since, reason=reason)
    return Limits(weight=weight, backlog_max=backlog_max, rate_max=rate_max), pause


async def _write(connection: Any, organisation_id: int, limits: Limits, pause: Pause | None) -> None:
    version = await connection.fetchval(_COUNT_UP)
    await connection.execute(
        _WRITE, organisation_id, limits.weight, limits.backlog_max, limits.rate_max,
        None if pause is None else pause.since, "" if pause is None else pause.reason, version,
    )  # fmt: skip
