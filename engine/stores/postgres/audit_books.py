"""The books for an audit: one snapshot of PostgreSQL, and the checkpoints in it.

One audit has one connection of its own and one transaction, which sees the database at one instant.
It locks nothing that the engine writes. Checkpoints form a chain, so an advisory lock lets only one
audit at a time go on, on all machines.

Can the past that a checkpoint has closed still change? The journal: the engine does not change it.
A transaction that writes the journal has the account's row locked, so the ids of an organisation go
up in the order of the commits, and every later row has a higher id. The activity: the engine does not
change it. A checkpoint closes a place in a shard's stream only when everything before it is in
ClickHouse. Late receipts and retries are new entries with later places, and a block that is sent
again is stored once. Months of the activity that are dropped, by hand or by a TTL, stay in the sums.
`shards.losses` says that Redis lost data: a new checkpoint then takes up the difference (`gap`), and
later audits compare from there. Only `--full` notices rows before a checkpoint that somebody changed
or inserted by hand.

Killed, canceled or cut off at any step: the server notices within `_GONE_MS` that the connection is
gone, ends the statement, rolls the transaction back and lets the advisory lock go. Frozen: it does so
when the audit's time is over. Or the transaction was committed with checkpoints that hold. In all cases
the next audit finds a whole chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from engine.credit.laws import Account, JournalSums, Units
from engine.credit.ledger_records import StreamMark
from engine.credit.rebuilding import OpenLoss
from engine.credit.uncharged import Uncharged
from engine.stores.postgres import audit_sql as sql
from engine.stores.postgres.connection import connect
from engine.stores.postgres.errors import translated
from engine.stores.postgres.losses import open_losses_of, settle_losses
from engine.stream_id import StreamId

# The number of the audit's advisory lock in this database: "smsu" in ASCII.
_LOCK = 0x736D7375
# How often the server looks whether the connection is still there, while a statement runs, milliseconds.
_GONE_MS = 1000
# An audit says its end under this name: in `pg_stat_activity`, where those see it who wait for it.
_NAME = "smsengine audit until "
# How much later than asked for the server may answer that the wait is over, seconds.
_LATE_S = 1.0
# Accounts that are read at a time, about a millisecond of work; sums that are written at a time.
_READ_ROWS = 50
_WRITE_ROWS = 200


class Checkpoint(msgspec.Struct, frozen=True):
    """A row of `audit_checkpoints`: up to where an audit has closed the past of a shard."""

    number: int
    at: datetime
    losses: int
    # Events before this place in the shard's activity stream are in the sums.
    stream: StreamId
    # Of the shard's sums: organisations, units held, captured, released and recorded, digest.
    sums: tuple[int, int, int, int, int, str]
    link: str
    link_before: str

    def sound(self, shard: int, sums: tuple[int, int, int, int, int, str]) -> bool:
        """Whether this row and `sums`, as they are now, are as they were written; `sums` as in the field."""
        return sums == self.sums and self.link == _link(
            self.link_before, shard, self.number, self.at, self.losses, self.stream, sums
        )


class ShardBooks(msgspec.Struct, frozen=True):
    """A shard in the books."""

    mark: StreamMark = StreamMark()
    # How often its Redis lost data, and when it last did, milliseconds since 1970.
    losses: int = 0
    lost_at_ms: int | None = None
    checkpoint: Checkpoint | None = None
    # What was lost and nothing was done about yet.
    losses_open: tuple[OpenLoss, ...] = ()
    # Accounts that were locked when its books were closed, and still are.
    unclosed: int = 0

    @property
    def to_rebuild(self) -> bool:
        """Whether usage that PostgreSQL lost there waits to be rebuilt."""
        return any(loss.of_books for loss in self.losses_open)


class Standing(msgspec.Struct, frozen=True):
    """An account, and what its next row of sums needs beside it."""

    account: Account
    # Id of the last row of its journal in the snapshot, and how many rows came since the last checkpoint.
    journal_id: int
    rows: int


class AuditBooks:
    """The connection of one audit. Every call raises Unavailable; after that only `close` may be called."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._transaction: Any = None
        self._at = datetime.fromtimestamp(0, UTC)
        self._full = False
        # Whether the whole journal is summed.
        self._whole = False

    @classmethod
    async def connect(cls, url: str, timeout_s: float, audit_s: float) -> AuditBooks:
        """Connect. Raises Unavailable when PostgreSQL does not answer within `timeout_s` seconds.

        `audit_s`: the server ends a statement, or a transaction without one, after so many seconds.
        """
        audit_ms = str(int(audit_s * 1000) + 1)
        with translated():
            connection = await connect(
                url,
                timeout_s=timeout_s,
                name=name_of(datetime.now(UTC) + timedelta(seconds=audit_s)),
                settings={
                    "client_connection_check_interval": str(_GONE_MS),
                    "jit": "off",
                    "statement_timeout": audit_ms,
                    "idle_in_transaction_session_timeout": audit_ms,
                },
            )
        return cls(connection)

    def close(self) -> None:
        """Drop the connection, and with it everything that was not committed."""
        self._connection.terminate()

    async def take_turn(self, timeout_s: float) -> str:
        """Wait up to `timeout_s` seconds for other audits, on all machines.

        "" when it is our turn; else a sentence without its end about the one that still goes on. Then only
        `close` may be called.
        """
        with translated():
            try:
                await self._connection.execute(f"SET lock_timeout = {max(1, int(timeout_s * 1000))}")
                lock = f"SELECT pg_advisory_lock({_LOCK})"
                await self._connection.execute(lock, timeout=timeout_s + _LATE_S)
            except asyncpg.LockNotAvailableError:
                row = await self._connection.fetchrow(sql.UNDER_WAY, _LOCK, timeout=_LATE_S)
                return under_way(*row) if row else "another audit was under way until now"
            await self._connection.execute("SET lock_timeout = 0")
        return ""

    async def begin(self) -> dict[int, ShardBooks]:
        """Take a new snapshot in place of the last one; its shards, by number."""
        with translated():
            if self._transaction is not None:
                await self._transaction.rollback()
            self._transaction = self._connection.transaction(isolation="repeatable_read")
            await self._transaction.start()
            rows = await self._connection.fetch(sql.SHARDS)
            self._at = await self._connection.fetchval("SELECT now()")
            last = {c[0]: _checkpoint(c) for c in await self._connection.fetch(sql.CHECKPOINTS)}
            others = [row[0] for row in await self._connection.fetch(sql.ACCOUNT_SHARDS)]
            open_losses = await open_losses_of(self._connection)
            unclosed = dict(await self._connection.fetch(sql.UNCLOSED))
        found = {shard: ShardBooks(checkpoint=last.get(shard)) for shard in others}
        for shard, position, link, losses, lost_at_ms in rows:
            mark = StreamMark(StreamId.parse(position), link)
            waits = tuple(loss for loss in open_losses if loss.shard == shard)
            found[shard] = ShardBooks(
                mark, losses, lost_at_ms, last.get(shard), waits, unclosed.get(shard, 0)
            )
        return found

    async def prepare(self, *, full: bool) -> None:
        """Prepare `accounts`: with `full`, or when there is no checkpoint yet, sum the whole journal."""
        self._full = full
        with translated():
            first = not await self._connection.fetchval("SELECT EXISTS (SELECT FROM audit_checkpoints)")
            self._whole = full or first
            await self._connection.execute(sql.JOIN_SETS)
            await self._connection.execute(sql.SUM_ALL if self._whole else sql.SUM_QUOTAS)

    async def sound(self, shard: int, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint of the shard and its sums are as they were written."""
        with translated():
            row = await self._connection.fetchrow(sql.SUMS_DIGEST, shard)
        return checkpoint.sound(shard, tuple(row))

    async def totals(self, shard: int) -> tuple[int, dict[str, int]]:
        """(how many accounts the shard has, {place: units of all of them})."""
        with translated():
            organisations, *units = await self._connection.fetchrow(sql.TOTALS, shard)
        return organisations, dict(zip(JournalSums._fields, units, strict=False))

    async def accounts(self, shard: int, busy: Collection[int]) -> AsyncIterator[list[Standing]]:
        """The accounts of a shard in the order of the organisations, in chunks.

        Those that have been idle since the last checkpoint and break no law are left out; they cost
        PostgreSQL a few microseconds each. `busy`: organisations that have events or usage since.
        """
        with translated():
            if self._whole:
                query = sql.ACCOUNTS.format(sums=sql.SUMS, full=self._full, journal=sql.ALL, some="")
                cursor = await self._connection.cursor(query, shard)
            else:
                await self._connection.execute(sql.JOIN_SETS)
                loud = [row[0] for row in await self._connection.fetch(sql.LOUD, shard, list(busy))]
                await self._connection.execute(sql.JOIN_EACH)
                query = sql.ACCOUNTS.format(sums=sql.SUMS, full=False, journal=sql.SINCE, some=sql.SOME)
                cursor = await self._connection.cursor(query, shard, [*loud, *busy])
            while rows := await cursor.fetch(_READ_ROWS):
                found = [_standing(row) for row in rows]
                for place, standing in enumerate(found):
                    a = standing.account
                    if a.strays or a.journal[:5] != (a.topped_up, a.available, a.granted, a.held, a.captured):
                        found[place] = await self._with_last(standing)
                yield found

    async def unbooked(self, shard: int) -> dict[int, Units]:
        """By organisation of a shard, the units that wait to be booked."""
        with translated():
            rows = await self._connection.fetch(sql.UNBOOKED, shard)
        return {row[0]: Units(*row[1:]) for row in rows}

    async def uncharged_messages(self) -> int:
        """How many messages Redis left sent and not charged, as far as audits could count them."""
        with translated():
            messages: int = await self._connection.fetchval(sql.UNCHARGED_MESSAGES)
        return messages

    async def _with_last(self, standing: Standing) -> Standing:
        """`standing` with the last row of its journal as text, for whoever looks into a breach."""
        a = standing.account
        row = await self._connection.fetchrow(sql.LAST_MOVEMENT, a.organisation_id, standing.journal_id)
        if row is None:
            return standing
        id_, movement, units, shard, position = row
        where = "" if shard is None else f", shard {shard} up to {position}"
        last = f"{id_}: {movement} of {units}{where}"
        return msgspec.structs.replace(standing, account=msgspec.structs.replace(a, last_movement=last))

    def due(self, books: ShardBooks) -> bool:
        """Whether a shard that is clean gets a new checkpoint.

        It does when the last one is from an earlier day (UTC) or from before a loss, when there is
        none, and in a full audit of a shard that never lost data.
        """
        last = books.checkpoint
        if last is None or last.losses != books.losses:
            return True
        # A new beginning would hide what has gone missing since the old one.
        if self._full:
            return not books.losses
        return last.at.date() < self._at.date()

    async def close_shard(
        self,
        shard: int,
        books: ShardBooks,
        stream: StreamId,
        sums: Sequence[tuple[int, ...]],
        uncharged: Uncharged | None,
    ) -> None:
        """Write a checkpoint of a shard at the place `stream`; `sums` are its changed rows (`sums_of`).

        `uncharged`: what its open losses have left uncharged, which are settled by that; None: it has none.
        """
        with translated():
            for start in range(0, len(sums), _WRITE_ROWS):
                columns = zip(*sums[start : start + _WRITE_ROWS], strict=True)
                await self._connection.execute(sql.SAVE_SUMS, *map(list, columns))
            digest = tuple(await self._connection.fetchrow(sql.SUMS_DIGEST, shard))
            last = books.checkpoint
            number = last.number + 1 if last else 1
            link = _link(last.link if last else "", shard, number, self._at, books.losses, stream, digest)
            await self._connection.execute(
                sql.SAVE_CHECKPOINT, shard, number, self._at, books.losses, *stream, *digest, link
            )
            if uncharged is not None:
                await settle_losses(self._connection, books.losses_open, uncharged)

    async def commit(self) -> None:
        """Commit the checkpoints and end the snapshot.

        Raises Unavailable when nobody knows whether they were committed.
        """
        with translated():
            await self._transaction.commit()


def name_of(ends: datetime) -> str:
    """The name of the connection of an audit that ends then at the latest."""
    return f"{_NAME}{_clock(ends)}"


def under_way(since: datetime, name: str) -> str:
    """A sentence without its end about an audit that another has to wait for; `name`: of its connection."""
    text = f"another audit is under way since {_clock(since)}"
    return f"{text} and ends by {name.removeprefix(_NAME)} at the latest" if name.startswith(_NAME) else text


def _clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def sums_of(standing: Standing, recorded: Units, gap: Units) -> tuple[int, ...]:
    """A row of `audit_sums`; `recorded` are the units of events archived after the last checkpoint."""
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
    """The digest of a checkpoint and of the link before it, and so of the whole chain."""
    facts = [before, shard, number, at.astimezone(UTC).isoformat(), losses, *stream, *sums]
    return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()
