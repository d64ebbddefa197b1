"""Locks on accounts. Top-ups, and everything else that writes the books, take them as the ledger does."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

LOCK_ACCOUNTS = """
SELECT organisation_id, shard, available, granted, held, captured, low_balance FROM accounts
WHERE organisation_id = ANY($1::bigint[]) ORDER BY organisation_id FOR UPDATE"""

_LOCK_FREE_ACCOUNTS = LOCK_ACCOUNTS + " SKIP LOCKED"

_EXISTING = "SELECT organisation_id FROM accounts WHERE organisation_id = ANY($1::bigint[])"

# Up to $3 organisations of each fenced holder in its shard.
_QUOTAS_OF_FENCED = """
SELECT f.shard, f.holder, q.organisation_id FROM unnest($1::int[], $2::text[]) AS f (shard, holder)
CROSS JOIN LATERAL (
    SELECT organisation_id FROM quotas JOIN accounts a USING (organisation_id)
    WHERE quotas.holder = f.holder AND a.shard = f.shard LIMIT $3) AS q"""


class AccountLocked(Exception):
    """An account could not be locked in time; the transaction is rolled back."""


async def quotas_of_fenced(
    connection: asyncpg.Connection, fences: Sequence[tuple[int, str]], count: int
) -> dict[tuple[int, str], list[int]]:
    """By fence, (shard, holder), up to `count` organisations of that shard of which the holder has quota."""
    found: dict[tuple[int, str], list[int]] = {}
    if fences:
        shards, holders = zip(*fences, strict=True)
        rows = await connection.fetch(_QUOTAS_OF_FENCED, list(shards), list(holders), count)
        for shard, holder, organisation_id in rows:
            found.setdefault((shard, holder), []).append(organisation_id)
    return found


async def lock_accounts(
    connection: asyncpg.Connection, wanted: set[int], *, patient: bool
) -> tuple[list[asyncpg.Record], set[int]]:
    """Lock accounts: (rows of those locked now, organisations whose accounts others have locked).

    The rows have the columns of `LOCK_ACCOUNTS`. `patient`: wait a moment for each account, and raise
    AccountLocked when one cannot be locked. An organisation without an account is in neither.
    """
    organisations = sorted(wanted)
    if patient:
        try:
            return await connection.fetch(LOCK_ACCOUNTS, organisations), set()
        except asyncpg.LockNotAvailableError as e:
            raise AccountLocked from e
    accounts = await connection.fetch(_LOCK_FREE_ACCOUNTS, organisations)
    missing = wanted.difference(row[0] for row in accounts)
    existing = await connection.fetch(_EXISTING, list(missing)) if missing else ()
    return accounts, {row[0] for row in existing}
