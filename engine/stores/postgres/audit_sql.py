"""The statements of an audit (`engine.stores.postgres.audit_books`).

None of their plans may depend on statistics, which are old after a restore or many new organisations. What
could go wrong is ruled out: ways to join by `JOIN_SETS` and `JOIN_EACH`, another index of the journal by a
comparison of rows, which `journal_by_organisation` alone can serve.
"""

from __future__ import annotations

from engine.credit.laws import JournalSums

# Whoever has the lock: since when its connection stands, and its name.
UNDER_WAY = """
SELECT a.backend_start, a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.classid = ($1::bigint >> 32)::oid AND l.objid = ($1::bigint & 4294967295)::oid
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

SHARDS = """
SELECT shard, position, link, losses, (extract(epoch FROM lost_at) * 1000)::bigint FROM shards"""

# By shard, accounts that wait to be closed.
UNCLOSED = "SELECT shard, count(*)::int FROM unclosed GROUP BY shard"

UNCHARGED_MESSAGES = "SELECT coalesce(sum(uncharged_messages), 0)::bigint FROM losses"

ACCOUNT_SHARDS = "SELECT DISTINCT shard FROM accounts"

# Each shard's last checkpoint and the link before it.
CHECKPOINTS = """
SELECT DISTINCT ON (c.shard) c.shard, c.number, c.at, c.losses, c.stream_ms, c.stream_seq, c.organisations,
       c.holds, c.captured, c.releases, c.recorded, c.digest, c.link, coalesce(p.link, '')
FROM audit_checkpoints c
LEFT JOIN audit_checkpoints p ON p.shard = c.shard AND p.number = c.number - 1
ORDER BY c.shard, c.number DESC"""

SUMS_DIGEST = """
SELECT count(*)::int, coalesce(sum(holds), 0)::bigint, coalesce(sum(captured), 0)::bigint,
       coalesce(sum(releases), 0)::bigint,
       coalesce(sum(recorded_held + recorded_captured + recorded_released), 0)::bigint,
       encode(sha256(convert_to(coalesce(string_agg(concat_ws(' ',
           organisation_id, journal_id, topped_up, available, granted, held, captured, holds, releases,
           recorded_held, recorded_captured, recorded_released, gap_held, gap_captured, gap_released),
           E'\\n' ORDER BY organisation_id), ''), 'UTF8')), 'hex')
FROM audit_sums WHERE shard = $1"""

# Sums of rows of the journal; `{of}` is the column that groups them, if any.
JOURNAL = """
SELECT {of} max(id) AS journal_id, count(*) AS rows, min(shard) AS least, max(shard) AS most,
       coalesce(sum(CASE 'payments' WHEN debit THEN units WHEN credit THEN -units END), 0)::bigint
           AS topped_up,
       {places},
       -- A hold of units that are `available` undoes a release: see `engine.credit.rebuilding`.
       coalesce(sum(units) FILTER (WHERE movement = 'hold' AND debit = 'granted'), 0)::bigint AS holds,
       coalesce(sum(CASE movement WHEN 'release' THEN units ELSE -units END)
                FILTER (WHERE movement = 'release' OR movement = 'hold' AND debit = 'available'), 0)::bigint
           AS releases
FROM journal"""
PLACES = ", ".join(
    f"coalesce(sum(CASE '{place}' WHEN credit THEN units WHEN debit THEN -units END), 0)::bigint AS {place}"
    for place in ("available", "granted", "held", "captured")
)

# The sums of the whole journal by organisation, for an audit without checkpoints.
SUM_ALL = f"""
CREATE TEMPORARY TABLE audit_journal ON COMMIT DROP AS
{JOURNAL.format(of="organisation_id,", places=PLACES)} GROUP BY organisation_id"""

# Of the quotas the sum by organisation, for a look at all accounts of a shard.
SUM_QUOTAS = """
CREATE TEMPORARY TABLE audit_quotas ON COMMIT DROP AS
SELECT organisation_id, sum(units)::bigint AS units FROM quotas GROUP BY organisation_id
HAVING sum(units) <> 0"""

# Rows of an account's journal behind its sums, as a range of the index `journal_by_organisation`.
_BEHIND = """(j.organisation_id, j.id) > (a.organisation_id, coalesce(s.journal_id, 0))
    AND (j.organisation_id, j.id) <= (a.organisation_id, 9223372036854775807)"""

SINCE = f"""LATERAL (
    {JOURNAL.format(of="", places=PLACES)} j WHERE {_BEHIND}) d ON true"""
ALL = "audit_journal d ON d.organisation_id = a.organisation_id"

# How PostgreSQL is to join. With old statistics it takes a shard for nearly empty, and would go through a
# whole table for each of its accounts.
JOIN_SETS = """
SET LOCAL enable_seqscan = off; SET LOCAL enable_nestloop = off;
SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on"""
JOIN_EACH = """
SET LOCAL enable_seqscan = off; SET LOCAL enable_nestloop = on;
SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"""

TOTALS = """
SELECT count(*)::int AS organisations, coalesce(sum(topped_up), 0)::bigint AS topped_up,
       coalesce(sum(available), 0)::bigint AS available, coalesce(sum(granted), 0)::bigint AS granted,
       coalesce(sum(held), 0)::bigint AS held, coalesce(sum(captured), 0)::bigint AS captured
FROM accounts WHERE shard = $1"""

# Accounts of a shard, without those in $2, that are not idle or may break a law. Of one that is idle the
# journal has no row behind its sums; its units, its quotas and its recorded events are as the sums say, and
# a loss has left nothing uncharged there, which every audit counts.
LOUD = f"""
SELECT a.organisation_id FROM (
    SELECT * FROM accounts a WHERE a.shard = $1
    AND NOT EXISTS (SELECT FROM unnest($2::bigint[]) AS b (id) WHERE b.id = a.organisation_id) OFFSET 0) a
LEFT JOIN audit_sums s ON s.organisation_id = a.organisation_id AND s.shard = $1
LEFT JOIN audit_quotas q ON q.organisation_id = a.organisation_id
WHERE NOT (a.topped_up = a.available + a.granted + a.held + a.captured
    AND least(a.available, a.granted, a.held, a.captured) >= 0 AND a.granted = coalesce(q.units, 0)
    AND {" AND ".join(f"a.{name} = coalesce(s.{name}, 0)" for name in JournalSums._fields[:5])}
    AND coalesce(s.holds - s.recorded_held = s.gap_held, true)
    AND coalesce(s.captured - s.recorded_captured = s.gap_captured AND s.gap_captured >= 0, true)
    AND coalesce(s.releases - s.recorded_released = s.gap_released, true)
    AND (SELECT j.id FROM journal j WHERE {_BEHIND} ORDER BY j.organisation_id, j.id LIMIT 1) IS NULL)"""  # noqa: S608 - constants

# Accounts of a shard, with what their laws are judged by.
ACCOUNTS = """
SELECT a.organisation_id, a.shard, a.topped_up, a.available, a.granted, a.held, a.captured,
       coalesce((SELECT sum(units)::bigint FROM quotas q WHERE q.organisation_id = a.organisation_id), 0),
       {sums},
       coalesce(d.least <> a.shard OR d.most <> a.shard, false)::int,
       coalesce(s.recorded_held, 0), coalesce(s.recorded_captured, 0), coalesce(s.recorded_released, 0),
       coalesce(s.gap_held, 0), coalesce(s.gap_captured, 0), coalesce(s.gap_released, 0),
       coalesce(d.journal_id, s.journal_id, 0), coalesce(d.rows, 0)
FROM accounts a
LEFT JOIN audit_sums s ON s.organisation_id = a.organisation_id AND NOT {full}
LEFT JOIN {journal}
WHERE a.shard = $1 {some} ORDER BY a.organisation_id"""
SOME = "AND a.organisation_id = ANY($2::bigint[])"
SUMS = ", ".join(f"coalesce(s.{name}, 0) + coalesce(d.{name}, 0)" for name in JournalSums._fields)

LAST_MOVEMENT = """
SELECT id, movement, units, shard, position FROM journal
WHERE organisation_id = $1 AND id = $2"""

SUMS_FIELDS = (
    "organisation_id", "shard", "journal_id", *JournalSums._fields,
    "recorded_held", "recorded_captured", "recorded_released", "gap_held", "gap_captured", "gap_released",
)  # fmt: skip
SAVE_SUMS = (
    f"INSERT INTO audit_sums ({', '.join(SUMS_FIELDS)}) SELECT * FROM unnest("  # noqa: S608 - constants
    + ", ".join(f"${i}::bigint[]" for i in range(1, len(SUMS_FIELDS) + 1))
    + ") ON CONFLICT (organisation_id) DO UPDATE SET "
    + ", ".join(f"{name} = EXCLUDED.{name}" for name in SUMS_FIELDS[1:])
)
SAVE_CHECKPOINT = """
INSERT INTO audit_checkpoints (shard, number, at, losses, stream_ms, stream_seq, organisations,
    holds, captured, releases, recorded, digest, link)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"""

# By organisation of a shard, the units that wait to be booked.
UNBOOKED = """
SELECT organisation_id, sum(held)::bigint, sum(captured)::bigint, sum(released)::bigint FROM unbooked
WHERE shard = $1 AND booked_at IS NULL GROUP BY organisation_id"""
