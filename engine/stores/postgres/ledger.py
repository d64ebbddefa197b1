"""The books in PostgreSQL, for the one active ledger.

Active is who has the session's advisory lock; the connection that has it is the one that
writes, so a ledger that loses it can no longer commit anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg
import msgspec

from engine.credit.ledger_records import (
    MOVEMENTS,
    Account,
    BalanceEvent,
    Books,
    Recovered,
    StoredAnswer,
    StreamMark,
    UsageEntry,
    WaitingRequest,
)
from engine.credit.posting import organisations_of
from engine.credit.records import QuotaRequest
from engine.errors import Broken, Unavailable

# Any constant works; it names "the ledger" among the database's advisory locks.
_LOCK = 0x736D7365

_encode = msgspec.msgpack.Encoder().encode

_LOAD_ACCOUNTS = """
SELECT organisation_id, shard, available, granted, held, captured, low_balance FROM accounts
WHERE organisation_id = ANY($1::bigint[]) ORDER BY organisation_id FOR UPDATE"""

_LOAD_QUOTAS = "SELECT organisation_id, holder, units FROM quotas WHERE organisation_id = ANY($1::bigint[])"

_ORGANISATIONS_OF_SHARD = "SELECT organisation_id FROM accounts WHERE shard = $1"

_ORGANISATIONS_OF_HOLDERS = "SELECT DISTINCT organisation_id FROM quotas WHERE holder = ANY($1::text[])"

# Changes, not values: top-ups come in by other connections, the row is locked meanwhile.
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

# Those that were sent, and what is known of them when they are gone.
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
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id"""

_WRITE_EVENTS = """
INSERT INTO balance_events (shard, organisation_id, event, units)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::bigint[])"""

_FORGET_EVENTS = "DELETE FROM balance_events WHERE id <= $1"

_EVENTS = """
SELECT id, shard, organisation_id, event, units, (extract(epoch FROM at) * 1000000)::bigint
FROM balance_events ORDER BY id LIMIT $1"""
_EVENTS_MAX = 1_000


class PostgresLedger:
    """LedgerStore on one connection of its own."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._connection: asyncpg.Connection | None = None
        # Shared with the service's `decide` through the books; lost with the leadership.
        self._waiting: dict[int, list[WaitingRequest]] = {}

    async def lead(self) -> bool:
        async with self._border():
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(
                    self._url, timeout=self._timeout_s, command_timeout=self._timeout_s
                )
            return bool(await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK))

    async def resign(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def recover(self) -> Recovered:
        async with self._border() as connection:
            shards = await connection.fetch(
                "SELECT shard, generation, position, link, delivered, former FROM shards ORDER BY shard"
            )
            answers = await connection.fetch("SELECT id, shard, holder, payload FROM answers ORDER BY id")
            waiting = await connection.fetch(
                "SELECT id, shard, holder, epoch, number, organisation_id, wanted, needed, waiting"
                " FROM waiting_requests ORDER BY id"
            )
        self._waiting = {}
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
            marks={row["shard"]: StreamMark(row["position"], row["link"]) for row in shards},
            delivered={row["shard"]: row["delivered"] for row in shards},
            former={row["shard"]: frozenset(row["former"]) for row in shards},
            answers=[StoredAnswer(*row) for row in answers],
            waiting=self._waiting,
        )

    async def open_shards(self, generation: str, shards: Sequence[int]) -> None:
        async with self._border() as connection:
            await connection.execute(
                "INSERT INTO shards (shard, generation) SELECT shard, $2 FROM unnest($1::int[]) AS n (shard)",
                list(shards),
                generation,
            )

    async def mark_lost(self, shards: Sequence[int]) -> None:
        async with self._border() as connection:
            await connection.execute(
                "UPDATE shards SET losses = losses + 1, lost_at = now() WHERE shard = ANY($1::int[])",
                list(shards),
            )

    async def close_shard(
        self, shard: int, generation: str, decide: Callable[[Books], None], cause: str
    ) -> None:
        async with self._border() as connection, connection.transaction():
            rows = await connection.fetch(_ORGANISATIONS_OF_SHARD, shard)
            books = await self._load_books(connection, [row[0] for row in rows])
            before = {o: msgspec.structs.astuple(a) for o, a in books.accounts.items()}
            decide(books)
            await self._save(connection, books, before, {shard: StreamMark(link=generation)}, cause)
            await connection.execute("DELETE FROM answers WHERE shard = $1", shard)
            await connection.execute(_CLOSE_SHARD, shard, generation)

    async def apply(
        self, entries: Sequence[UsageEntry], decide: Callable[[Books], None], sent: int
    ) -> list[StoredAnswer]:
        async with self._border() as connection, connection.transaction():
            books = await self._load(connection, entries)
            before = {o: msgspec.structs.astuple(a) for o, a in books.accounts.items()}
            decide(books)
            await self._save(
                connection, books, before, {e.shard: StreamMark(e.position, e.link) for e in entries}
            )
            if sent:
                await connection.execute(_FORGET_ANSWERS, sent)
            return await self._save_answers(connection, books)

    async def events(self, sent: int) -> list[BalanceEvent]:
        async with self._border() as connection:
            if sent:
                await connection.execute(_FORGET_EVENTS, sent)
            rows = await connection.fetch(_EVENTS, _EVENTS_MAX)
        return [BalanceEvent(*row) for row in rows]

    async def _load(self, connection: asyncpg.Connection, entries: Sequence[UsageEntry]) -> Books:
        concerned = {o for entry in entries for o in organisations_of(entry)}
        fenced = list({entry.holder for entry in entries if entry.kind == "fence"})
        if fenced:
            rows = await connection.fetch(_ORGANISATIONS_OF_HOLDERS, fenced)
            concerned.update(row[0] for row in rows)
            concerned.update(self._waiting)
        return await self._load_books(connection, sorted(concerned))

    async def _load_books(self, connection: asyncpg.Connection, organisations: list[int]) -> Books:
        accounts = await connection.fetch(_LOAD_ACCOUNTS, organisations)
        quotas: dict[int, dict[str, int]] = {}
        for organisation_id, holder, units in await connection.fetch(_LOAD_QUOTAS, organisations):
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
    ) -> None:
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
            (o, kind, *MOVEMENTS[kind], units, shard, marks[shard].position, cause)
            for (shard, o, kind), units in books.movements.items()
        ]
        if journal:
            await connection.execute(_WRITE_JOURNAL, *map(list, zip(*journal, strict=True)))
        events = [(books.accounts[o].shard, o, "low_balance", books.accounts[o].usable) for o in books.low]
        if events:
            await connection.execute(_WRITE_EVENTS, *map(list, zip(*events, strict=True)))
        places = [(mark.position, mark.link) for mark in marks.values()]
        await connection.execute(_SAVE_MARKS, list(marks), *map(list, zip(*places, strict=True)))
        await self._save_waiting(connection, books)

    async def _save_waiting(self, connection: asyncpg.Connection, books: Books) -> None:
        if books.closed:
            await connection.execute(
                "DELETE FROM waiting_requests WHERE id = ANY($1::bigint[])", books.closed
            )
        for line in list(self._waiting.values()):
            for waiting in line:
                if not waiting.row_id:
                    r = waiting.request
                    waiting.row_id = await connection.fetchval(
                        _WRITE_WAITING, waiting.shard, waiting.holder, waiting.epoch,
                        r.number, r.organisation_id, r.wanted, r.needed, r.waiting,
                    )  # fmt: skip
        for organisation_id in [o for o, line in self._waiting.items() if not line]:
            del self._waiting[organisation_id]

    async def _save_answers(self, connection: asyncpg.Connection, books: Books) -> list[StoredAnswer]:
        if not books.answers:
            return []
        shards, holders, answers = zip(*books.answers, strict=True)
        payloads = [_encode(answer) for answer in answers]
        rows = await connection.fetch(_WRITE_ANSWERS, list(shards), list(holders), payloads)
        ids = sorted(row[0] for row in rows)
        return [StoredAnswer(*fields) for fields in zip(ids, shards, holders, payloads, strict=True)]

    @asynccontextmanager
    async def _border(self) -> AsyncIterator[asyncpg.Connection]:
        """Foreign errors become ours here."""
        try:
            yield self._connection
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, TimeoutError) as e:
            raise Unavailable(f"PostgreSQL cannot be reached: {e or 'no answer in time'}.") from e
        except asyncpg.exceptions.OperatorInterventionError as e:
            raise Unavailable(f"PostgreSQL is stopping: {e}.") from e
        except (asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError) as e:
            raise Unavailable(f"PostgreSQL takes no connection now: {e}.") from e
        except asyncpg.PostgresError as e:
            raise Broken(f"PostgreSQL refused a step of the ledger: {e}") from e
