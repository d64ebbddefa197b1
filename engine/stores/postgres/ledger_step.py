"""What the ledger reads for one step, and what it writes: one statement each.

A leader may be far from PostgreSQL, and everybody who waits for a grant waits for its round trips. So a
step is two of them, and nothing is locked while it decides:

    read    the term, the marks of the shards, accounts, quotas; one snapshot, no locks
    decide  in memory
    write   everything that changed, in one call of the function `write_books`, which is one transaction

The write proves under lock what the read saw: the term is this ledger's, and the marks are the same. So
no other ledger has written in between, and nobody else changes what a ledger changes. Top-ups alone add
to `available` meanwhile; the write adds to it too, so it counts as made before them. An account that
somebody has changed by hand meanwhile makes the write fail as a whole, and it is read anew.

Killed, frozen or cut off between the two: nothing was written and nothing is locked. In the write:
PostgreSQL commits all of it or nothing; the books say which when they are read the next time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any

import asyncpg
import msgspec

from engine.credit.ledger_records import (
    MOVEMENTS,
    Account,
    Books,
    StoredAnswer,
    StreamMark,
    WaitingRequest,
)
from engine.stores.postgres.begun_fences import save_begun
from engine.stores.postgres.going_back import reference_of, save_unbooked
from engine.stores.postgres.ledger_term import another_leads, not_next
from engine.stream_id import StreamId

_encode = msgspec.msgpack.Encoder().encode

# The rows differ by `kind`; each kind uses some of the columns. Up to $5 organisations of each fenced
# holder in its shard.
_READ = """
WITH fenced AS (
    SELECT f.shard, f.holder, q.organisation_id FROM unnest($3::int[], $4::text[]) AS f (shard, holder)
    CROSS JOIN LATERAL (
        SELECT organisation_id FROM quotas JOIN accounts a USING (organisation_id)
        WHERE quotas.holder = f.holder AND a.shard = f.shard LIMIT $5) AS q
), wanted AS (
    SELECT unnest($2::bigint[]) AS organisation_id UNION SELECT organisation_id FROM fenced
)
SELECT 'term' AS kind, term AS id, NULL::int AS shard, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint,
    NULL::bigint, NULL::text AS name, NULL::text FROM ledger_term
UNION ALL
SELECT 'mark', NULL, shard, NULL, NULL, NULL, NULL, NULL, position, link FROM shards
WHERE shard = ANY($1::int[])
UNION ALL
SELECT 'fenced', organisation_id, shard, NULL, NULL, NULL, NULL, NULL, holder, NULL FROM fenced
UNION ALL
SELECT 'account', organisation_id, shard, available, granted, held, captured, low_balance, NULL, NULL
FROM wanted JOIN accounts USING (organisation_id)
UNION ALL
SELECT 'quota', organisation_id, NULL, units, NULL, NULL, NULL, NULL, holder, NULL
FROM wanted JOIN quotas USING (organisation_id)
UNION ALL
SELECT 'unbooked', organisation_id, NULL, sum(u.held - u.captured - u.released)::bigint,
    NULL, NULL, NULL, NULL, NULL, NULL
FROM wanted JOIN unbooked u USING (organisation_id) WHERE u.booked_at IS NULL GROUP BY organisation_id
ORDER BY kind, id, name"""

_ARGUMENTS = ", ".join(f"${place}" for place in range(1, 42))
_WRITE = f"SELECT * FROM write_books({_ARGUMENTS})"  # noqa: S608 - numbers of parameters


class Step(msgspec.Struct):
    """What was read for one step."""

    term: int = 0
    # By shard, where its books stand.
    marks: dict[int, StreamMark] = {}
    # By organisation, the fields of `Account` in order.
    accounts: dict[int, tuple[Any, ...]] = {}
    # organisation: {holder: units}
    quotas: dict[int, dict[str, int]] = {}
    # By fence, (shard, holder), organisations of that shard of which the holder has quota.
    fenced: dict[tuple[int, str], list[int]] = {}

    def books(
        self,
        waiting: Mapping[int, Sequence[WaitingRequest]],
        locked: AbstractSet[int] = frozenset(),
        unclosed: frozenset[int] = frozenset(),
    ) -> Books:
        """Books that may be changed, without the organisations in `locked` and `unclosed`; this step stays
        as it is. `unclosed` becomes `Books.locked`."""
        out = locked | unclosed
        return Books(
            accounts={o: Account(*fields) for o, fields in self.accounts.items() if o not in out},
            quotas={o: dict(units) for o, units in self.quotas.items() if o not in out},
            waiting={o: [copied(w) for w in line] for o, line in waiting.items()},
            locked=unclosed,
        )

    def without(self, shards: Collection[int]) -> Step:
        """The same step, when nothing of these shards is to be written."""
        if not shards:
            return self
        kept = {shard: mark for shard, mark in self.marks.items() if shard not in shards}
        return msgspec.structs.replace(self, marks=kept)


class Written(msgspec.Struct, frozen=True):
    """Where a step goes in the books."""

    # By shard, where its books will stand.
    marks: Mapping[int, StreamMark]
    # By shard, the position that journal rows name.
    places: Mapping[int, StreamMark]
    # The reference of the journal rows.
    cause: str | None = None
    # Answers up to this row were sent, and are deleted; 0: none.
    sent: int = 0


def copied(waiting: WaitingRequest) -> WaitingRequest:
    """The same request, for a step that may not be written."""
    return msgspec.structs.replace(waiting, recalled=set(waiting.recalled))


async def prepare_step(connection: asyncpg.Connection) -> None:
    """Prepare both statements; with the types of their arguments that takes several round trips.

    A standby does it, so that the first step of a ledger that begins to lead takes no more than the others.
    Nothing is written, as no ledger has the term 0.
    """
    await read_step(connection, [], [])
    await connection.fetchrow(_WRITE, *changes(0, Step(), Books({}, {}, {}), Written({}, {})))


async def read_step(
    connection: asyncpg.Connection,
    shards: Sequence[int],
    organisations: Collection[int],
    fences: Sequence[tuple[int, str]] = (),
    quotas_max: int = 0,
    *,
    timeout_s: float | None = None,
) -> Step:
    """Read the marks of `shards`, and accounts and quotas of `organisations` and of fenced holders.

    `fences` are (shard, holder); of each up to `quotas_max` organisations are read. An organisation
    without an account is left out. `timeout_s`: that of the connection when it is None.
    """
    step = Step()
    fenced_shards, holders = [f[0] for f in fences], [f[1] for f in fences]
    for kind, row_id, shard, available, granted, held, captured, low, name, link in await connection.fetch(
        _READ, list(shards), list(organisations), fenced_shards, holders, quotas_max, timeout=timeout_s
    ):
        if kind == "account":
            step.accounts[row_id] = (shard, available, granted, held, captured, low)
        elif kind == "quota":
            step.quotas.setdefault(row_id, {})[name] = available
        elif kind == "fenced":
            step.fenced.setdefault((shard, name), []).append(row_id)
        elif kind == "unbooked":
            if row_id in step.accounts:
                step.accounts[row_id] = (*step.accounts[row_id], available)
        elif kind == "mark":
            step.marks[shard] = StreamMark(StreamId.parse(name), link)
        else:
            step.term = row_id
    return step


def changes(term: int, step: Step, books: Books, written: Written) -> list[Any]:
    """The arguments of `write_books`: what `decide` has changed in `books` since `step` was read."""
    marks = [
        (shard, str(read.position), read.link, str(new.position), new.link)
        for shard, read in step.marks.items()
        for new in (written.marks.get(shard, read),)
    ]
    accounts = [
        (o, a.available - available, a.granted, a.held, a.captured, granted, held, captured)
        for o, a in books.accounts.items()
        for _, available, granted, held, captured, *_ in (step.accounts[o],)
        if (a.available, a.granted, a.held, a.captured) != (available, granted, held, captured)
    ]
    quotas = [(o, holder, books.quotas[o][holder]) for o, holder in books.changed]
    journal = [
        (
            o,
            kind,
            *MOVEMENTS[kind],
            units,
            shard,
            str(written.places[shard].position),
            written.cause or reference_of(books, o, kind),
        )
        for (shard, o, kind), units in books.movements.items()
    ]
    events = [(books.accounts[o].shard, o, books.accounts[o].usable) for o in books.low]
    waiting = [
        (w.shard, w.holder, w.epoch, r.number, r.organisation_id, r.wanted, r.needed, r.waiting)
        for w in unwritten(books)
        for r in (w.request,)
    ]
    answers = [(shard, holder, _encode(answer)) for shard, holder, answer in books.answers]
    return [
        term,
        *_columns(marks, 5),
        *_columns(accounts, 8),
        *_columns(quotas, 3),
        *_columns(journal, 8),
        *_columns(events, 3),
        books.closed,
        *_columns(waiting, 8),
        *_columns(answers, 3),
        written.sent,
    ]


async def write_step(
    connection: asyncpg.Connection,
    arguments: Sequence[Any],
    books: Books,
    begun: Mapping[int, StreamMark] = MappingProxyType({}),
) -> list[StoredAnswer]:
    """Write what `changes` gave for `books`, and give its new requests their rows; the answers with theirs.

    `begun`: by shard the place right after a fence that this books in part. That and usage that is unbooked
    are rare; they are written by statements of their own in the same transaction. Raises Unavailable when
    another ledger leads, or when the books do not stand where they were read.
    """
    if not books.unbooked and not begun:
        return await _write(connection, arguments, books)
    async with connection.transaction():
        answers = await _write(connection, arguments, books)
        await save_unbooked(connection, books.unbooked)
        if begun:
            await save_begun(connection, begun)
    return answers


async def _write(
    connection: asyncpg.Connection, arguments: Sequence[Any], books: Books
) -> list[StoredAnswer]:
    outcome, request_rows, answer_rows = await connection.fetchrow(_WRITE, *arguments)
    if outcome == "term":
        raise another_leads()
    if outcome == "marks":
        raise not_next(arguments[1])
    for waiting, row_id in zip(unwritten(books), request_rows or (), strict=True):
        waiting.row_id = row_id
    written = zip(answer_rows or (), *arguments[-4:-1], strict=True)
    return [StoredAnswer(*fields) for fields in written]


def parts(books: Books, accounts_max: int) -> list[Books]:
    """The same change in parts of so many accounts at most; the last one has the requests and answers.

    A message of many megabytes counts as silence of the session until all of it has arrived.
    """
    part_of = {o: place // accounts_max for place, o in enumerate(books.accounts)}
    made = [Books({}, books.quotas, {}) for _ in range(max(part_of.values(), default=0) + 1)]
    for o, account in books.accounts.items():
        made[part_of[o]].accounts[o] = account
    for movement, units in books.movements.items():
        made[part_of[movement[1]]].movements[movement] = units
    for changed in books.changed:
        made[part_of[changed[0]]].changed.add(changed)
    for o in books.low:
        made[part_of[o]].low.append(o)
    made[-1].waiting, made[-1].closed, made[-1].answers = books.waiting, books.closed, books.answers
    made[-1].unbooked = books.unbooked
    return made


def unwritten(books: Books) -> list[WaitingRequest]:
    """The requests that wait and have no row yet, in order."""
    return [w for line in books.waiting.values() for w in line if not w.row_id]


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
