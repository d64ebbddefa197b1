"""Locks that others have on the books: which rows, and who has them.

The ledger asks only after it has waited in vain for a lock.
"""

from __future__ import annotations

from collections.abc import Collection

import asyncpg
import msgspec

# What the step of $1 (shards) and $2 (organisations) would lock and cannot lock now. A quota counts as
# its organisation. The rows found free are locked until the end of the statement.
_LOCKED = """
WITH term AS (SELECT FROM ledger_term FOR UPDATE SKIP LOCKED),
free_shards AS (SELECT shard FROM shards WHERE shard = ANY($1::int[]) FOR UPDATE SKIP LOCKED),
free_accounts AS (
    SELECT organisation_id FROM accounts
    WHERE organisation_id = ANY($2::bigint[]) FOR NO KEY UPDATE SKIP LOCKED),
free_quotas AS (
    SELECT organisation_id, holder FROM quotas
    WHERE organisation_id = ANY($2::bigint[]) FOR UPDATE SKIP LOCKED)
SELECT 'term', 0 WHERE NOT EXISTS (SELECT FROM term)
UNION ALL
SELECT 'shard', shard FROM shards
WHERE shard = ANY($1::int[]) AND shard NOT IN (SELECT shard FROM free_shards)
UNION ALL
SELECT 'organisation', organisation_id FROM accounts
WHERE organisation_id = ANY($2::bigint[])
    AND organisation_id NOT IN (SELECT organisation_id FROM free_accounts)
UNION ALL
SELECT 'organisation', organisation_id FROM quotas
WHERE organisation_id = ANY($2::bigint[])
    AND (organisation_id, holder) NOT IN (SELECT organisation_id, holder FROM free_quotas)"""

# The oldest transaction of others that has a lock on a table of the books, older than $1 seconds. One that
# has locked a row has a lock on its table too. A prepared transaction has no process.
_BLOCKER = """
SELECT l.pid, a.application_name, host(a.client_addr) AS client, a.usename AS role, a.state,
    coalesce(a.xact_start, p.prepared) AS since, p.gid
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND l.virtualtransaction = '-1/' || p.transaction::text
WHERE l.locktype = 'relation' AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.relation IN ('accounts'::regclass, 'quotas'::regclass, 'shards'::regclass, 'ledger_term'::regclass,
        'answers'::regclass, 'waiting_requests'::regclass, 'journal'::regclass, 'balance_events'::regclass)
    AND l.mode <> 'AccessShareLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND coalesce(a.xact_start, p.prepared, '-infinity') <= clock_timestamp() - make_interval(secs => $1)
ORDER BY since NULLS FIRST LIMIT 1"""


class Locked(msgspec.Struct, frozen=True):
    """What others have locked of that which a step writes."""

    shards: frozenset[int] = frozenset()
    # Organisations whose account or a quota of which is locked.
    organisations: frozenset[int] = frozenset()
    # Who has the oldest lock; "" when nothing is locked.
    by: str = ""


async def find_locked(
    connection: asyncpg.Connection, shards: Collection[int], organisations: Collection[int]
) -> Locked:
    """What of the rows of these shards and organisations is locked by others at this moment.

    Raises asyncpg's LockNotAvailableError when the row of the term is locked, or a whole table.
    """
    found = await connection.fetch(_LOCKED, list(shards), list(organisations))
    by_kind: dict[str, set[int]] = {"shard": set(), "organisation": set(), "term": set()}
    for kind, row_id in found:
        by_kind[kind].add(row_id)
    if by_kind["term"]:
        raise asyncpg.LockNotAvailableError("the row of the term is locked")
    by = await blocker(connection) if found else ""
    return Locked(frozenset(by_kind["shard"]), frozenset(by_kind["organisation"]), by)


async def blocker(connection: asyncpg.Connection, age_s: float = 0.0) -> str:
    """Who has the oldest lock on the books, as the end of a sentence; "" when nobody has one.

    Only locks of transactions older than `age_s` seconds count. Of other roles PostgreSQL shows no more
    than the process, the role and the name, unless the engine's role may read all statistics.
    """
    row = await connection.fetchrow(_BLOCKER, age_s)
    if row is None:
        return ""
    since = f", since {row['since']:%Y-%m-%d %H:%M:%S} UTC" if row["since"] else ""
    if row["pid"] is None:
        return f"prepared transaction {row['gid']!r}{since}"
    name = f" ({row['application_name']})" if row["application_name"] else ""
    state = f", {row['state']}" if row["state"] else ""
    client = f" from {row['client']}" if row["client"] else ""
    return f"process {row['pid']}{name} of role {row['role']}{client}{state}{since}"
