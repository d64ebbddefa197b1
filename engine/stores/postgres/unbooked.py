"""Usage that the books could not cover, for the operator who puts that right.

How usage becomes unbooked stands in `engine.credit.movements`. An organisation that has some is suspended:
the ledger grants it nothing, and its new messages are refused. It ends when its usage is booked.

Under failure. `book` is one transaction: all usage of the organisation is in the books, or none. After
`Unavailable` nobody knows which, and it may be called again: what is booked is not there any more (404).
The ledger waits for the account's lock, or the other way round, so usage that comes meanwhile is in it or
stays unbooked.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from engine.errors import Refusal
from engine.organisations import BookedUsage, UnbookedSum
from engine.shards import shard_of
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import check_text
from engine.stores.postgres.pool import Pool
from engine.written_numbers import plural

# So much of a reason fits into the reference of a top-up.
REASON_MAX = 150

_SUMS = """
SELECT u.organisation_id, o.name, min(u.at), count(*)::int,
       sum(u.held)::bigint, sum(u.captured)::bigint, sum(u.released)::bigint, coalesce(a.available, 0),
       greatest(0, sum(u.held - u.released) - coalesce(a.available, 0))::bigint
FROM unbooked u
LEFT JOIN organisations o ON o.id = u.organisation_id
LEFT JOIN accounts a ON a.organisation_id = u.organisation_id
WHERE u.booked_at IS NULL AND u.organisation_id > $1 GROUP BY u.organisation_id, o.name, a.available
ORDER BY u.organisation_id LIMIT $2"""
_IN_ALL = """
SELECT count(*)::int, coalesce(sum(units), 0)::bigint
FROM (SELECT greatest(sum(held), sum(captured + released)) AS units FROM unbooked
      WHERE booked_at IS NULL GROUP BY organisation_id) AS one"""
_LOCK = "SELECT shard, available FROM accounts WHERE organisation_id = $1 FOR UPDATE"
_MAKE = "INSERT INTO organisations (id, name) OVERRIDING SYSTEM VALUE VALUES ($1, $2)"
_OPEN = "INSERT INTO accounts (organisation_id, shard) VALUES ($1, $2)"
_TAKE = """
WITH taken AS (
    UPDATE unbooked SET booked_at = now() WHERE organisation_id = $1 AND booked_at IS NULL
    RETURNING id, held, captured, released)
SELECT coalesce(max(id), 0), coalesce(sum(held), 0)::bigint, coalesce(sum(captured), 0)::bigint,
       coalesce(sum(released), 0)::bigint FROM taken"""
_WAITS = "SELECT EXISTS (SELECT FROM unbooked WHERE organisation_id = $1 AND booked_at IS NULL)"
_MISSING = """
SELECT greatest(0, sum(held - released))::bigint FROM unbooked
WHERE organisation_id = $1 AND booked_at IS NULL"""
_PAY = """
WITH paid AS (INSERT INTO top_ups (organisation_id, reference, units) VALUES ($1, $3, $2))
UPDATE accounts SET topped_up = topped_up + $2, available = available + $2 WHERE organisation_id = $1"""
_SAVE = """
UPDATE accounts SET available = available - $2 + $4, held = held + $2 - $3 - $4, captured = captured + $3
WHERE organisation_id = $1"""
_JOURNAL = """
INSERT INTO journal (organisation_id, movement, debit, credit, units, shard, reference)
SELECT $1, m.movement, m.debit, m.credit, m.units, m.shard, m.reference
FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::int[], $7::text[])
    AS m (movement, debit, credit, units, shard, reference)
WHERE m.units > 0"""
_REFERENCE = "usage that was unbooked"


async def unbooked_in_all(connection: asyncpg.Connection) -> tuple[int, int]:
    """(how many organisations are suspended for unbooked usage, the units of that usage).

    Reads the index of what is open, which is empty as a rule.
    """
    organisations, units = await connection.fetchrow(_IN_ALL)
    return organisations, units


class Unbooked:
    """Lists unbooked usage, and books it. Every call raises Unavailable."""

    def __init__(self, pool: Pool, shards: int) -> None:
        self._pool = pool
        self._shards = shards

    async def sums(self, after: int, limit: int) -> list[UnbookedSum]:
        """At most `limit` organisations with unbooked usage and ids above `after`, in order of their ids."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_SUMS, after, limit)
        return [
            UnbookedSum(
                organisation_id=o, name=name, since=since, entries=entries, held=held, captured=captured,
                released=released, available=available, missing=missing,
            )
            for o, name, since, entries, held, captured, released, available, missing in rows
        ]  # fmt: skip

    async def book(self, organisation_id: int, write_off: str | None, name: str | None) -> BookedUsage:
        """Book all unbooked usage of an organisation; it can then send again.

        `write_off`: the reason for which units that are missing are given to it, as a top-up; None: none
        are. `name`: under which it is made again when it is missing. One that was made again, lacks units
        and has no `write_off` stays suspended with its usage unbooked, so that its top-ups can be put back
        first. Raises Refusal 404; 409 when units or the organisation are missing; 422.
        """
        if write_off is not None:
            check_text("write_off", write_off, REASON_MAX)
        if name is not None:
            check_text("name", name)
        async with self._pool.transaction() as connection:
            account = await connection.fetchrow(_LOCK, organisation_id)
            if not await connection.fetchval(_WAITS, organisation_id):
                raise Refusal("not_found", 404, "No usage of this organisation waits to be booked.")
            if account is None:
                account = await self._make_again(connection, organisation_id, name)
                missing = await connection.fetchval(_MISSING, organisation_id)
                if missing and write_off is None:
                    made = BookedUsage(
                        organisation_id=organisation_id, held=0, captured=0, released=0, written_off=0,
                        missing=missing,
                    )  # fmt: skip
                    await note_change(connection, None, {"made_again": name, "missing": missing})
                    return made
            shard, available = account
            booked = await _book(connection, organisation_id, shard, available, write_off)
            # What was written off is a top-up with the reason in its reference.
            await note_change(connection, {"available": available}, {"booked": booked, "reason": write_off})
            return booked

    async def _make_again(self, connection: Any, organisation_id: int, name: str | None) -> tuple[int, int]:
        """Make an organisation that is missing under its old id: (its shard, its available units).

        It has no key: `ApiKeyBook.create` makes one. Raises Refusal 409 without a name.
        """
        if name is None:
            raise Refusal(
                "organisation_missing",
                409,
                "There is no organisation with this id any more: give `name` to make it again under the id.",
                "name",
            )
        shard = shard_of(organisation_id, self._shards)
        await connection.execute(_MAKE, organisation_id, name)
        await connection.execute(_OPEN, organisation_id, shard)
        return shard, 0


async def _book(
    connection: Any, organisation_id: int, shard: int, available: int, write_off: str | None
) -> BookedUsage:
    """Book the usage of an organisation whose account is locked. Raises Refusal 409 when it lacks units."""
    last, held, captured, released = await connection.fetchrow(_TAKE, organisation_id)
    missing = max(0, held - released - available)
    if missing and write_off is None:
        raise Refusal(
            "units_missing",
            409,
            f"The organisation lacks {missing} {plural('unit', missing)} for its usage: put the top-up that"
            " was lost back and book again, or write the units off with a reason.",
            "write_off",
        )
    reference = f"written off {last}: {write_off}"
    if missing:
        await connection.execute(_PAY, organisation_id, missing, reference)
    await connection.execute(_SAVE, organisation_id, held, captured, released)
    rows = (
        ("top-up", "payments", "available", missing, None, reference),
        ("grant", "available", "granted", held, shard, _REFERENCE),
        ("hold", "granted", "held", held, shard, _REFERENCE),
        # A release that is undone: see `engine.credit.rebuilding`.
        ("hold", "available", "held", -released, shard, _REFERENCE),
        ("capture", "held", "captured", captured, shard, _REFERENCE),
        ("release", "held", "available", released, shard, _REFERENCE),
    )
    await connection.execute(_JOURNAL, organisation_id, *map(list, zip(*rows, strict=True)))
    return BookedUsage(
        organisation_id=organisation_id, held=held, captured=captured, released=released,
        written_off=missing,
    )  # fmt: skip
