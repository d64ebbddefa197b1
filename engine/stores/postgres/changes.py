"""The records of what operators changed, in PostgreSQL.

Under failure. A change in PostgreSQL is written together with its record, in one transaction: both are
there or neither. For a change elsewhere one record is written before it and one after it. Killed in
between, the first stays alone: nobody knows whether the change was made. The first cannot be written:
the change is not begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engine.changes import UNDER_WAY, Change, ChangeFilter, ChangeUnderWay, Outcome
from engine.stores.postgres.pool import Pool

_ADD = """
INSERT INTO changes (key_id, key_name, address, request_id, action, path, organisation_id, outcome, begun_id,
                     before, after)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id"""
# For one whose request has no record yet, of this key and from this address.
_ADD_ONCE = """
INSERT INTO changes (key_name, address, request_id, action, path, outcome, before, after, at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, to_timestamp($9)
WHERE NOT EXISTS (SELECT FROM changes WHERE key_name = $1 AND address = $2 AND request_id = $3)"""
_PAGE = """
SELECT id, at, key_id, key_name, address, request_id, action, path, organisation_id, outcome, begun_id,
       before, after
FROM changes
WHERE id < $1 AND ($3::text IS NULL OR key_name = $3) AND ($4::bigint IS NULL OR organisation_id = $4)
    AND ($5::text IS NULL OR starts_with(path, $5)) AND ($6::timestamptz IS NULL OR at >= $6)
    AND ($7::timestamptz IS NULL OR at < $7)
ORDER BY id DESC LIMIT $2"""


async def note_change(
    connection: Any, before: object, after: object, organisation_id: int | None = None
) -> None:
    """Write the record of the call under way, in the transaction of `connection` that makes the change.

    `before` and `after`: anything that JSON can hold, without secrets. `organisation_id`: that of one that
    the call has just made. Without a call of an operator it does nothing.
    """
    change = UNDER_WAY.get()
    if change is None:
        return
    change.before, change.after = before, after
    change.organisation_id = organisation_id or change.organisation_id
    await _add(connection, change, "done", None)
    change.is_written = True


class Changes:
    """Adds records and lists them. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, change: ChangeUnderWay, outcome: Outcome, begun_id: int | None = None) -> int:
        """Add a record of the change; its id. `begun_id`: the record with `begun` that it ends."""
        async with self._pool.connection() as connection:
            return await _add(connection, change, outcome, begun_id)

    async def add_once(self, change: ChangeUnderWay, outcome: Outcome, at_s: float) -> None:
        """Add a record of a change made at `at_s`, seconds since 1970, unless its request has one."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtext($1))", f"changes {change.address}"
            )
            await connection.execute(
                _ADD_ONCE, change.key, change.address, change.request_id, change.action, change.path, outcome,
                _json(change.before), _json(change.after), at_s,
            )  # fmt: skip

    async def page(self, wanted: ChangeFilter, before_id: int, limit: int) -> list[Change]:
        """At most `limit` records with ids below `before_id`, the newest first."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_PAGE, before_id, limit, *wanted)
        return [_change(row) for row in rows]


async def _add(connection: Any, change: ChangeUnderWay, outcome: Outcome, begun_id: int | None) -> int:
    made: int = await connection.fetchval(
        _ADD, change.key_id, change.key, change.address, change.request_id, change.action, change.path,
        change.organisation_id, outcome, begun_id, _json(change.before), _json(change.after),
    )  # fmt: skip
    return made


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value, order="deterministic").decode()


def _change(row: Mapping[str, Any]) -> Change:
    fields: dict[str, Any] = dict(row.items())
    fields["key"] = fields.pop("key_name")
    fields |= {name: msgspec.Raw((row[name] or "null").encode()) for name in ("before", "after")}
    return Change(**fields)
