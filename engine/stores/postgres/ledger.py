"""The books in PostgreSQL, for the one active ledger.

The active ledger is the one whose session has the advisory lock. It writes on the same
connection. Each transaction proves first that no other ledger has begun to lead
(`ledger_term.py`), so two that lead at once harm nothing: one of them steps down.

A leader that is lost. Its process was killed: the session ends with its socket, and the lock is free at
once. Its machine lost power, its network was cut, or it is frozen: the server hears nothing, and would
keep the session until TCP gives up, after hours. So the session asks PostgreSQL to end it when it has said
nothing for 3 s, whether a transaction is open or not, and a living ledger speaks every second: also
while it is busy with Redis, or with the books of a large shard. That also holds behind a pooler, which
keeps its own connection to the server. Why a lock of the session, and not a row with a time in it: of two
that believe they lead the term lets one write, so the choice need not be exact, and a lock is free in the
moment in which a process is killed.

Locks of others. Top-ups lock an account for a moment, and the ledger waits for them. A transaction
that keeps a lock for longer (one that an operator left open, or one of a frozen API process) holds
up what it has locked: the entries of a shard from the first that concerns a locked account or quota,
a shard whose row is locked, and no other shard. The entries are left out and tried again. Only the row of
the term, or a whole table, holds up everybody; the sentence then names who has locked it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import msgspec

from engine.clocks.round_trips import POSTGRES, timed
from engine.clocks.waits import next_tick
from engine.credit.ledger_records import (
    Applied,
    BalanceEvent,
    Books,
    LostSpan,
    Recovered,
    Standing,
    StoredAnswer,
    StreamMark,
    Unclosed,
    UsageEntry,
    WaitingRequest,
)
from engine.credit.ports import Decide
from engine.credit.posting import organisations_of, portion
from engine.credit.records import QuotaRequest
from engine.errors import EngineError, Unavailable
from engine.stores.postgres.begun_fences import read_begun
from engine.stores.postgres.closing import close_books_of, close_free_accounts, read_unclosed
from engine.stores.postgres.connection import connect
from engine.stores.postgres.errors import translated
from engine.stores.postgres.going_back import last_answer_of, skip_ids, standing_of
from engine.stores.postgres.ledger_step import Written, changes, prepare_step, read_step, write_step
from engine.stores.postgres.ledger_term import compare_next, compare_term, prove_term, take_term
from engine.stores.postgres.locks import Locked, blocker, find_locked
from engine.stores.postgres.losses import save_losses
from engine.stream_id import StreamId

# The number of the advisory lock in this database; any constant works.
_LOCK = 0x736D7365

# A session that says nothing for so long is ended by the server, seconds.
SILENCE_S = 3.0
# How long the ledger waits for one lock, milliseconds; a top-up has it for less.
_LOCK_WAIT_MS = 100
# How often a step is decided anew without what was found locked.
_DECISIONS_MAX = 3
# How many quotas fences end in one transaction: of all shards together, and of each shard at the
# least. Where PostgreSQL is so slow that a step takes longer than its time-out, it would take as long again
# each time: so the next one ends half as many.
_QUOTAS_MAX = 4_000
_QUOTAS_OF_SHARD_MIN = 50

_OPEN_SHARDS = "INSERT INTO shards (shard, generation) SELECT shard, $2 FROM unnest($1::int[]) AS n (shard)"

# Delete the events that were sent, and read the others.
_EVENTS = """
WITH sent AS (DELETE FROM balance_events WHERE id <= $2)
SELECT id, shard, organisation_id, event, units, (extract(epoch FROM at) * 1000000)::bigint
FROM balance_events WHERE id > $2 ORDER BY id LIMIT $1"""
_EVENTS_MAX = 1_000


class PostgresLedger:
    """The port `LedgerStore` on one connection of its own.

    Every call raises Unavailable, ConfigError when an operator must act, and Broken. After Unavailable
    of a call that writes, nobody knows whether it was committed: `resign`, `lead`, `recover`.
    """

    def __init__(self, url: str, *, timeout_s: float, silence_s: float = SILENCE_S) -> None:
        """`timeout_s`: how long a connect and each statement may take, seconds.

        `silence_s`: after how long a silence the server ends the session, seconds.
        """
        self._url = url
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._connection: asyncpg.Connection | None = None
        # Statements take turns on the connection with the one that only breaks the silence.
        self._turn = asyncio.Lock()
        self._speaking: asyncio.Task[None] | None = None
        self._spoke_s = 0.0
        # That of the last `recover`; no term in the database is 0.
        self._term = 0
        # By organisation. `decide` changes it through the books; `recover` reads it anew.
        self._waiting: dict[int, list[WaitingRequest]] = {}
        # So many quotas fences end in the next step.
        self._quotas_max = _QUOTAS_MAX
        # What others had locked when it was last wanted.
        self._locked = Locked()
        # By organisation, accounts that were locked when their shard was closed, and by whom.
        self._unclosed: dict[int, Unclosed] = {}
        self._unclosed_by = ""

    async def lead(self) -> bool:
        """Try once to become the active ledger, connecting when needed; False while another is."""
        if self._connection is None or self._connection.is_closed():
            await self.resign()
            silence_ms = str(round(self._silence_s * 1000))
            with translated(in_full=True):
                self._connection = await connect(
                    self._url,
                    timeout_s=self._timeout_s,
                    command_timeout_s=self._timeout_s,
                    name="smsengine ledger",
                    settings={
                        # Rows are reached by their keys, so one plan fits however many they are. It is
                        # made when the tables are perhaps empty, and must not be one for empty tables.
                        "plan_cache_mode": "force_generic_plan",
                        "enable_seqscan": "off",
                        "enable_hashjoin": "off",
                        "enable_mergejoin": "off",
                        "lock_timeout": str(_LOCK_WAIT_MS),
                        "idle_session_timeout": silence_ms,
                        "idle_in_transaction_session_timeout": silence_ms,
                        # For a server that is in the middle of an answer.
                        "tcp_user_timeout": silence_ms,
                    },
                )
            self._speaking = asyncio.create_task(self._break_silence(self._connection))
            async with self._session() as connection:
                await prepare_step(connection)
        async with self._session() as connection:
            return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK))

    async def _break_silence(self, connection: asyncpg.Connection) -> None:
        """Say something on the connection whenever it was silent for a third of what it may be."""
        clock_s, pause_s = asyncio.get_running_loop().time, self._silence_s / 3
        while not connection.is_closed():
            await next_tick(pause_s)
            if self._turn.locked() or clock_s() - self._spoke_s < pause_s:
                continue
            try:
                async with self._session():
                    await connection.execute("SELECT 1")
            except EngineError:
                # The next call on this connection meets the same, and whoever calls it hears of it.
                continue

    async def resign(self) -> None:
        """Drop the connection, and with it the lock and whatever was not committed. Raises nothing."""
        connection, self._connection = self._connection, None
        if self._speaking is not None:
            self._speaking.cancel()
            self._speaking = None
        if connection is not None:
            connection.terminate()

    async def recover(self) -> Recovered:
        """Begin a term, and read what the last active ledger had committed, with the waiting requests.

        A transaction of another ledger that commits afterwards cannot be: it no longer has the term.
        """
        async with self._session() as connection:
            self._term = await take_term(connection)
            shards = await connection.fetch(
                "SELECT shard, generation, position, link, delivered, former FROM shards ORDER BY shard"
            )
            answers = await connection.fetch("SELECT id, shard, holder, payload FROM answers ORDER BY id")
            last_answer = await last_answer_of(connection)
            begun_fences = await read_begun(connection)
            self._unclosed = await read_unclosed(connection)
            waiting = await connection.fetch(
                "SELECT id, shard, holder, epoch, number, organisation_id, wanted, needed, waiting"
                " FROM waiting_requests ORDER BY id"
            )
        self._waiting = {}
        self._locked = Locked()
        for row in waiting:
            request = QuotaRequest(**{name: row[name] for name in QuotaRequest.__struct_fields__})
            line = self._waiting.setdefault(row["organisation_id"], [])
            line.append(WaitingRequest(row["shard"], row["holder"], row["epoch"], request, row_id=row["id"]))
        return Recovered(
            generations={row["shard"]: row["generation"] for row in shards},
            marks={row["shard"]: StreamMark(StreamId.parse(row["position"]), row["link"]) for row in shards},
            delivered={row["shard"]: row["delivered"] for row in shards},
            former={row["shard"]: frozenset(row["former"]) for row in shards},
            answers=[StoredAnswer(*row) for row in answers],
            waiting=self._waiting,
            term=self._term,
            last_answer=last_answer,
            begun=begun_fences,
        )

    async def open_shards(self, generation: str, shards: Sequence[int]) -> None:
        """Enter shards that are used for the first time, under `generation`."""
        async with self._session() as connection, connection.transaction():
            await prove_term(connection, self._term)
            await connection.execute(_OPEN_SHARDS, list(shards), generation)

    async def mark_lost(self, spans: Sequence[LostSpan]) -> None:
        """Note losses of Redis of shards that are not closed: see `LedgerStore.mark_lost`."""
        async with self._session() as connection, connection.transaction():
            await prove_term(connection, self._term)
            await save_losses(connection, spans)

    async def leave_out_ids(self, delivered: int) -> None:
        """Leave out ids that a lost time of PostgreSQL may have given: see `LedgerStore.leave_out_ids`."""
        async with self._session() as connection, connection.transaction():
            await prove_term(connection, self._term)
            await skip_ids(connection, delivered)

    async def standing(self) -> Standing:
        """How much write-ahead log there is, and what the standbys have of it."""
        async with self._session() as connection:
            return await standing_of(connection)

    async def close_shard(
        self, generation: str, mark: StreamMark, decide: Callable[[Books], None], span: LostSpan
    ) -> str:
        """Close a shard: see `LedgerStore.close_shard` and `closing.py`."""
        books, held_up_by = await close_books_of(
            self._session, self._term, span, generation, mark, self._waiting, decide
        )
        self._waiting = {o: line for o, line in books.waiting.items() if line}
        others = {o: later for o, later in self._unclosed.items() if later.shard != span.shard}
        self._unclosed = others | {later.organisation_id: later for later in books.unclosed}
        return held_up_by

    async def close_accounts(self) -> Applied:
        """Close accounts whose locks are free now: see `LedgerStore.close_accounts`."""
        if not self._unclosed:
            return Applied([], {})
        async with self._session() as connection:
            applied = await close_free_accounts(connection, self._term, self._unclosed, self._waiting)
        self._unclosed_by = applied.held_up_by
        return applied

    async def apply(self, entries: Sequence[UsageEntry], decide: Decide, sent: int) -> Applied:
        """Apply entries in one transaction: see `LedgerStore.apply`. Each statement has the time-out.

        When others keep locks that cannot be told by row, each shard gets a transaction of its own.
        Killed before the commit: nothing happened, not even of a fence that was only begun. Frozen:
        nothing is locked, and PostgreSQL ends the session, and with it the leadership.
        """
        async with self._session() as connection:
            try:
                try:
                    applied = await self._apply(connection, entries, decide, sent)
                except asyncpg.LockNotAvailableError:
                    apply = partial(self._apply, connection, decide=decide, sent=sent)
                    applied = await _apply_apart(connection, entries, apply)
            except TimeoutError:
                self._quotas_max = max(_QUOTAS_OF_SHARD_MIN, self._quotas_max // 2)
                raise
        if self._quotas_max < _QUOTAS_MAX and all(entry.kind != "fence" for entry in entries):
            self._quotas_max = min(_QUOTAS_MAX, self._quotas_max + _QUOTAS_OF_SHARD_MIN)
        return applied

    async def _apply(
        self, connection: asyncpg.Connection, entries: Sequence[UsageEntry], decide: Decide, sent: int
    ) -> Applied:
        first = {entry.shard: entry for entry in reversed(entries)}
        fences = list({(entry.shard, entry.holder): None for entry in entries if entry.kind == "fence"})
        fenced_shards = {shard for shard, _ in fences}
        quotas_max = max(_QUOTAS_OF_SHARD_MIN, self._quotas_max // max(1, len(fenced_shards)))
        wanted = {o for entry in entries for o in organisations_of(entry)}
        wanted.update(o for o, line in self._waiting.items() if line and line[0].shard in fenced_shards)
        step = await read_step(connection, list(first), wanted, fences, quotas_max + 1)
        compare_term(step.term, self._term)
        compare_next(step.marks, first)
        locked, unclosed = Locked(), frozenset(self._unclosed)
        if not (
            self._locked.shards.isdisjoint(first) and self._locked.organisations.isdisjoint(step.accounts)
        ):
            # It was locked before, so look instead of waiting.
            locked = self._locked = await find_locked(connection, first, step.accounts)
        for _ in range(_DECISIONS_MAX):
            taken = portion(
                [entry for entry in entries if entry.shard not in locked.shards],
                locked=locked.organisations - unclosed,
                quotas=step.fenced,
                waiting=self._waiting,
                quotas_max=quotas_max,
                unclosed=unclosed,
            )
            marks = {entry.shard: StreamMark(entry.position, entry.link) for entry in taken.whole}
            held_up = locked.shards.intersection(first) | taken.held_up
            applied = Applied([], marks, held_up, held_up_by=locked.by or self._unclosed_by)
            if not taken.whole and not taken.begun:
                return applied
            books = step.books(self._waiting, locked.organisations, unclosed)
            decide(books, taken.whole, taken.begun)
            # A fence that is only begun moves units although its position is not reached yet.
            begun = {entry.shard: StreamMark(entry.position, entry.link) for entry in taken.begun}
            going = step.without(locked.shards)
            arguments = changes(self._term, going, books, Written(marks, begun | marks, sent=sent))
            try:
                answers = await write_step(connection, arguments, books, begun if books.changed else {})
            except asyncpg.LockNotAvailableError:
                # Nothing was written. Decide again without what is locked.
                locked = self._locked = await find_locked(connection, first, step.accounts)
                continue
            self._waiting = {o: line for o, line in books.waiting.items() if line}
            unbooked = frozenset(usage.organisation_id for usage in books.unbooked)
            return msgspec.structs.replace(applied, answers=answers, unbooked=unbooked)
        raise asyncpg.LockNotAvailableError("others keep locks that cannot be told by row")

    async def events(self, sent: int) -> list[BalanceEvent]:
        """Delete the events up to row `sent` (0: none); the oldest of the others, at most 1,000."""
        async with self._session() as connection:
            rows = await connection.fetch(_EVENTS, _EVENTS_MAX, sent)
        return [BalanceEvent(*row) for row in rows]

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[asyncpg.Connection]:
        """The connection for this block, when its turn has come; errors of asyncpg become ours."""
        async with self._turn:
            with translated(in_full=True), timed(POSTGRES):
                connection = self._connection
                if connection is None:
                    raise Unavailable("This ledger does not lead any more.")
                try:
                    yield connection
                except asyncpg.LockNotAvailableError as e:
                    by = await blocker(connection)
                    raise Unavailable(
                        f"Another transaction has locked what the ledger needs: {by or 'it is gone now'}."
                    ) from e
                finally:
                    self._spoke_s = asyncio.get_running_loop().time()


async def _apply_apart(
    connection: asyncpg.Connection,
    entries: Sequence[UsageEntry],
    apply: Callable[[Sequence[UsageEntry]], Awaitable[Applied]],
) -> Applied:
    """Apply each shard in a transaction of its own. Raises LockNotAvailableError when none can be."""
    answers: list[StoredAnswer] = []
    marks: dict[int, StreamMark] = {}
    held_up: set[int] = set()
    unbooked: set[int] = set()
    shards = dict.fromkeys(entry.shard for entry in entries)
    for shard in shards:
        try:
            applied = await apply([e for e in entries if e.shard == shard])
        except asyncpg.LockNotAvailableError:
            held_up.add(shard)
            if len(held_up) == len(shards):
                raise
            continue
        answers += applied.answers
        marks |= applied.marks
        held_up |= applied.held_up
        unbooked |= applied.unbooked
    by = await blocker(connection) if held_up else ""
    return Applied(answers, marks, frozenset(held_up), frozenset(unbooked), by)
