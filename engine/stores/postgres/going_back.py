"""What the ledger keeps in PostgreSQL for the day on which PostgreSQL goes back.

PostgreSQL goes back when a standby is promoted that was behind, or a backup is restored. How the ledger
finds that out stands in `engine.credit.losses`, what it does in `engine.credit.reconciliation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from engine.credit.ledger_records import Books, Standing, UnbookedUsage
from engine.written_numbers import plural

# More than are given in the lost time, so that no id is given twice.
_SKIPPED_IDS = 100_000
_SKIPPED_ROWS = 1_000_000

# Ids that others remember: in messages and streams of Redis, and in the API keys of organisations.
_SKIP = """
SELECT setval(pg_get_serial_sequence('organisations', 'id'),
              nextval(pg_get_serial_sequence('organisations', 'id')) + $1),
       setval(pg_get_serial_sequence('api_keys', 'id'),
              nextval(pg_get_serial_sequence('api_keys', 'id')) + $1),
       setval(pg_get_serial_sequence('balance_events', 'id'),
              nextval(pg_get_serial_sequence('balance_events', 'id')) + $2),
       setval(pg_get_serial_sequence('answers', 'id'),
              greatest(nextval(pg_get_serial_sequence('answers', 'id')), $3) + $2)"""

# A server that was not shut down in order counts on after some numbers that it had reserved.
_LAST_ANSWER = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('answers', 'id')::regclass), 0)"

_SAVE = """
INSERT INTO unbooked (organisation_id, shard, position, kind, holder, held, captured, released)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
    $8::bigint[])"""

_ADRIFT = """
SELECT organisation_id, sum(held - captured - released)::bigint FROM unbooked u
WHERE shard = $1 AND booked_at IS NULL
    AND NOT EXISTS (SELECT FROM accounts a WHERE a.organisation_id = u.organisation_id)
GROUP BY organisation_id"""

# A base backup and a logical subscriber are no standbys. Of a standby that is away its slot speaks.
_STANDING = """
SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint AS written, (kept.lsn - '0/0')::bigint AS lsn, kept.name
FROM (SELECT 1) AS one LEFT JOIN LATERAL (
    SELECT r.flush_lsn AS lsn, 'the standby ' || coalesce(nullif(r.application_name, ''), r.pid::text) AS name
    FROM pg_stat_replication r
    WHERE r.state IS DISTINCT FROM 'backup'
        AND NOT EXISTS (SELECT FROM pg_replication_slots s
                        WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
    UNION ALL
    SELECT restart_lsn, 'the replication slot ' || slot_name FROM pg_replication_slots
    WHERE slot_type = 'physical' AND NOT active AND restart_lsn IS NOT NULL
    ORDER BY 1 NULLS LAST LIMIT 1) AS kept ON true"""

_STANDBYS = """
SELECT 'the standby ' || coalesce(nullif(application_name, ''), pid::text), sync_state,
       greatest(0, pg_current_wal_insert_lsn() - flush_lsn)::bigint
FROM pg_stat_replication r WHERE state IS DISTINCT FROM 'backup'
    AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
ORDER BY 1"""

_DEAD_SLOTS = """
SELECT slot_name, greatest(0, pg_current_wal_insert_lsn() - restart_lsn)::bigint FROM pg_replication_slots
WHERE slot_type = 'physical' AND NOT active AND restart_lsn IS NOT NULL ORDER BY 1"""


async def skip_ids(connection: asyncpg.Connection, delivered: int) -> None:
    """Leave out ids that the lost time may have given; done again, it leaves out more.

    `delivered`: the highest row of an answer that Redis knows.
    """
    await connection.execute(_SKIP, _SKIPPED_IDS, _SKIPPED_ROWS, delivered)


async def last_answer_of(connection: asyncpg.Connection) -> int:
    """The highest row that any answer may have had, 0 before the first one."""
    last: int = await connection.fetchval(_LAST_ANSWER)
    return last


async def save_unbooked(connection: asyncpg.Connection, usage: Sequence[UnbookedUsage]) -> None:
    """Write usage that the books could not cover."""
    if not usage:
        return
    rows = [
        (u.organisation_id, u.shard, str(u.position), u.kind, u.holder, u.held, u.captured, u.released)
        for u in usage
    ]
    await connection.execute(_SAVE, *map(list, zip(*rows, strict=True)))


async def adrift_of_shard(connection: asyncpg.Connection, shard: int) -> dict[int, int]:
    """{organisation without an account: units that its messages hold and that are unbooked} of a shard."""
    return dict(await connection.fetch(_ADRIFT, shard))


def reference_of(books: Books, organisation_id: int, kind: str) -> str | None:
    """The reference of a journal row: why units were granted without a request, None for any other."""
    if organisation_id in books.covered and kind in ("grant", "return"):
        return "a holder had used more than these books granted"
    return None


async def standing_of(connection: asyncpg.Connection) -> Standing:
    """How much write-ahead log there is, and what the standbys have of it, bytes.

    Of a standby whose progress this user may not see, nothing is known: it counts as if it had all.
    """
    written, kept, name = await connection.fetchrow(_STANDING)
    return Standing(written, kept, name or "")


async def standby_warnings(connection: asyncpg.Connection) -> list[str]:
    """What the standbys can cost when one of them is promoted, a sentence each without its full stop."""
    found = []
    waits = await connection.fetchval("SELECT current_setting('synchronous_commit')")
    for name, sync, behind in await connection.fetch(_STANDBYS):
        if behind is None:
            found.append(
                f"how far {name} is cannot be seen by this user, so usage is not kept for it:"
                " GRANT pg_monitor to the user"
            )
        if sync == "async":
            far = "" if behind is None else f" and {behind} {plural('byte', behind)} behind"
            found.append(
                f"{name} is asynchronous{far}: if it is promoted, top-ups, organisations and keys of its"
                " last moments are lost; name it in synchronous_standby_names to lose none"
            )
        elif waits in ("off", "local"):
            found.append(
                f"commits do not wait for {name}, because synchronous_commit is {waits}: set it to on"
            )
    found += [
        f"the replication slot {name} is not in use and holds up {behind} {plural('byte', behind)}, and usage"
        " in Redis with it: bring its standby back, or drop it"
        for name, behind in await connection.fetch(_DEAD_SLOTS)
    ]
    return found
