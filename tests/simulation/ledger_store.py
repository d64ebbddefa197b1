"""`engine.credit.ports.LedgerStore` on the simulated PostgreSQL: stores/postgres/ledger.py without SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from engine.credit.ledger_records import (
    Account,
    Applied,
    BalanceEvent,
    Books,
    LostSpan,
    Recovered,
    Standing,
    StoredAnswer,
    StreamMark,
    UsageEntry,
    WaitingRequest,
)
from engine.credit.ports import Decide
from engine.credit.posting import organisations_of, portion
from engine.errors import Broken, Unavailable
from engine.stores.postgres.ledger_step import copied, unwritten
from tests.simulation.clock import Process
from tests.simulation.postgres_server import Change, LeadLost, PostgresServer, Refused
from tests.simulation.wires import Network, Wire

_encode = msgspec.msgpack.Encoder().encode


class LedgerBooks:
    """LedgerStore of one ledger process, on one session."""

    def __init__(self, network: Network, process: Process, server: PostgresServer, timeout_s: float) -> None:
        self._network = network
        self._process = process
        self._server = server
        self._timeout_s = timeout_s
        self._wire: Wire | None = None
        self._term = 0
        self._waiting: dict[int, list[WaitingRequest]] = {}

    async def lead(self) -> bool:
        if self._wire is None or self._wire.failed:
            self._wire = self._network.wire(self._process, self._server)
            if self._wire is None:
                raise Unavailable("PostgreSQL cannot be reached.")
        return bool(await self._call("lock"))

    async def resign(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    async def recover(self) -> Recovered:
        (
            self._term,
            last_row,
            generations,
            marks,
            delivered,
            former,
            answers,
            waiting,
            begun,
        ) = await self._call("recover")
        self._waiting = {}
        for row in waiting:
            line = self._waiting.setdefault(row.request.organisation_id, [])
            line.append(WaitingRequest(row.shard, row.holder, row.epoch, row.request, row_id=row.row_id))
        return Recovered(
            generations, marks, delivered, former, answers, self._waiting, self._term, last_row, begun
        )

    async def open_shards(self, generation: str, shards: Sequence[int]) -> None:
        await self._call("open_shards", self._term, generation, list(shards))

    async def mark_lost(self, spans: Sequence[LostSpan]) -> None:
        """Recorded events go back with the rest here, so after a loss of Redis they stay comparable."""

    async def leave_out_ids(self, delivered: int) -> None:
        await self._call("went_back", self._term, delivered)

    async def standing(self) -> Standing:
        return Standing(0)

    async def close_shard(
        self, generation: str, mark: StreamMark, decide: Callable[[Books], None], span: LostSpan
    ) -> str:
        shard = span.shard
        accounts, quotas, adrift = await self._call("begin_shard", self._term, shard, mark)
        books = Books(accounts, quotas, self._copy(), adrift=adrift)
        change = self._decided(books, decide, {shard: StreamMark(link=generation)})
        change.read_marks = {shard: mark}
        change.generation = (shard, generation)
        await self._commit(change, books)
        return ""

    async def close_accounts(self) -> Applied:
        """Nobody has accounts locked here when a shard is closed."""
        return Applied([], {})

    async def apply(self, entries: Sequence[UsageEntry], decide: Decide, sent: int) -> Applied:
        concerned = {o for entry in entries for o in organisations_of(entry)}
        fenced = sorted({entry.holder for entry in entries if entry.kind == "fence"})
        if fenced:
            concerned.update(self._waiting)
        accounts, quotas, marks_read = await self._call(
            "begin", self._term, entries, sorted(concerned), fenced
        )
        locked, quotas_max = self._adversity(accounts)
        ended = _quotas_of(entries, accounts, quotas, quotas_max)
        taken = portion(entries, locked=locked, quotas=ended, waiting=self._waiting, quotas_max=quotas_max)
        loaded = {o for e in taken.whole for o in organisations_of(e)}
        loaded.update(*ended.values(), self._waiting)
        accounts = {o: a for o, a in accounts.items() if o in loaded and o not in locked}
        books = Books(accounts, {o: q for o, q in quotas.items() if o in accounts}, self._copy())
        marks = {entry.shard: StreamMark(entry.position, entry.link) for entry in taken.whole}
        change = self._decided(books, partial(decide, entries=taken.whole, begun=taken.begun), marks)
        change.sent = sent
        change.answers = [(shard, holder, _encode(answer)) for shard, holder, answer in books.answers]
        change.read_marks = marks_read
        if books.changed:
            change.begun = {e.shard: StreamMark(e.position, e.link) for e in taken.begun}
        rows = await self._commit(change, books)
        answers = [StoredAnswer(row, *answer) for row, answer in zip(rows, change.answers, strict=True)]
        unbooked = frozenset(usage.organisation_id for usage in books.unbooked)
        return Applied(answers, marks, frozenset(taken.held_up), unbooked)

    def _adversity(self, accounts: dict[int, Account]) -> tuple[set[int], int]:
        """Organisations whose accounts others have locked, and how many quotas a fence ends at once."""
        rng, weather = self._process.clock.rng, self._network.weather
        if not weather.slow:
            return set(), 1_000_000
        return {o for o in accounts if rng.random() < weather.locked}, rng.choice(weather.quotas_max)

    async def events(self, sent: int) -> list[BalanceEvent]:
        events: list[BalanceEvent] = await self._call("events", sent)
        return events

    def _copy(self) -> dict[int, list[WaitingRequest]]:
        """What waits, to be changed by a step that perhaps is not written."""
        return {o: [copied(w) for w in line] for o, line in self._waiting.items()}

    def _decided(self, books: Books, decide: Callable[[Books], None], marks: dict[int, StreamMark]) -> Change:
        before = {o: (a.available, a.granted, a.held, a.captured) for o, a in books.accounts.items()}
        decide(books)
        after = {o: (a.available, a.granted, a.held, a.captured) for o, a in books.accounts.items()}
        return Change(
            term=self._term,
            read_accounts=before,
            accounts={o: values for o, values in after.items() if values != before[o]},
            quotas=[(o, holder, books.quotas[o][holder]) for o, holder in sorted(books.changed)],
            journal=[(o, kind, units) for (_, o, kind), units in books.movements.items()],
            marks=marks,
            unbooked=books.unbooked,
            covered=sorted(books.covered),
            closed=books.closed,
            events=[(books.accounts[o].shard, o, books.accounts[o].usable) for o in books.low],
            waiting=[(w.shard, w.holder, w.epoch, w.request) for w in unwritten(books)],
        )

    async def _commit(self, change: Change, books: Books) -> list[int]:
        written = await self._call("commit", change)
        for waiting, row_id in zip(unwritten(books), written.waiting, strict=True):
            waiting.row_id = row_id
        self._waiting = {o: line for o, line in books.waiting.items() if line}
        rows: list[int] = written.answers
        return rows

    async def _call(self, *command: Any) -> Any:
        if self._wire is None:
            raise Unavailable("PostgreSQL cannot be reached.")
        reply = (await self._wire.post([command], self._timeout_s))[0]
        if isinstance(reply, LeadLost):
            raise Unavailable(str(reply))
        if isinstance(reply, Refused):
            raise Broken(f"PostgreSQL refused a step of the ledger: {reply}")
        return reply


def _quotas_of(
    entries: Sequence[UsageEntry],
    accounts: dict[int, Account],
    quotas: dict[int, dict[str, int]],
    quotas_max: int,
) -> dict[tuple[int, str], list[int]]:
    """For each fence the organisations of which its holder has quota in its shard, at most one too many."""
    return {
        (fence.shard, fence.holder): [
            o
            for o, by_holder in quotas.items()
            if fence.holder in by_holder and accounts[o].shard == fence.shard
        ][: quotas_max + 1]
        for fence in entries
        if fence.kind == "fence"
    }
