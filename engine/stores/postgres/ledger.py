"""The books in PostgreSQL, for the one active ledger.

The active ledger is the one whose session has the advisory lock. It writes on the same
connection. Each transaction proves first that no other ledger has begun to lead
(`ledger_term.py`), so two that lead at once harm nothing: one of them steps down.

Locks of others. Top-ups lock an account for a moment, and the ledger waits for them. A transaction
that keeps a lock for longer (one that an operator left open, or one of a frozen API process) holds
up the shard of that account and no other. The entries of that shard are left out and tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import asyncpg
import msgspec

from engine.credit.ledger_records import (
    MOVEMENTS,
    Account,
    Applied,
    BalanceEvent,
    Books,
    Recovered,
    StoredAnswer,
    StreamMark,
    UsageEntry,
    WaitingRequest,
)
from engine.credit.ports import Decide
from engine.credit.posting import organisations_of, portion
from engine.credit.records import QuotaRequest
from engine.stores.postgres.account_locks import LOCK_ACCOUNTS, AccountLocked, lock_accounts, quotas_of_fenced
from engine.stores.postgres.connection import connect
from engine.stores.postgres.errors import translated
from engine.stores.postgres.ledger_term import prove_mark, prove_next, prove_term, take_term
from engine.stream_id import StreamId

# The number of the advisory lock in this database; any constant works.
_LOCK = 0x736D7365

# How long the ledger waits for one lock, milliseconds; a top-up has it for less.
_LOCK_WAIT_MS = 100
# The same when a shard is closed, milliseconds; closing cannot leave any account out.
_CLOSE_WAIT_MS = 3_000
# How many quotas fences end in one transaction: of all shards together, and of each shard at the
# least.
_QUOTAS_MAX = 4_000
_QUOTAS_OF_SHARD_MIN = 50

_encode = msgspec.msgpack.Encoder().encode

_LOAD_QUOTAS = "SELECT organisation_id, holder, units FROM quotas WHERE organisation_id = ANY($1::bigint[])"

_ORGANISATIONS_OF_SHARD = "SELECT organisation_id FROM accounts WHERE shard = $1"

# Top-ups change `available` on other connections, so the rows have been locked since they were read.
_SAVE_ACCOUNTS = """
UPDATE accounts a SET available = n.available, granted = n.granted, held = n.held, captured = n.captured
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS n (organisation_id, available, granted, held, captured)
WHERE a.organisation_id = n.organisation_id"""

_SAVE_QUOTAS = """
INSERT INTO quotas (organisation_id, holder, units)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[])
ON CONFLICT (organisation_id, holder) DO UPDATE SET units = EXCLUDED.units"""

_DROP_QUOTAS = """
DELETE FROM quotas q USING unnest($1::bigint[], $2::text[]) AS n (organisation_id, holder)
WHERE q.organisation_id = n.organisation_id AND q.holder = n.holder"""

_WRITE_JOURNAL = """
INSERT INTO journal (organisation_id, movement, debit, credit, units, shard, position, reference)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::int[], $7::text[], $8::text[])"""

_WRITE_ANSWERS = """
INSERT INTO answers (shard, holder, payload)
SELECT shard, holder, payload FROM unnest($1::int[], $2::text[], $3::bytea[])
    WITH ORDINALITY AS n (shard, holder, payload, place) ORDER BY place
RETURNING id"""

_SAVE_MARKS = """
UPDATE shards s SET position = n.position, link = n.link
FROM unnest($1::int[], $2::text[], $3::text[]) AS n (shard, position, link)
WHERE s.shard = n.shard"""

# Delete the answers that were sent, and keep the row of the last one of each shard.
_FORGET_ANSWERS = """
WITH sent AS (DELETE FROM answers WHERE id <= $1 RETURNING shard, id)
UPDATE shards s SET delivered = n.id
FROM (SELECT shard, max(id) AS id FROM sent GROUP BY shard) AS n
WHERE s.shard = n.shard"""

_CLOSE_SHARD = """
UPDATE shards SET former = array_append(former, generation), generation = $2, delivered = 0,
    losses = losses + 1, lost_at = now() WHERE shard = $1"""

_WRITE_WAITING = """
INSERT INTO waiting_requests (shard, holder, epoch, number, organisation_id, wanted, needed, waiting)
SELECT shard, holder, epoch, number, organisation_id, wanted, needed, waiting
FROM unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::bigint[])
    WITH ORDINALITY AS n (shard, holder, epoch, number, organisation_id, wanted, needed, waiting, place)
ORDER BY place RETURNING id"""

_WRITE_EVENTS = """
INSERT INTO balance_events (shard, organisation_id, event, units)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[])"""

_FORGET_EVENTS = "DELETE FROM balance_events WHERE id <= $1"

_EVENTS = """
SELECT id, shard, organisation_id, event, units, (extract(epoch FROM at) * 1000000)::bigint
FROM balance_events ORDER BY id LIMIT $1"""
_EVENTS_MAX = 1_000


class PostgresLedger:
    """The port `LedgerStore` on one connection of its own.

    Every call raises Unavailable, ConfigError when an operator must act, and Broken. After Unavailable
    of a call that writes, nobody knows whether it was committed: `resign`, `lead`, `recover`.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """`timeout_s`: how long a connect and each statement may take, seconds."""
        self._url = url
        self._timeout_s = timeout_s
        self._connection: asyncpg.Connection | None = None
        # That of the last `recover`; no term in the database is 0.
        self._term = 0
        # By organisation. `decide` changes it through the books; `recover` reads it anew.
        self._waiting: dict[int, list[WaitingRequest]] = {}
        # Organisations whose accounts were locked when they were last wanted.
        self._locked: set[int] = set()

    async def lead(self) -> bool:
        """Try once to become the active ledger, connecting when needed; False while another is."""
        with self._border():
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect(
                    self._url,
                    timeout_s=self._timeout_s,
                    command_timeout_s=self._timeout_s,
                    name="smsengine ledger",
                    settings={
                        "lock_timeout": str(_LOCK_WAIT_MS),
                        "idle_in_transaction_session_timeout": str(round(self._timeout_s * 1000)),
                    },
                )
            return bool(await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK))

    async def resign(self) -> None:
        """Drop the connection, and with it the lock and whatever was not committed. Raises nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def recover(self) -> Recovered:
        """Begin a term, and read what the last active ledger had committed, with the waiting requests.

        A transaction of another ledger that commits afterwards cannot be: it no longer has the term.
        """
        with self._border() as connection:
            self._term = await take_term(connection)
            shards = await connection.fetch(
                "SELECT shard, generation, position, link, delivered, former FROM shards ORDER BY shard"
            )
            answers = await connection.fetch("SELECT id, shard, holder, payload FROM answers ORDER BY id")
            waiting = await connection.fetch(
                "SELECT id, shard, holder, epoch, number, organisation_id, wanted, needed, waiting"
                " FROM waiting_requests ORDER BY id"
            )
        self._waiting = {}
        self._locked.clear()
        for row in waiting:
            request = QuotaRequest(
                number=row["number"],
                organisation_id=row["organisation_id"],
                wanted=row["wanted"],
                needed=row["needed"],
                waiting=row["waiting"],
            )
            line = self._waiting.setdefault(row["organisation_id"], [])
            line.append(WaitingRequest(row["shard"], row["holder"], row["epoch"], request, row_id=row["id"]))
        return Recovered(
            generations={row["shard"]: row["generation"] for row in shards},
            marks={row["shard"]: StreamMark(StreamId.parse(row["position"]), row["link"]) for row in shards},
            delivered={row["shard"]: row["delivered"] for row in shards},
            former={row["shard"]: frozenset(row["former"]) for row in shards},
            answers=[StoredAnswer(*row) for row in answers],
            waiting=self._waiting,
        )

    async def open_shards(self, generation: str, shards: Sequence[int]) -> None:
        """Enter shards that are used for the first time, under `generation`."""
        with self._border() as connection:
            async with connection.transaction():
                await prove_term(connection, self._term)
                await connection.execute(
                    "INSERT INTO shards (shard, generation)"
                    " SELECT shard, $2 FROM unnest($1::int[]) AS n (shard)",
                    list(shards),
                    generation,
                )

    async def mark_lost(self, shards: Sequence[int]) -> None:
        """Count a loss of data for these shards; the audit then takes their activity up anew."""
        with self._border() as connection:
            async with connection.transaction():
                await prove_term(connection, self._term)
                await connection.execute(
                    "UPDATE shards SET losses = losses + 1, lost_at = now() WHERE shard = ANY($1::int[])",
                    list(shards),
                )

    async def close_shard(
        self, shard: int, generation: str, mark: StreamMark, decide: Callable[[Books], None], cause: str
    ) -> None:
        """Let `decide` change all accounts and quotas of a lost shard, and write that in one transaction.

        `mark` is where its books stood when they were read; Unavailable when they do not any more.
        The transaction also gives the shard the new generation and the position before all entries,
        and deletes its answers. `cause` becomes the reference of its journal rows. Waits up to
        `_CLOSE_WAIT_MS` for each account.
        """
        with self._border() as connection:
            async with connection.transaction():
                await prove_mark(connection, self._term, shard, mark)
                await self._close_shard(connection, shard, generation, decide, cause)

    async def _close_shard(
        self,
        connection: asyncpg.Connection,
        shard: int,
        generation: str,
        decide: Callable[[Books], None],
        cause: str,
    ) -> None:
        await connection.execute(f"SET LOCAL lock_timeout = {_CLOSE_WAIT_MS}")
        rows = await connection.fetch(_ORGANISATIONS_OF_SHARD, shard)
        accounts = await connection.fetch(LOCK_ACCOUNTS, [row[0] for row in rows])
        books = await self._books(connection, accounts)
        before = {o: msgspec.structs.astuple(a) for o, a in books.accounts.items()}
        decide(books)
        await self._save(connection, books, before, {shard: StreamMark(link=generation)}, cause)
        await connection.execute("DELETE FROM answers WHERE shard = $1", shard)
        await connection.execute(_CLOSE_SHARD, shard, generation)

    async def apply(self, entries: Sequence[UsageEntry], decide: Decide, sent: int) -> Applied:
        """Apply entries in one transaction: see `LedgerStore.apply`. Each statement has the time-out.

        Killed before the commit: nothing happened, not even of a fence that was only begun. Frozen:
        PostgreSQL ends the session after the time-out, and with it the locks and the leadership.
        """
        with self._border() as connection:
            try:
                return await self._apply(connection, entries, decide, sent)
            except AccountLocked:
                # It was rolled back before anything was decided. Do it again without the locked accounts.
                return await self._apply(connection, entries, decide, sent, patient=False)

    async def _apply(
        self,
        connection: asyncpg.Connection,
        entries: Sequence[UsageEntry],
        decide: Decide,
        sent: int,
        *,
        patient: bool = True,
    ) -> Applied:
        async with connection.transaction():
            await prove_next(connection, self._term, {e.shard: e for e in reversed(entries)})
            fences = list({(entry.shard, entry.holder): None for entry in entries if entry.kind == "fence"})
            fenced_shards = {shard for shard, _ in fences}
            quotas_max = max(_QUOTAS_OF_SHARD_MIN, _QUOTAS_MAX // max(1, len(fenced_shards)))
            quotas = await quotas_of_fenced(connection, fences, quotas_max + 1)
            wanted = {o for entry in entries for o in organisations_of(entry)}
            wanted.update(o for of_fence in quotas.values() for o in of_fence)
            wanted.update(o for o, line in self._waiting.items() if line and line[0].shard in fenced_shards)
            patient = patient and self._locked.isdisjoint(wanted)
            accounts, locked = await lock_accounts(connection, wanted, patient=patient)
            self._locked = self._locked - wanted | locked
            taken = portion(
                entries, locked=locked, quotas=quotas, waiting=self._waiting, quotas_max=quotas_max
            )
            marks = {entry.shard: StreamMark(entry.position, entry.link) for entry in taken.whole}
            held_up = frozenset(taken.held_up)
            if not taken.whole and not taken.begun:
                return Applied([], marks, held_up)
            books = await self._books(connection, accounts)
            before = {o: msgspec.structs.astuple(a) for o, a in books.accounts.items()}
            decide(books, taken.whole, taken.begun)
            # A fence that is only begun moves units although its position is not reached yet.
            begun = {entry.shard: StreamMark(entry.position) for entry in taken.begun}
            await self._save(connection, books, before, marks, places=begun | marks)
            if sent:
                await connection.execute(_FORGET_ANSWERS, sent)
            return Applied(await _save_answers(connection, books), marks, held_up)

    async def events(self, sent: int) -> list[BalanceEvent]:
        """Delete the events up to row `sent` (0: none); the oldest of the others, at most 1,000."""
        with self._border() as connection:
            if sent:
                await connection.execute(_FORGET_EVENTS, sent)
            rows = await connection.fetch(_EVENTS, _EVENTS_MAX)
        return [BalanceEvent(*row) for row in rows]

    async def _books(self, connection: asyncpg.Connection, accounts: Sequence[asyncpg.Record]) -> Books:
        """The books of these accounts, whose rows are locked."""
        quotas: dict[int, dict[str, int]] = {}
        for organisation_id, holder, units in await connection.fetch(_LOAD_QUOTAS, [a[0] for a in accounts]):
            quotas.setdefault(organisation_id, {})[holder] = units
        return Books(
            accounts={row[0]: Account(*row[1:]) for row in accounts}, quotas=quotas, waiting=self._waiting
        )

    async def _save(
        self,
        connection: asyncpg.Connection,
        books: Books,
        before: dict[int, tuple[int, ...]],
        marks: dict[int, StreamMark],
        cause: str | None = None,
        places: dict[int, StreamMark] | None = None,
    ) -> None:
        """Write what `decide` changed, and `marks`. `before`: the accounts as they were, as tuples.

        `places`: by shard, the position that journal rows name; `marks` when it is None. `cause`: their
        reference.
        """
        changed = [
            (o, a.available, a.granted, a.held, a.captured)
            for o, a in books.accounts.items()
            if msgspec.structs.astuple(a) != before[o]
        ]
        if changed:
            await connection.execute(_SAVE_ACCOUNTS, *map(list, zip(*changed, strict=True)))
        quotas = [(o, holder, books.quotas[o][holder]) for o, holder in books.changed]
        kept = [q for q in quotas if q[2]]
        if kept:
            await connection.execute(_SAVE_QUOTAS, *map(list, zip(*kept, strict=True)))
        dropped = [q[:2] for q in quotas if not q[2]]
        if dropped:
            await connection.execute(_DROP_QUOTAS, *map(list, zip(*dropped, strict=True)))
        journal = [
            (o, kind, *MOVEMENTS[kind], units, shard, str((places or marks)[shard].position), cause)
            for (shard, o, kind), units in books.movements.items()
        ]
        if journal:
            await connection.execute(_WRITE_JOURNAL, *map(list, zip(*journal, strict=True)))
        events = [(books.accounts[o].shard, o, "low_balance", books.accounts[o].usable) for o in books.low]
        if events:
            await connection.execute(_WRITE_EVENTS, *map(list, zip(*events, strict=True)))
        if marks:
            applied = [(shard, str(mark.position), mark.link) for shard, mark in marks.items()]
            await connection.execute(_SAVE_MARKS, *map(list, zip(*applied, strict=True)))
        await self._save_waiting(connection, books)

    async def _save_waiting(self, connection: asyncpg.Connection, books: Books) -> None:
        if books.closed:
            await connection.execute(
                "DELETE FROM waiting_requests WHERE id = ANY($1::bigint[])", books.closed
            )
        new = [w for line in self._waiting.values() for w in line if not w.row_id]
        if new:
            rows = [
                (w.shard, w.holder, w.epoch, r.number, r.organisation_id, r.wanted, r.needed, r.waiting)
                for w in new
                for r in (w.request,)
            ]
            written = await connection.fetch(_WRITE_WAITING, *map(list, zip(*rows, strict=True)))
            for waiting, row_id in zip(new, sorted(row[0] for row in written), strict=True):
                waiting.row_id = row_id
        for organisation_id in [o for o, line in self._waiting.items() if not line]:
            del self._waiting[organisation_id]

    @contextmanager
    def _border(self) -> Iterator[asyncpg.Connection]:
        """The connection for this block; errors of asyncpg become ours."""
        with translated(in_full=True):
            yield self._connection


async def _save_answers(connection: asyncpg.Connection, books: Books) -> list[StoredAnswer]:
    if not books.answers:
        return []
    shards, holders, answers = zip(*books.answers, strict=True)
    payloads = [_encode(answer) for answer in answers]
    rows = await connection.fetch(_WRITE_ANSWERS, list(shards), list(holders), payloads)
    ids = sorted(row[0] for row in rows)
    return [StoredAnswer(*fields) for fields in zip(ids, shards, holders, payloads, strict=True)]
