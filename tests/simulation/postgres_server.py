"""A simulated PostgreSQL: the books, sessions, an advisory lock.

Only what the ledger and the top-ups ask of it. A step of the ledger is two commands, `begin` (read)
and `commit` (prove what was read, and write); between them nothing is locked, others write, and anything
may happen to the connection. A session that ended can write nothing any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from engine.credit.ledger_records import (
    Account,
    BalanceEvent,
    StoredAnswer,
    StreamMark,
    UnbookedUsage,
    UsageEntry,
)
from engine.credit.posting import next_after
from engine.credit.records import QuotaRequest
from tests.simulation.clock import Clock
from tests.simulation.wires import Call, Wire


class Refused(Exception):
    """A constraint of the tables does not hold."""


class LeadLost(Exception):
    """Another ledger leads, or the books do not go on with these entries."""


class Row(msgspec.Struct, kw_only=True):
    """One account."""

    shard: int
    topped_up: int = 0
    available: int = 0
    granted: int = 0
    held: int = 0
    captured: int = 0
    low_balance: int | None = None


class Waiting(msgspec.Struct, frozen=True):
    """One waiting request, by its row id."""

    row_id: int
    shard: int
    holder: str
    epoch: int
    request: QuotaRequest


class Change(msgspec.Struct, kw_only=True):
    """What one transaction of the ledger writes."""

    # What was read: the term, the marks of its shards, and its accounts, as in `accounts`.
    term: int = 0
    read_marks: dict[int, StreamMark] = {}
    read_accounts: dict[int, tuple[int, int, int, int]] = {}
    # organisation: (available, granted, held, captured)
    accounts: dict[int, tuple[int, int, int, int]] = {}
    # (organisation, holder, units)
    quotas: list[tuple[int, str, int]] = []
    # (organisation, movement, units)
    journal: list[tuple[int, str, int]] = []
    marks: dict[int, StreamMark] = {}
    # By shard, the place right after a fence that is booked in part.
    begun: dict[int, StreamMark] = {}
    unbooked: list[UnbookedUsage] = []
    # Organisations of which a holder had used more than its quota.
    covered: list[int] = []
    # Rows of `waiting_requests` to delete, and requests to add.
    closed: list[int] = []
    waiting: list[tuple[int, str, int, QuotaRequest]] = []
    answers: list[tuple[int, str, bytes]] = []
    # (shard, organisation, usable units) of those that fell below their threshold
    events: list[tuple[int, int, int]] = []
    # Answers up to this row are deleted.
    sent: int = 0
    # For a shard that is closed: (shard, its new generation).
    generation: tuple[int, str] | None = None


class Written(msgspec.Struct, frozen=True):
    """Row ids of what a commit inserted."""

    waiting: list[int]
    answers: list[int]


class Tables(msgspec.Struct):
    """What is durable."""

    accounts: dict[int, Row] = {}
    quotas: dict[int, dict[str, int]] = {}
    journal: dict[int, dict[str, int]] = {}
    marks: dict[int, StreamMark] = {}
    # By shard: the generation, and the place right after a fence that was booked in part.
    begun: dict[int, tuple[str, StreamMark]] = {}
    generations: dict[int, str] = {}
    former: dict[int, list[str]] = {}
    delivered: dict[int, int] = {}
    waiting: dict[int, Waiting] = {}
    answers: dict[int, StoredAnswer] = {}
    events: dict[int, BalanceEvent] = {}
    references: set[tuple[int, str]] = set()
    unbooked: list[UnbookedUsage] = []
    # Counted up by each ledger that reads the books.
    term: int = 0
    last_row: int = 0

    def begun_after(self, shard: int) -> StreamMark | None:
        """The place of a fence that was booked in part, when the books stand before it."""
        generation, place = self.begun.get(shard, ("", StreamMark()))
        counts = generation == self.generations.get(shard) and place.position > self.marks[shard].position
        return place if counts else None

    def next_row(self) -> int:
        self.last_row += 1
        return self.last_row


class BooksWatch(Protocol):
    """Hears of every commit, at its instant; its part `books` hears that the books went back."""

    books: Any

    def topped_up(self, organisation_id: int, units: int) -> None: ...
    def committed(self, change: Change) -> None: ...


class PostgresServer:
    def __init__(self, clock: Clock, watch: BooksWatch) -> None:
        self.clock = clock
        self.watch = watch
        self.up = True
        self.life = 0
        self.busy_until = 0.0
        self.wires: set[Wire] = set()
        self.tables = Tables()
        # The session that has the advisory lock; the last one when the lock does not hold.
        self.leader: Wire | None = None
        # False: every ledger gets the advisory lock, as behind a pooler.
        self.lock_holds = True

    def create(self, organisation_id: int, shard: int, low_balance: int | None = None) -> None:
        self.tables.accounts[organisation_id] = Row(shard=shard, low_balance=low_balance)

    # -- as a server

    def execute(self, wire: Wire, call: Call, command: tuple[Any, ...]) -> Any:
        try:
            return getattr(self, f"_{command[0]}")(wire, *command[1:])
        except (Refused, LeadLost) as e:
            return e

    def hung_up(self, wire: Wire) -> None:
        if self.leader is wire:
            self.leader = None

    def drop(self, wire: Wire) -> None:
        """End a session from this side, as for a client that has not been heard of."""
        self.wires.discard(wire)
        self.hung_up(wire)
        wire.fail()

    def stop(self) -> None:
        """Sessions and their locks are gone."""
        self.up = False
        self.life += 1
        self.leader = None
        for wire in sorted(self.wires, key=hash):
            wire.fail()
        self.wires.clear()

    # -- commands

    def _lock(self, wire: Wire) -> bool:
        if self.leader is None or not self.lock_holds:
            self.leader = wire
        return self.leader is wire

    def _recover(self, wire: Wire) -> Any:
        t = self.tables
        t.term += 1
        return (
            t.term, t.last_row,
            dict(t.generations), dict(t.marks), dict(t.delivered),
            {shard: frozenset(names) for shard, names in t.former.items()},
            [t.answers[i] for i in sorted(t.answers)], [t.waiting[i] for i in sorted(t.waiting)],
            {s: mark for s, (generation, mark) in t.begun.items() if generation == t.generations[s]},
        )  # fmt: skip

    def _open_shards(self, wire: Wire, term: int, generation: str, shards: list[int]) -> Any:
        self.prove_term(term)
        for shard in shards:
            self.tables.generations[shard] = generation
            self.tables.former[shard] = []
            self.tables.delivered[shard] = 0
            self.tables.marks[shard] = StreamMark()
        return None

    def _events(self, wire: Wire, sent: int) -> list[BalanceEvent]:
        events = self.tables.events
        for row_id in [i for i in events if i <= sent]:
            del events[row_id]
        return [events[i] for i in sorted(events)]

    def _begin(
        self,
        wire: Wire,
        term: int,
        entries: Sequence[UsageEntry],
        organisations: Iterable[int],
        fenced: list[str],
    ) -> Any:
        """Read the named ones, and all that have quota with a fenced holder."""
        t = self.tables
        self.prove_term(term)
        self.prove_next(entries)
        concerned = set(organisations)
        concerned.update(o for o, by_holder in t.quotas.items() if any(h in by_holder for h in fenced))
        shards = {entry.shard for entry in entries}
        return *self._load(sorted(concerned)), {shard: t.marks[shard] for shard in shards}

    def _begin_shard(self, wire: Wire, term: int, shard: int, mark: StreamMark) -> Any:
        self.prove_term(term)
        if self.tables.marks[shard] != mark:
            raise LeadLost("The books do not go on with these entries.")
        loaded = self._load(sorted(o for o, row in self.tables.accounts.items() if row.shard == shard))
        strangers = {u.organisation_id for u in self.tables.unbooked} - self.tables.accounts.keys()
        return *loaded, {o: self._unbooked_of(o) for o in strangers}

    def _went_back(self, wire: Wire, term: int, delivered: int) -> Any:
        """See `skip_ids`: rows go on after those that the lost time may have given."""
        self.prove_term(term)
        self.tables.last_row = max(self.tables.last_row, delivered) + 1_000_000
        self.watch.books.noticed()
        return None

    def _unbooked_of(self, organisation_id: int) -> int | None:
        """Units held by its messages that are unbooked; None: it has no unbooked usage."""
        nets = [
            u.held - u.captured - u.released
            for u in self.tables.unbooked
            if u.organisation_id == organisation_id
        ]
        return sum(nets) if nets else None

    def prove_term(self, term: int) -> None:
        if term != self.tables.term:
            raise LeadLost("Another ledger leads.")

    def prove_next(self, entries: Sequence[UsageEntry]) -> None:
        first = {entry.shard: entry for entry in reversed(entries)}
        if not all(next_after(self.tables.marks[shard], entry) for shard, entry in first.items()):
            raise LeadLost("The books do not go on with these entries.")

    def prove_marks(self, marks: Mapping[int, StreamMark]) -> None:
        if any(self.tables.marks[shard] != mark for shard, mark in marks.items()):
            raise LeadLost("The books do not go on with these entries.")

    def _added(self, organisation_id: int, change: Change) -> tuple[int, int, int, int]:
        """What the account has after the change; what was topped up since it was read is added."""
        row, read = self.tables.accounts[organisation_id], change.read_accounts[organisation_id]
        available, *others = change.accounts[organisation_id]
        if [row.granted, row.held, row.captured] != list(read[1:]):
            raise LeadLost("The books were changed by another.")
        return (row.available + available - read[0], *others)

    def _load(self, organisations: list[int]) -> Any:
        t = self.tables
        accounts = {
            o: Account(
                r.shard, r.available, r.granted, r.held, r.captured, r.low_balance, self._unbooked_of(o)
            )
            for o in organisations
            if (r := t.accounts.get(o)) is not None
        }
        quotas = {o: dict(sorted(t.quotas[o].items())) for o in organisations if t.quotas.get(o)}
        return accounts, quotas

    def _commit(self, wire: Wire, change: Change) -> Written:
        t = self.tables
        self.prove_term(change.term)
        self.prove_marks(change.read_marks)
        change.accounts = {o: self._added(o, change) for o in change.accounts}
        for organisation_id, values in change.accounts.items():
            row = t.accounts[organisation_id]
            if min(values) < 0 or sum(values) != row.topped_up:
                raise Refused(f"accounts: organisation {organisation_id} {values} of {row.topped_up}")
        for organisation_id, (available, granted, held, captured) in change.accounts.items():
            row = t.accounts[organisation_id]
            row.available, row.granted, row.held, row.captured = available, granted, held, captured
        for organisation_id, holder, units in change.quotas:
            if units < 0:
                raise Refused(f"quotas: {holder} {units}")
            by_holder = t.quotas.setdefault(organisation_id, {})
            by_holder[holder] = units
            if not units:
                del by_holder[holder]
        for organisation_id, movement, units in change.journal:
            sums = t.journal.setdefault(organisation_id, {})
            sums[movement] = sums.get(movement, 0) + units
        t.unbooked += change.unbooked
        self._write_marks(change)
        self._write_begun(change)
        for row_id in change.closed:
            t.waiting.pop(row_id, None)
        waiting = [t.next_row() for _ in change.waiting]
        for row_id, fields in zip(waiting, change.waiting, strict=True):
            t.waiting[row_id] = Waiting(row_id, *fields)
        for row_id in sorted(i for i in t.answers if i <= change.sent):
            t.delivered[t.answers.pop(row_id).shard] = row_id
        answers = self._write_answers(change)
        for event in change.events:
            row_id = t.next_row()
            t.events[row_id] = BalanceEvent(row_id, *event[:2], "low_balance", event[2], self.clock.now_us())
        if change.generation is not None:
            shard, generation = change.generation
            t.former[shard].append(t.generations[shard])
            t.generations[shard] = generation
            t.delivered[shard] = 0
            t.answers = {i: a for i, a in t.answers.items() if a.shard != shard}
        if self.clock.lines is not None:
            told = [(holder, msgspec.msgpack.decode(payload)) for _, holder, payload in change.answers]
            self.clock.trace(wire.process.name, "commits", change.marks, change.quotas, told)
        self.watch.committed(change)
        return Written(waiting, answers)

    def _write_marks(self, change: Change) -> None:
        self.tables.marks.update(change.marks)

    def _write_begun(self, change: Change) -> None:
        self.tables.begun |= {s: (self.tables.generations[s], mark) for s, mark in change.begun.items()}

    def _write_answers(self, change: Change) -> list[int]:
        rows = [self.tables.next_row() for _ in change.answers]
        for row_id, (shard, holder, payload) in zip(rows, change.answers, strict=True):
            self.tables.answers[row_id] = StoredAnswer(row_id, shard, holder, payload)
        return rows

    def _top_up(self, wire: Wire, organisation_id: int, units: int, reference: str) -> Any:
        t = self.tables
        if (organisation_id, reference) not in t.references:
            t.references.add((organisation_id, reference))
            row = t.accounts[organisation_id]
            row.topped_up += units
            row.available += units
            sums = t.journal.setdefault(organisation_id, {})
            sums["top-up"] = sums.get("top-up", 0) + units
            self.watch.topped_up(organisation_id, units)
        return True
