"""The service of a holder: quota comes in, usage goes out, for one process.

It owns the `CreditMap` of the process, an `Outbox` for each shard and the `Holder` machine, and
connects them to Redis: flushes (group commit), the inbox, the heartbeat.

Killed here: admitted messages are in Redis with their usage. Messages that were reserved and not
admitted were never answered 202, and the fence marker returns their quota to the ledger.
Frozen here until it is fenced: the next flush or heartbeat finds the epoch over. It drops the
quota, fails all waiters with Unavailable, and registers anew. Redis never answers a flush: it is
sent again under the same number until an outcome is known. Meanwhile its shard admits nothing else,
and clients run into their own deadline (503, not binding). Answered twice: this cannot be, because
one link answers in order.

Redis has little memory left: above a mark no message is admitted (see memory_mark), so that steps
that free memory have room. The share is read with each heartbeat. When Redis itself refuses a flush
for want of memory, its clients are refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeVar

import msgspec
import structlog

from engine._fastcredits import CreditMap
from engine.backoff import Backoff
from engine.credit.flush import Flush, Note, NoteKind, Outbox
from engine.credit.holder import Effects, Holder, Token, Waiter
from engine.credit.memory_mark import MARK, MemoryMark
from engine.credit.ports import AdmissionStore
from engine.credit.records import QuotaRequest, QuotaReturn
from engine.errors import Fenced, Full, Unavailable
from engine.records import Replay, Submission

log = structlog.get_logger("quota")

_TICK_S = 0.25
_BEAT_S = 2.0
_INBOX_BLOCK_MS = 1000
_RETRY_S = 0.1
_RETRY_MAX_S = 2.0


class Quota:
    """Reserve, wait for quota, admit. Call `start`, then `run` beside the callers, then `leave`."""

    def __init__(
        self,
        store: AdmissionStore,
        name: str,
        *,
        shards: int,
        shard_of: Callable[[int], int],
        now_us: Callable[[], int],
        quota_s: float,
        quota_min: int,
        validity_s: float,
        spenders: Sequence[int] = (),
        collect_s: float = 0.0005,
        messages_max: int = 1000,
    ) -> None:
        """`spenders`: organisations of which to ask quota at the start.

        `name`: the holder's name, never used before. `collect_s`: how long submissions gather for a
        flush, seconds; `messages_max`: the most messages of one. The others are as in `config.Credit`.
        """
        self._store = store
        self._spenders = spenders
        self._name = name
        self._shard_of = shard_of
        self._now_us = now_us
        self._collect_s = collect_s
        self.credit = CreditMap()
        self._holder = Holder(
            self.credit, quota_s=quota_s, quota_min=quota_min, validity_us=int(validity_s * 1e6)
        )
        self._outboxes = [Outbox(s, messages_max=messages_max) for s in range(shards)]
        # Shards with something to send. `_scheduled`: a flush of them is scheduled.
        self._dirty: set[int] = set()
        self._scheduled = False
        # The task group of `run`, in which flushes run; a fault of one ends the process.
        self._group: asyncio.TaskGroup | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._tokens = count(1)
        self._admitting: dict[Token, asyncio.Future[Replay | None]] = {}
        self._waiting: dict[Token, asyncio.Future[bool]] = {}
        self._positions = ["0-0"] * shards
        # By shard: the epoch, and the last sequence that Redis answered.
        self._answered = [(0, 0)] * shards
        self.memory = MemoryMark()
        self._fenced = asyncio.Event()
        # Counts registrations. Units reserved in one incarnation are void in the next.
        self.incarnation = 0

    # -- for callers

    async def wait(self, organisation_id: int, cost: int, total: int) -> bool:
        """Wait for units. True: reserve again, it may succeed. False: the organisation cannot pay.

        `cost` is the cheapest message that waits, `total` all of them, units. Raises
        Unavailable when the holder is fenced meanwhile. The caller sets the deadline.
        """
        if self._fenced.is_set():
            raise Unavailable("This process is registering anew.")
        token = next(self._tokens)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[token] = answer
        try:
            self._perform(self._holder.want(organisation_id, Waiter(token, cost, total), self._now_us()))
            return await answer
        finally:
            if self._waiting.pop(token, None) is not None:
                self._holder.forget(organisation_id, token)

    def release(self, organisation_id: int, units: int, incarnation: int) -> None:
        """Undo a reservation of `units` that was made in `incarnation`; nothing when that one is over."""
        if units and incarnation == self.incarnation:
            self.credit.release(organisation_id, units)
            self._perform(self._holder.released(organisation_id))

    def admit(self, submission: Submission, incarnation: int) -> asyncio.Future[Replay | None]:
        """Write a submission whose units were reserved in `incarnation`.

        The future is done when the submission is in Redis. It gives None when it was admitted, or what
        its idempotency key was first used for; then nothing was written, and the units are released
        here. It raises Unavailable when the holder was fenced before the submission was written, and
        Full when Redis refused it for want of memory. Canceling the future does not take the
        submission back.
        """
        done: asyncio.Future[Replay | None] = asyncio.get_running_loop().create_future()
        if incarnation != self.incarnation or self._fenced.is_set():
            done.set_exception(Unavailable("This process was fenced and registers anew."))
            return done
        token = next(self._tokens)
        self._admitting[token] = done
        shard = self._shard_of(submission.organisation_id)
        self._outboxes[shard].add(token, submission)
        self._mark(shard)
        return done

    # -- life

    async def start(self) -> None:
        """Register in every shard, and ask for the spenders' quota. Raises Unavailable."""
        epochs = await self._store.register(self._name)
        for outbox, epoch in zip(self._outboxes, epochs, strict=True):
            outbox.registered(epoch)
        self._answered = [(epoch, 0) for epoch in epochs]
        _see(self.memory, await self._store.fullness())
        self.incarnation += 1
        self._perform(self._holder.prefetch(self._spenders, self._now_us()))

    async def run(self) -> None:
        """Serve until canceled; `leave` afterwards."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._mark(0)
            group.create_task(self._read_inbox())
            group.create_task(self._tick())
            group.create_task(self._beat())
            group.create_task(self._register_anew())
            try:
                # Until canceled, from outside or because one of the tasks failed.
                await asyncio.get_running_loop().create_future()
            finally:
                # No flush may begin while the group ends.
                self._group = None

    async def leave(self) -> None:
        """Write what has gathered, then fence this holder, so that its quota returns to the ledger.

        Call it while `run` still serves, and when nobody admits any more. After `run` has ended,
        what has gathered cannot be written any more; nobody was answered that it was. Raises
        Unavailable when Redis does not answer the fence.
        """
        while not all(outbox.idle for outbox in self._outboxes) and not self._fenced.is_set():
            if self._group is None:
                break
            self._dirty.update(range(len(self._outboxes)))
            self._flush()
            if self._sending:
                await asyncio.wait(self._sending, timeout=_RETRY_S)
            else:
                await asyncio.sleep(self._collect_s)
        await self._store.fence(self._name)

    # -- loops

    async def _read_inbox(self) -> None:
        backoff = Backoff(_RETRY_S, _RETRY_MAX_S)
        while True:
            incarnation = self.incarnation
            try:
                arrived = await self._store.inbox(self._name, self._positions, _INBOX_BLOCK_MS)
            except Unavailable:
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            if incarnation != self.incarnation:
                # It was read in the incarnation before this one, after positions of that one.
                continue
            for shard, position, answer in arrived:
                self._positions[shard] = position
                if answer is None:
                    # Of a newer version. Whoever waits for it runs into the own deadline: a 503.
                    log.error("an answer of the ledger cannot be read and is passed over", shard=shard)
                    continue
                effects = self._holder.answered(answer, self._now_us())
                self._perform(effects)
                if effects.wake:
                    # Let the waiters reserve before the next answer is read. That may be a recall; it
                    # would take the grant back unused, and the waiters would have to wait once more.
                    await asyncio.sleep(0)

    async def _tick(self) -> None:
        last_us = self._now_us()
        while True:
            await asyncio.sleep(_TICK_S)
            now_us = self._now_us()
            self._perform(self._holder.tick(max(now_us - last_us, 1) / 1e6, now_us))
            last_us = now_us

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            incarnation = self.incarnation
            try:
                alive = await self._store.beat(self._name, self._answered)
                _see(self.memory, await self._store.fullness())
            except Unavailable:
                continue
            if not alive and incarnation == self.incarnation:
                self._fenced.set()

    async def _register_anew(self) -> None:
        while True:
            await self._fenced.wait()
            log.warning("fenced", holder=self._name)
            if self._sending:
                await asyncio.wait(self._sending)
            void = [token for outbox in self._outboxes for token in outbox.fenced()]
            for token in void:
                _settle(self._admitting.pop(token, None), Unavailable("This process was fenced."))
            for token in self._holder.fenced():
                _settle(self._waiting.get(token), Unavailable("This process was fenced."))
            self.incarnation += 1
            while True:
                try:
                    # Fence in every shard, so that no shard keeps quota of the old epoch.
                    await self._store.fence(self._name)
                    await self.start()
                    break
                except Unavailable:
                    await asyncio.sleep(_RETRY_S)
            self._positions = ["0-0"] * len(self._outboxes)
            self._fenced.clear()
            # Requests made while it registered have not been sent.
            self._mark(0)
            self._dirty.update(range(len(self._outboxes)))
            log.info("registered", holder=self._name)

    # -- the group commit

    def _mark(self, shard: int) -> None:
        self._dirty.add(shard)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(self._collect_s, self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._fenced.is_set() or self._group is None:
            return
        flushes = [f for s in self._dirty if (f := self._outboxes[s].next_flush()) is not None]
        self._dirty.clear()
        if flushes:
            task = self._group.create_task(self._send(flushes))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, flushes: list[Flush]) -> None:
        backoff = Backoff(_RETRY_S, _RETRY_MAX_S)
        # The first time, nothing was sent of them before, so a flush that Redis refuses was not applied.
        first = True
        while flushes:
            again: list[Flush] = []
            try:
                outcomes = await self._store.admit(self._name, flushes)
            except Unavailable as e:
                log.warning("flush again", reason=e.detail)
                outcomes, again = [], flushes
            for flush, outcome in zip(flushes, outcomes, strict=False):
                outbox = self._outboxes[flush.shard]
                if isinstance(outcome, Fenced):
                    # Its submissions stay in the outbox until `_register_anew` fails them.
                    self._fenced.set()
                    continue
                if isinstance(outcome, Full):
                    _see(self.memory, 1.0)
                    if not first:
                        again.append(flush)
                        continue
                    for token, submission in outbox.refused():
                        self.release(submission.organisation_id, submission.units, self.incarnation)
                        _settle(self._admitting.pop(token, None), self.memory.error())
                else:
                    self._answered[flush.shard] = (flush.epoch, flush.sequence)
                    for token, submission, replay in outbox.applied(outcome):
                        if replay is not None:
                            self.release(submission.organisation_id, submission.units, self.incarnation)
                        _settle(self._admitting.pop(token, None), replay)
                if not outbox.idle:
                    self._mark(flush.shard)
            flushes, first = again, False
            if flushes:
                await asyncio.sleep(backoff.next())

    # -- effects

    def _perform(self, effects: Effects) -> None:
        notes: list[tuple[NoteKind, QuotaRequest | QuotaReturn]] = [("request", r) for r in effects.requests]
        notes += [("return", r) for r in effects.returns]
        for kind, note in notes:
            shard = self._shard_of(note.organisation_id)
            self._outboxes[shard].note(Note(kind, msgspec.msgpack.encode(note)))
            self._mark(shard)
        for token in effects.wake:
            _settle(self._waiting.get(token), True)
        for token in effects.refuse:
            _settle(self._waiting.get(token), False)


def can_spend(quota: Quota) -> bool:
    """Whether its holder is registered and has units of any organisation. It looks at all of them."""
    registered = quota.incarnation > 0 and not quota._fenced.is_set()
    return registered and any(units > 0 for _, units in quota.credit.items())


def _see(memory: MemoryMark, fullness: float) -> None:
    if memory.see(fullness):
        log.warning("memory of Redis", used_percent=round(100 * fullness), admitting=fullness < MARK)


_Outcome = TypeVar("_Outcome")


def _settle(future: asyncio.Future[_Outcome] | None, outcome: _Outcome | Unavailable) -> None:
    if future is None or future.done():
        return
    if isinstance(outcome, Unavailable):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
