"""The ledger: usage goes into the books, quota goes out to the holders. One is active, others stand by.

One step: read the entries after the applied positions, decide (`engine.credit.posting`), write the
outcome and the new positions in one transaction, put the answers into the inboxes, trim.
Events of organisations (a low balance) are written in the same transaction, and sent within a second.

Killed before the commit: nothing happened; the next active ledger reads the same entries
again. Killed after it: the positions say so, and the answers found in the books are sent
again; holders ignore answers that they have had. The answer to the commit was lost: everything in
memory is dropped and read from the books. Frozen, or cut off from PostgreSQL: the session ends after 3 s
of silence, another ledger leads, and when this one wakes it has no connection that it could write on.
Two ledgers lead, because the lock did not hold: the
one that read the books last writes them, and the other steps down at its next transaction.

Redis may come back without its last moments (a power cut, a failover). No shard admits in a new
run of Redis before the ledger has looked at it (`begin`). A shard is lost when the entry at the
books' position is gone, or an answer that a holder waits for, or when entries that were read do not
follow one another. The books of a lost shard are closed. PostgreSQL may come back so too (a standby that
was behind, a backup); `losses.py` tells the two apart. Then usage is applied again, which is why it stays
on the stream for a while (`retention.py`).

What another transaction has locked (see `stores/postgres/ledger.py`) holds up its own
shard: the entries from there on wait and are tried again after a pause, while the other shards go
on. A shard has one position, so entries of single organisations cannot be passed over. A fence that
ends many quotas takes several transactions; those of other shards come in between.

An entry of a kind that this version does not know ends what it applies of the shard: it may move units. The
entries from there on wait on the stream, the other shards go on, and after a while the ledger leaves the
lead to another, in case that one is of a version that knows the kind.

Entries for which somebody waits (requests, returns, fences) are applied at once, with all entries
before them in their shard. Plain usage gathers for `gather_s`, so that the number of rows written
does not grow with the messages. Reads of a busy stream are `apart_s` apart, so that neither does the number
of steps with those who ask.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import structlog

from engine.clocks.backoff import Backoff
from engine.clocks.waits import happens, until_tick_ms
from engine.credit.ledger_records import Applied, BookedNote, StoredAnswer, StreamMark, UsageEntry
from engine.credit.losses import follows, goes_on
from engine.credit.ports import LedgerStore, UsageStream
from engine.credit.posting import decide, known, urgent
from engine.credit.reconciliation import Reconciliation
from engine.credit.retention import Retention
from engine.credit.standstill import Standstill
from engine.credit.trimmer import Trimmer
from engine.errors import Unavailable
from engine.stream_id import StreamId

log = structlog.get_logger("ledger")

_READ_COUNT = 500
_PENDING_MAX = 20_000
_STANDBY_S = 0.5
_RETRY_S = 0.5
# The pauses before a shard that another transaction holds up is tried again: the first, the longest.
_HELD_UP_S, _HELD_UP_MAX_S = 0.05, 1.0
# How long a ledger leads with a shard that it cannot read on, and how long it then leaves the lead to others.
_STOPPED_S, _LEFT_S = 10.0, 2.0
# How long a ledger that is to end goes on booking while usage comes, seconds.
_DRAIN_S = 2.0
# While no usage comes, a read waits for about so long, seconds: less than `standstill.LATE_S`.
_REST_S = 0.5
# About how often it looks for silent holders, for lost data, for events to send and for usage to trim: so
# much later at least, seconds.
_LOOK_S = 0.9


class Ledger:
    """The service of one ledger process; see the module."""

    def __init__(
        self,
        store: LedgerStore,
        usage: UsageStream,
        *,
        shards: int,
        fresh_generation: Callable[[], str],
        overdue_s: float,
        clock_s: Callable[[], float],
        retention: Retention,
        gather_s: float = 0.4,
        apart_s: float = 0.02,
    ) -> None:
        """`fresh_generation` gives a name that was never used; `clock_s` is any steady clock.

        `overdue_s`: holders without a beat for so long are fenced. `gather_s`: how long plain usage
        gathers. `apart_s`: the time between reads of a busy stream; a grant is delayed by no more than this.
        All in seconds. `retention` says when applied usage is trimmed.
        """
        self._store, self._usage = store, usage
        self._shards = shards
        self._overdue_s = overdue_s
        self._looked_at_s = 0.0
        self._clock_s = clock_s
        self._gather_s, self._apart_s = gather_s, apart_s
        # From when on it reads again.
        self._read_from_s = -math.inf
        self._sent = 0
        # Row of the last event put on an activity stream.
        self._announced = 0
        # By shard, the row of the last answer that it was given.
        self._delivered: dict[int, int] = {}
        self._generations: dict[int, str] = {}
        # By shard: how far the books have applied it, and how far it was read.
        self._applied: dict[int, StreamId] = {}
        self._read: dict[int, StreamMark] = {}
        self._pending: dict[int, list[UsageEntry]] = {}
        # By shard, when its oldest pending entry was read.
        self._since: dict[int, float] = {}
        # Shards that another transaction holds up: their pauses, and the end of the present one.
        self._held_up: dict[int, tuple[Backoff, float]] = {}
        self._reconciliation = Reconciliation(store, usage, fresh_generation)
        self._trimmer = Trimmer(store, usage, retention)
        self._standstill = Standstill(usage, clock_s)
        self._term = 0
        self._former: dict[int, frozenset[str]] = {}
        # Shards whose next entry is of a kind that this version does not know, and when that was seen.
        self._stopped: dict[int, float] = {}
        # By shard, the organisations whose accounts are locked since its books were closed.
        self._unclosed: Mapping[int, Sequence[int]] = {}

    async def run(self, draining: asyncio.Event, on_standby: Callable[[], None]) -> None:
        """Lead when no other does, else stand by. Returns when `draining` is set and all is written.

        `on_standby` is called each time it is known to work, leading or not. Raises Broken.
        """
        reason = ""
        saying = asyncio.create_task(self._standstill.run())
        try:
            while not draining.is_set():
                try:
                    leads = await self._store.lead()
                    if leads:
                        await self._recover()
                        reason = ""
                    else:
                        self._standstill.ends()
                    on_standby()
                    if leads:
                        await self._lead(draining)
                except _Unknown as e:
                    log.warning("ledger leaves the lead", reason=e.detail)
                    await self._store.resign()
                    await happens(draining, _LEFT_S)
                except Unavailable as e:
                    if e.detail != reason:
                        log.warning("ledger waits", reason=e.detail)
                    reason = e.detail
                    await self._store.resign()
                    await happens(draining, _RETRY_S)
                    continue
                await happens(draining, _STANDBY_S)
        finally:
            saying.cancel()
            await self._store.resign()

    async def _recover(self) -> None:
        recovered, self._delivered = await self._reconciliation.reconcile(self._read, self._generations)
        self._generations = dict(recovered.generations)
        self._applied = {shard: mark.position for shard, mark in recovered.marks.items()}
        self._read = dict(recovered.marks)
        self._pending.clear()
        self._since.clear()
        self._held_up.clear()
        self._stopped.clear()
        self._trimmer.forget()
        self._term, self._former = recovered.term, recovered.former
        self._sent = 0
        await self._send(recovered.answers, self._generations)
        self._announced = 0
        self._standstill.leads(self._term, self._generations)
        log.info("leading", shards=self._shards, answers_again=len(recovered.answers))

    async def _lead(self, draining: asyncio.Event) -> None:
        """Lead until `draining` is set and nothing is left, or `_DRAIN_S` later.

        Usage never ends while others go on accepting; what is left is read by the next leader.
        """
        until_s = math.inf
        while True:
            drained = draining.is_set()
            if drained:
                until_s = min(until_s, self._clock_s() + _DRAIN_S)
            await self._gather(drained)
            await self._look_around()
            # When it holds as many entries as it may, it reads no more, so waiting gathers nothing.
            due = self._due(everything=drained or _is_full(self._pending, self._held_up))
            if due:
                await self._apply(due)
            if drained and (not due or self._clock_s() >= until_s):
                await self._announce()
                return
            self._standstill.moves([*self._held_up, *self._stopped])

    async def _gather(self, drained: bool) -> None:
        """Read once, waiting until a shard is due, or for `_REST_S`; when `drained`, not at all. Shards held
        up are not read.

        A read that brought entries is followed by the next one `apart_s` later. Under load there is always
        another entry, and a step costs little more for ten organisations that ask than for one.
        """
        going = [shard for shard in self._read if shard not in self._held_up and shard not in self._stopped]
        if _is_full(self._pending, self._held_up):
            return
        now_s = self._clock_s()
        if self._read_from_s > now_s:
            await asyncio.sleep(self._read_from_s - now_s)
            now_s = self._clock_s()
        ripe = [self._since[shard] + self._gather_s for shard in going if shard in self._since]
        ripe += [again_s for _, again_s in self._held_up.values()]
        wait_s = min(ripe) - now_s if ripe else until_tick_ms(_REST_S) / 1000
        wait_s = 0.001 if drained else max(0.001, min(wait_s, _REST_S))
        if not going:
            await asyncio.sleep(wait_s)
            return
        positions = {shard: self._read[shard].position for shard in going}
        entries = await self._usage.read(positions, _READ_COUNT, max(1, int(wait_s * 1000)))
        now_s = self._clock_s()
        if entries:
            self._read_from_s = now_s + self._apart_s
        for entry in entries:
            if entry.shard in self._stopped:
                continue
            if not follows(self._read[entry.shard], entry.follows):
                raise Unavailable(f"Redis has lost usage of shard {entry.shard} that was read.")
            if not known(entry):
                self._stopped[entry.shard] = now_s
                _say_unknown(entry)
                continue
            self._pending.setdefault(entry.shard, []).append(entry)
            self._since.setdefault(entry.shard, now_s)
            self._read[entry.shard] = StreamMark(entry.position, entry.link)

    async def _look_around(self) -> None:
        """Fence holders that fell silent, and look whether Redis has lost data; about once a second.

        A holder on a lost node stays silent. One that was only frozen finds its epoch over and
        registers anew. Raises Unavailable when Redis has lost data or was started again.
        """
        now_s = self._clock_s()
        if now_s - self._looked_at_s < _LOOK_S:
            return
        self._looked_at_s = now_s
        if self._stopped and now_s - min(self._stopped.values()) >= _STOPPED_S:
            raise _Unknown(f"Shards {sorted(self._stopped)} wait for a ledger of a newer version.")
        silent = await self._usage.overdue(int(self._overdue_s * 1000))
        if silent:
            log.warning("fencing holders that fell silent", holders=sorted({name for _, name in silent}))
            await self._usage.fence(silent)
        lives = await self._usage.lives(self._read)
        for life in lives:
            if life.generation != self._generations[life.shard] or not goes_on(self._read[life.shard], life):
                raise Unavailable("Redis has lost data that the books refer to.")
            if life.delivered < self._delivered[life.shard]:
                raise Unavailable("Redis has lost answers that were in its inboxes.")
            if life.seen_run != life.run:
                raise Unavailable("Redis was started again.")
        await self._close_accounts()
        await self._announce()
        await self._usage.note_lead(self._term)
        entries = sum(life.length for life in lives)
        await self._trimmer.trim(now_s, dict(self._applied), entries)

    async def _close_accounts(self) -> None:
        """Close accounts that were locked when their shard was closed, and say which still are."""
        applied = await self._store.close_accounts()
        await self._send(applied.answers, ())
        over = self._unclosed.keys() - applied.unclosed.keys()
        if over or applied.unclosed:
            await self._usage.note_unclosed({**dict.fromkeys(over, ()), **applied.unclosed}, self._term)
        if over and not applied.unclosed:
            log.info("all accounts of closed shards are closed")
        self._unclosed = applied.unclosed

    async def _announce(self) -> None:
        """Send the events of organisations: they are committed, then sent, then deleted.

        Killed in between, or an answer was lost: the ledger that leads then sends them again, and
        those that are on the stream already are passed over.
        """
        events = await self._store.events(self._announced)
        if events:
            await self._usage.announce(events)
        self._announced = events[-1].row_id if events else 0

    def _due(self, *, everything: bool) -> list[int]:
        now_s = self._clock_s()
        ripe_s = now_s - self._gather_s
        return [
            shard
            for shard, entries in self._pending.items()
            if (everything or self._since[shard] <= ripe_s or any(urgent(e) for e in entries))
            and (shard not in self._held_up or self._held_up[shard][1] <= now_s)
        ]

    async def _apply(self, shards: list[int]) -> None:
        entries = [entry for shard in shards for entry in self._pending[shard]]
        applied = await self._store.apply(entries, decide, self._sent)
        now_s = self._clock_s()
        for shard in shards:
            self._note_applied(shard, applied, now_s)
        if applied.unbooked:
            log.error(
                "usage cannot be booked, because the books lack its units; its organisations are suspended",
                organisations=sorted(applied.unbooked),
                do="See `smsengine books repair`.",
            )
        await self._send(applied.answers, applied.marks)

    def _note_applied(self, shard: int, applied: Applied, now_s: float) -> None:
        """Drop the entries of a shard that are applied; the others are due at once, or after a pause."""
        pending, mark = self._pending[shard], applied.marks.get(shard)
        if mark is not None:
            self._applied[shard] = mark.position
            pending = [e for e in pending if e.position > mark.position]
        if pending:
            self._pending[shard], self._since[shard] = pending, now_s - self._gather_s
        else:
            del self._pending[shard], self._since[shard]
        held_up = self._held_up.pop(shard, None)
        if shard in applied.held_up:
            if held_up is None:
                log.warning(
                    "another transaction holds up a shard", shard=shard, held_up_by=applied.held_up_by
                )
            pauses = held_up[0] if held_up else Backoff(_HELD_UP_S, _HELD_UP_MAX_S)
            self._held_up[shard] = pauses, now_s + pauses.next()
        elif held_up:
            log.info("the shard goes on", shard=shard)

    async def _send(self, answers: Sequence[StoredAnswer], shards: Iterable[int]) -> None:
        """Send answers, and note how far the books of `shards` are, so that books that go back show.

        Killed before it: the answers are sent by the next ledger. Books that go back by no more than that
        do not show, and are borne all the same (`engine.credit.movements`).
        """
        notes = {
            shard: BookedNote(self._generations[shard], self._applied[shard], self._term, self._former[shard])
            for shard in shards
        }
        if not answers and not notes:
            return
        await self._usage.send(answers, self._delivered, notes)
        self._delivered.update({a.shard: a.row_id for a in answers})
        if answers:
            self._sent = answers[-1].row_id


def _say_unknown(entry: UsageEntry) -> None:
    log.error(
        "usage of an unknown kind: its shard waits for a ledger of a newer version",
        shard=entry.shard,
        kind=entry.kind,
        position=str(entry.position),
    )


class _Unknown(Unavailable):
    """A shard has usage of a kind that this version does not know."""


def _is_full(pending: Mapping[int, Sequence[UsageEntry]], held_up: Collection[int]) -> bool:
    """Whether as many entries are pending as may be, without those of shards that are held up."""
    return sum(len(entries) for shard, entries in pending.items() if shard not in held_up) >= _PENDING_MAX
