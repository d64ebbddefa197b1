"""The books as an audit reads them: one snapshot of PostgreSQL, and the checkpoints in it.

Everything of one audit happens on one connection of its own, in one transaction that sees the
database at one instant. It locks nothing that the engine writes. An advisory lock lets one audit
at a time go on, on all machines: checkpoints form a chain.

What may still change what a checkpoint has closed. In the journal: nothing, by the engine. Whoever
writes it has the account's row locked, so within an organisation ids go up in the order of the
commits, and every row that comes later has a higher one. In the activity: nothing, by the engine.
A place in a shard's stream is behind a checkpoint only when all before it was in ClickHouse; late
receipts and retries are new entries, with later places; a block that is sent again is stored once.
Months of the activity that are dropped, by hand or by a TTL, stay in the sums. A Redis that lost
data is told by `shards.losses`: a new checkpoint then takes up the difference (`gap`) and later
audits compare from there. Rows that are changed or put in by hand behind a checkpoint are
noticed by `--full` alone.

Killed, frozen or cut off anywhere: the transaction is rolled back, by the server at the latest when
the audit's time is over, or was committed with checkpoints that hold; either way the next audit
finds a whole chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from engine.credit.laws import Account, JournalSums, Units
from engine.credit.ledger_records import StreamMark
from engine.errors import Unavailable
from engine.stores.postgres.errors import translated
from engine.stream_id import StreamId

# "sms" and "u": the audit's own among the database's advisory locks.
_LOCK = 0x736D7375
# Accounts read at a time: a millisecond's work for whoever reads them. Sums written at a time.
_READ_ROWS = 50
_WRITE_ROWS = 200

_SHARDS = """
SELECT shard, position, link, losses, (extract(epoch FROM lost_at) * 1000)::bigint FROM shards"""

_ACCOUNT_SHARDS = "SELECT DISTINCT shard FROM accounts"

# Each shard's last checkpoint and the link before it.
_CHECKPOINTS = """
SELECT DISTINCT ON (c.shard) c.shard, c.number, c.at, c.losses, c.stream_ms, c.stream_seq, c.organisations,
       c.holds, c.captured, c.releases, c.recorded, c.digest, c.link, coalesce(p.link, '')
FROM audit_checkpoints c
LEFT JOIN audit_checkpoints p ON p.shard = c.shard AND p.number = c.number - 1
ORDER BY c.shard, c.number DESC"""

_SUMS_DIGEST = """
SELECT count(*)::int, coalesce(sum(holds), 0)::bigint, coalesce(sum(captured), 0)::bigint,
       coalesce(sum(releases), 0)::bigint,
       coalesce(sum(recorded_held + recorded_captured + recorded_released), 0)::bigint,
       encode(sha256(convert_to(coalesce(string_agg(concat_ws(' ',
           organisation_id, journal_id, topped_up, available, granted, held, captured, holds, releases,
           recorded_held, recorded_captured, recorded_released, gap_held, gap_captured, gap_released),
           E'\\n' ORDER BY organisation_id), ''), 'UTF8')), 'hex')
FROM audit_sums WHERE shard = $1"""

# What rows of the journal add up to; `{of}` tells which.
_JOURNAL = """
SELECT {of} max(id) AS journal_id, count(*) AS rows, min(shard) AS least, max(shard) AS most,
       coalesce(sum(units) FILTER (WHERE debit = 'payments'), 0)::bigint AS topped_up,
       {places},
       coalesce(sum(units) FILTER (WHERE movement = 'hold'), 0)::bigint AS holds,
       coalesce(sum(units) FILTER (WHERE movement = 'release'), 0)::bigint AS releases
FROM journal"""
_PLACES = ", ".join(
    f"coalesce(sum(CASE '{place}' WHEN credit THEN units WHEN debit THEN -units END), 0)::bigint AS {place}"
    for place in ("available", "granted", "held", "captured")
)

# The whole journal, summed once, for an audit without checkpoints.
_SUM_ALL = f"""
CREATE TEMPORARY TABLE audit_journal ON COMMIT DROP AS
{_JOURNAL.format(of="organisation_id,", places=_PLACES)} GROUP BY organisation_id"""

_SINCE = f"""LATERAL (
    {_JOURNAL.format(of="", places=_PLACES)} j
    WHERE j.organisation_id = a.organisation_id AND j.id > coalesce(s.journal_id, 0)) d ON true"""
_ALL = "audit_journal d ON d.organisation_id = a.organisation_id"

_ACCOUNTS = """
SELECT a.organisation_id, a.shard, a.topped_up, a.available, a.granted, a.held, a.captured,
       coalesce((SELECT sum(units)::bigint FROM quotas q WHERE q.organisation_id = a.organisation_id), 0),
       {sums},
       coalesce(d.least <> a.shard OR d.most <> a.shard, false)::int,
       coalesce(s.recorded_held, 0), coalesce(s.recorded_captured, 0), coalesce(s.recorded_released, 0),
       coalesce(s.gap_held, 0), coalesce(s.gap_captured, 0), coalesce(s.gap_released, 0),
       coalesce(d.journal_id, s.journal_id, 0), coalesce(d.rows, 0), s.organisation_id IS NOT NULL
FROM accounts a
LEFT JOIN audit_sums s ON s.organisation_id = a.organisation_id AND NOT $2
LEFT JOIN {journal}
WHERE a.shard = $1 ORDER BY a.organisation_id"""
_SUMS = ", ".join(f"coalesce(s.{name}, 0) + coalesce(d.{name}, 0)" for name in JournalSums._fields)

_LAST_MOVEMENT = """
SELECT id, movement, units, shard, position FROM journal
WHERE organisation_id = $1 AND id = $2"""

_SUMS_FIELDS = (
    "organisation_id", "shard", "journal_id", *JournalSums._fields,
    "recorded_held", "recorded_captured", "recorded_released", "gap_held", "gap_captured", "gap_released",
)  # fmt: skip
_SAVE_SUMS = (
    f"INSERT INTO audit_sums ({', '.join(_SUMS_FIELDS)}) SELECT * FROM unnest("  # noqa: S608 - constants
    + ", ".join(f"${i}::bigint[]" for i in range(1, len(_SUMS_FIELDS) + 1))
    + ") ON CONFLICT (organisation_id) DO UPDATE SET "
    + ", ".join(f"{name} = EXCLUDED.{name}" for name in _SUMS_FIELDS[1:])
)
_SAVE_CHECKPOINT = """
INSERT INTO audit_checkpoints (shard, number, at, losses, stream_ms, stream_seq, organisations,
    holds, captured, releases, recorded, digest, link)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"""


class Checkpoint(msgspec.Struct, frozen=True):
    """Where the last audit that closed a shard's past ended."""

    number: int
    at: datetime
    losses: int
    # Recorded events before this place in the shard's activity stream are in its sums.
    stream: StreamId
    # Of the shard's sums: organisations, units, digest.
    sums: tuple[int, int, int, int, int, str]
    link: str
    link_before: str

    def sound(self, shard: int, sums: tuple[int, int, int, int, int, str]) -> bool:
        """Whether the row and the sums it speaks of are as they were written."""
        return sums == self.sums and self.link == _link(
            self.link_before, shard, self.number, self.at, self.losses, self.stream, sums
        )


class ShardBooks(msgspec.Struct, frozen=True):
    """What the books say of a shard."""

    mark: StreamMark = StreamMark()
    # How often data of its Redis were lost, and when last, milliseconds since 1970.
    losses: int = 0
    lost_at_ms: int | None = None
    checkpoint: Checkpoint | None = None


class Standing(msgspec.Struct, frozen=True):
    """An account, and what else its next sums need."""

    account: Account
    # The last row of its journal in the snapshot, and how many came since the last checkpoint.
    journal_id: int
    rows: int
    # Whether the last checkpoint has sums of it.
    known: bool


class AuditBooks:
    """One audit's connection. Every call raises Unavailable; after that, only `close`."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._transaction: Any = None
        self._at = datetime.fromtimestamp(0, UTC)
        self._full = False
        self._query = ""

    @classmethod
    async def connect(cls, url: str, timeout_s: float, audit_s: float) -> AuditBooks:
        """Raises Unavailable when PostgreSQL does not answer within `timeout_s`.

        `audit_s`: after so long without a word from us, or on one statement, the server ends it.
        """
        audit_ms = str(int(audit_s * 1000) + 1)
        with translated():
            connection = await asyncpg.connect(
                url,
                timeout=timeout_s,
                server_settings={
                    "application_name": "smsengine audit",
                    "jit": "off",
                    "statement_timeout": audit_ms,
                    "idle_in_transaction_session_timeout": audit_ms,
                },
            )
        return cls(connection)

    def close(self) -> None:
        """Drop the connection and with it whatever was not committed."""
        self._connection.terminate()

    async def take_turn(self, timeout_s: float) -> bool:
        """Wait until no other audit is under way, anywhere; False when one still is after `timeout_s`."""
        try:
            with translated():
                await self._connection.execute(f"SELECT pg_advisory_lock({_LOCK})", timeout=timeout_s)
        except Unavailable as e:
            if isinstance(e.__cause__, TimeoutError):
                return False
            raise
        return True

    async def begin(self) -> dict[int, ShardBooks]:
        """A new snapshot, instead of the one before; what it says of each shard it knows."""
        with translated():
            if self._transaction is not None:
                await self._transaction.rollback()
            self._transaction = self._connection.transaction(isolation="repeatable_read")
            await self._transaction.start()
            rows = await self._connection.fetch(_SHARDS)
            self._at = await self._connection.fetchval("SELECT now()")
            last = {c[0]: _checkpoint(c) for c in await self._connection.fetch(_CHECKPOINTS)}
            others = [row[0] for row in await self._connection.fetch(_ACCOUNT_SHARDS)]
        found = {shard: ShardBooks(checkpoint=last.get(shard)) for shard in others}
        for shard, position, link, losses, lost_at_ms in rows:
            mark = StreamMark(StreamId.parse(position), link)
            found[shard] = ShardBooks(mark, losses, lost_at_ms, last.get(shard))
        return found

    async def prepare(self, *, full: bool) -> None:
        """Before `accounts`: with `full`, or when there is no checkpoint yet, sum the journal as a whole."""
        self._full = full
        with translated():
            if full or not await self._connection.fetchval("SELECT EXISTS (SELECT FROM audit_checkpoints)"):
                await self._connection.execute(_SUM_ALL)
                await self._connection.execute("ANALYZE audit_journal")
                self._query = _ACCOUNTS.format(sums=_SUMS, journal=_ALL)
            else:
                # Statistics that are behind must not lead to a scan of the journal for each account.
                await self._connection.execute("SET LOCAL enable_seqscan = off")
                self._query = _ACCOUNTS.format(sums=_SUMS, journal=_SINCE)

    async def sound(self, shard: int, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint and its sums are as they were written."""
        with translated():
            row = await self._connection.fetchrow(_SUMS_DIGEST, shard)
        return checkpoint.sound(shard, tuple(row))

    async def accounts(self, shard: int) -> AsyncIterator[list[Standing]]:
        """The shard's accounts by organisation, in chunks."""
        with translated():
            cursor = await self._connection.cursor(self._query, shard, self._full)
            while rows := await cursor.fetch(_READ_ROWS):
                found = [_standing(row) for row in rows]
                for place, standing in enumerate(found):
                    a = standing.account
                    if a.strays or a.journal[:5] != (a.topped_up, a.available, a.granted, a.held, a.captured):
                        found[place] = await self._with_last(standing)
                yield found

    async def _with_last(self, standing: Standing) -> Standing:
        """With the last row of its journal, so that a breach can be looked into."""
        a = standing.account
        row = await self._connection.fetchrow(_LAST_MOVEMENT, a.organisation_id, standing.journal_id)
        if row is None:
            return standing
        id_, movement, units, shard, position = row
        where = "" if shard is None else f", shard {shard} up to {position}"
        last = f"{id_}: {movement} of {units}{where}"
        return msgspec.structs.replace(standing, account=msgspec.structs.replace(a, last_movement=last))

    def due(self, books: ShardBooks) -> bool:
        """Whether a new checkpoint is to be written for a shard that is clean: the last one is of another
        day (UTC), or of before a loss, or is not to be trusted."""
        last = books.checkpoint
        if last is None or last.losses != books.losses:
            return True
        # A new beginning would hide what has gone missing since the old one.
        if self._full:
            return not books.losses
        return last.at.date() < self._at.date()

    async def close_shard(
        self, shard: int, books: ShardBooks, stream: StreamId, sums: Sequence[tuple[int, ...]]
    ) -> None:
        """Write a checkpoint: `sums` are rows of `audit_sums` that have changed, see `sums_of`."""
        with translated():
            for start in range(0, len(sums), _WRITE_ROWS):
                columns = zip(*sums[start : start + _WRITE_ROWS], strict=True)
                await self._connection.execute(_SAVE_SUMS, *map(list, columns))
            digest = tuple(await self._connection.fetchrow(_SUMS_DIGEST, shard))
            last = books.checkpoint
            number = last.number + 1 if last else 1
            link = _link(last.link if last else "", shard, number, self._at, books.losses, stream, digest)
            await self._connection.execute(
                _SAVE_CHECKPOINT, shard, number, self._at, books.losses, *stream, *digest, link
            )

    async def commit(self) -> None:
        """End the snapshot, with the checkpoints that were written. Raises Unavailable when it is unknown
        whether they were."""
        with translated():
            await self._transaction.commit()


def sums_of(standing: Standing, recorded: Units, gap: Units) -> tuple[int, ...]:
    """A row of `audit_sums`; `recorded` are the units of archived events behind the last checkpoint."""
    a = standing.account
    return (
        a.organisation_id, a.shard, standing.journal_id, *a.journal,
        *(one + other for one, other in zip(a.recorded, recorded, strict=True)), *gap,
    )  # fmt: skip


def _standing(row: asyncpg.Record) -> Standing:
    organisation_id, shard, topped_up, available, granted, held, captured, quotas, *more = row
    account = Account(
        organisation_id, shard, topped_up, available, granted, held, captured, quotas,
        journal=JournalSums(*more[:7]), strays=more[7], recorded=Units(*more[8:11]), gap=Units(*more[11:14]),
    )  # fmt: skip
    return Standing(account, *more[14:])


def _checkpoint(row: asyncpg.Record) -> Checkpoint:
    _, number, at, losses, ms, seq, *sums, link, before = row
    return Checkpoint(number, at, losses, StreamId(ms, seq), tuple(sums), link, before)


def _link(
    before: str, shard: int, number: int, at: datetime, losses: int, stream: StreamId, sums: Any
) -> str:
    """The digest by which a checkpoint names all that came before it."""
    facts = [before, shard, number, at.astimezone(UTC).isoformat(), losses, *stream, *sums]
    return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()
