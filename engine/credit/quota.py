"""The service of a holder: quota comes in, usage goes out, for one process.

It owns the `CreditMap` of the process and the `Holder` machine, and connects them to Redis: flushes
(`group_commit`), the inbox, the heartbeat.

Killed here: admitted messages are in Redis with their usage. Messages that were reserved and not
admitted were never answered 202, and the fence marker returns their quota to the ledger.
Frozen here until it is fenced: the next flush or heartbeat finds the epoch over. It drops the
quota, fails all waiters with Unavailable, and registers anew. Redis never answers a flush: see
`group_commit`. Then everybody gets 503 at once, who waits for credit too, until an outcome is known.
The ledger cannot write the books: it says so (`standstill`), and whoever waits for it is refused.

Redis has little memory left: above a mark no message is admitted (see memory_mark), so that steps
that free memory have room. The share is read with each heartbeat. When Redis itself refuses a flush
for want of memory, its clients are refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog

from engine._fastcredits import CreditMap
from engine.clocks.backoff import Backoff
from engine.clocks.waits import happens, next_tick, until_tick_ms, until_tick_s
from engine.credit.answer_counts import AnswerCounts
from engine.credit.awaiting import Done
from engine.credit.flush import Admitted, Note, NoteKind
from engine.credit.group_commit import NOT_WRITTEN, Admission, GroupCommit, see
from engine.credit.holder import Effects, Holder, Waiter
from engine.credit.ledger_records import Stopped
from engine.credit.memory_mark import MemoryMark
from engine.credit.ports import AdmissionStore
from engine.credit.records import QuotaRequest, QuotaReturn
from engine.credit.waiters import Waiters
from engine.errors import Full, Unavailable
from engine.records import Submission

log = structlog.get_logger("quota")

_TICK_S = 0.25
# The same while nothing happens, and after how long without it, seconds.
_REST_S, _STIRRED_S = 1.0, 1.0
_BEAT_S = 2.0
# About how long a read of the inbox waits for an answer, seconds.
_INBOX_BLOCK_S = 1.0
_RETRY_S = 0.1
_RETRY_MAX_S = 2.0
# A client waits so long before this process looks whether the ledger can write the books, seconds.
_PATIENCE_S = 0.5

_NO_BOOKS = (
    "The credit of this organisation cannot be looked up now, so nothing of this request was accepted; "
    "send it again later."
)


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
        messages_max: int = 1000,
        heed: Callable[[Admitted], None] = lambda admitted: None,
    ) -> None:
        """`spenders`: organisations of which to ask quota at the start. `heed` is told of each flush that was
        admitted.

        `name`: the holder's name, never used before. `messages_max`: the most messages of a flush. The others
        are as in `config.Credit`.
        """
        self._store, self._name, self._spenders = store, name, spenders
        self._shard_of = shard_of
        self._now_us = now_us
        self.credit = CreditMap()
        self._holder = Holder(
            self.credit, quota_s=quota_s, quota_min=quota_min, validity_us=int(validity_s * 1e6)
        )
        # `_stirred` is set whenever a client wants something.
        self._fenced, self._stirred = asyncio.Event(), asyncio.Event()
        self.memory = MemoryMark()
        self._commits = GroupCommit(
            store,
            name,
            shards=shards,
            messages_max=messages_max,
            memory=self.memory,
            fenced=self._fenced,
            release=lambda s: self.release(s.organisation_id, s.units, self.incarnation),
            heed=heed,
        )
        self._waiters = Waiters()
        self.accepted, self.answers = self._commits.awaiting.accepted, AnswerCounts()
        # Whose books the ledger cannot write now.
        self._stopped = Stopped()
        self._positions = ["0-0"] * shards
        # Counts registrations. Units reserved in one incarnation are void in the next.
        self.incarnation = 0

    # -- for callers

    def check(self) -> None:
        """Raises Full when Redis has little memory left, and Unavailable while it is away."""
        if self.memory.is_full:
            self.memory.check()
        if self._commits.redis.away:
            raise Unavailable(NOT_WRITTEN)

    async def wait(self, organisation_id: int, cost: int, total: int) -> bool:
        """Wait for units. True: reserve again, it may succeed. False: the organisation cannot pay.

        `cost` is the cheapest message that waits, `total` all of them, units. Raises
        Unavailable when the holder is fenced or Redis is away, and when the ledger says that it cannot
        write the books. The caller sets the deadline.
        """
        if self._commits.redis.away:
            raise Unavailable(NOT_WRITTEN)
        if self._fenced.is_set():
            raise Unavailable("This process is registering anew.")
        shard = self._shard_of(organisation_id)
        if shard in self._stopped.shards or organisation_id in self._stopped.organisations:
            raise Unavailable(_NO_BOOKS)
        self._stirred.set()
        token, answer = self._waiters.come(shard, organisation_id)
        try:
            self._perform(self._holder.want(organisation_id, Waiter(token, cost, total), self._now_us()))
            return await answer
        finally:
            if self._waiters.go(token):
                self._holder.forget(organisation_id, token)

    def release(self, organisation_id: int, units: int, incarnation: int) -> None:
        """Undo a reservation of `units` that was made in `incarnation`; nothing when that one is over."""
        if units and incarnation == self.incarnation:
            self.credit.release(organisation_id, units)
            self._perform(self._holder.released(organisation_id))

    def admit(self, submission: Submission, incarnation: int, done: Done) -> Admission:
        """Write a submission whose units were reserved in `incarnation`; `done` is told its outcome.

        That is None when the submission is in Redis, or what its idempotency key was first used for; then
        nothing was written, and the units are released here. Unavailable: it was not written and
        never will be: the holder was fenced, or Redis is away, or, as Full, refused it for want of memory.
        Undecided: the outcome is not known in time. When the holder was fenced or Redis is away, this raises
        Unavailable at once, and `done` is told nothing.
        """
        if incarnation != self.incarnation or self._fenced.is_set():
            raise Unavailable("This process was fenced and registers anew.")
        self._stirred.set()
        try:
            return self._commits.submit(self._shard_of(submission.organisation_id), submission, done)
        except Unavailable:
            self.release(submission.organisation_id, submission.units, incarnation)
            raise

    def take_back(self, admission: Admission) -> bool:
        """Take back a submission whose client has given up; False when it was sent to Redis already.

        Either way nobody is told its outcome any more."""
        return self._commits.take_back(admission)

    # -- life

    async def start(self) -> None:
        """Register in every shard, and ask for the spenders' quota. Raises Unavailable."""
        epochs = await self._store.register(self._name)
        self._commits.registered(epochs)
        see(self.memory, await self._store.fullness())
        self.incarnation += 1
        self._perform(self._holder.prefetch(self._spenders, self._now_us()))

    async def run(self) -> None:
        """Serve until canceled; `leave` afterwards."""
        async with asyncio.TaskGroup() as group:
            self._commits.serve(group)
            self._commits.mark(0)
            group.create_task(self._read_inbox())
            group.create_task(self._tick())
            group.create_task(self._look_at_the_books())
            group.create_task(self._beat())
            group.create_task(self._register_anew())
            try:
                # Until canceled, from outside or because one of the tasks failed.
                await asyncio.get_running_loop().create_future()
            finally:
                # No flush may begin while the group ends.
                self._commits.serve(None)

    async def leave(self) -> None:
        """Write what has gathered, then fence this holder, so that its quota returns to the ledger.

        Call it while `run` still serves, and when nobody admits any more. After `run` has ended,
        what has gathered cannot be written any more; nobody was answered that it was. Raises
        Unavailable when Redis does not answer the fence.
        """
        await self._commits.drain()
        await self._store.fence(self._name)

    # -- loops

    async def _read_inbox(self) -> None:
        backoff = Backoff(_RETRY_S, _RETRY_MAX_S)
        while True:
            incarnation = self.incarnation
            try:
                arrived = await self._store.inbox(self._name, self._positions, until_tick_ms(_INBOX_BLOCK_S))
            except Unavailable:
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            if incarnation != self.incarnation:
                # It was read in the incarnation before this one, after positions of that one.
                continue
            for shard, position, answer in arrived:
                self._positions[shard] = position
                # Its books are written.
                if shard in self._stopped.shards:
                    self._stopped = self._stopped._replace(shards=self._stopped.shards - {shard})
                if answer is None:
                    # Of a newer version. Whoever waits for it runs into the own deadline: a 503.
                    log.error("an answer of the ledger cannot be read and is passed over", shard=shard)
                    continue
                self.answers.add(answer)
                # The ledger answers a few times a second at most, however many messages there are.
                log.debug(
                    "ledger answered",
                    kind=answer.kind,
                    organisation=answer.organisation_id,
                    units=answer.units,
                )
                effects = self._holder.answered(answer, self._now_us())
                self._perform(effects)
                if effects.wake:
                    # Let the waiters reserve before the next answer is read. That may be a recall; it
                    # would take the grant back unused, and the waiters would have to wait once more.
                    await asyncio.sleep(0)

    async def _tick(self) -> None:
        """Learn and ask while anything happens, and look now and then for quota that idles."""
        loop = asyncio.get_running_loop()
        last_us, rests_s = self._now_us(), 0.0
        while True:
            if self._stirred.is_set():
                self._stirred.clear()
                rests_s = loop.time() + _STIRRED_S
            rests = loop.time() >= rests_s and not (self._waiters or self._commits.sending)
            if rests and await happens(self._stirred, until_tick_s(_REST_S)):
                # The rates are those of the time since.
                last_us = self._now_us()
            if not rests or self._stirred.is_set():
                await next_tick(_TICK_S)
            now_us = self._now_us()
            self._perform(self._holder.tick(max(now_us - last_us, 1) / 1e6, now_us))
            last_us = now_us
            if self._commits.look():
                self._waiters.refuse(Unavailable(NOT_WRITTEN), range(len(self._positions)))

    async def _look_at_the_books(self) -> None:
        """Refuse who waits in vain, as soon as the ledger says that it cannot write the books of a shard, or
        of an organisation.

        Nobody looks as long as nobody waits for long. While they stand still, whoever comes is refused at
        once.
        """
        while True:
            if not any(self._stopped) and not self._waiters:
                self._waiters.came.clear()
                await self._waiters.came.wait()
            await next_tick(_TICK_S)
            if not any(self._stopped) and self._waiters.waited_s() < _PATIENCE_S:
                continue
            try:
                self._stopped = await self._store.standing()
            except Unavailable:
                self._stopped = Stopped()
            self._waiters.refuse(Unavailable(_NO_BOOKS), *self._stopped)

    async def _beat(self) -> None:
        while True:
            await next_tick(_BEAT_S)
            incarnation = self.incarnation
            try:
                alive = await self._store.beat(self._name, self._commits.answered)
                see(self.memory, await self._store.fullness())
            except Unavailable:
                continue
            if not alive and incarnation == self.incarnation:
                self._fenced.set()

    async def _register_anew(self) -> None:
        while True:
            await self._fenced.wait()
            log.warning("fenced", holder=self._name)
            await self._commits.void()
            self._waiters.tell(self._holder.fenced(), Unavailable("This process was fenced."))
            self.incarnation += 1
            while True:
                try:
                    # Fence in every shard, so that no shard keeps quota of the old epoch.
                    await self._store.fence(self._name)
                    await self.start()
                    break
                except Unavailable:
                    await asyncio.sleep(_RETRY_S)
            self._positions = ["0-0"] * len(self._positions)
            self._fenced.clear()
            # Requests made while it registered have not been sent.
            self._commits.mark(*range(len(self._positions)))
            log.info("registered", holder=self._name)

    # -- effects

    def _perform(self, effects: Effects) -> None:
        notes: list[tuple[NoteKind, QuotaRequest | QuotaReturn]] = [("request", r) for r in effects.requests]
        notes += [("return", r) for r in effects.returns]
        for kind, note in notes:
            shard = self._shard_of(note.organisation_id)
            self._commits.note(shard, Note(kind, msgspec.msgpack.encode(note)))
        self._waiters.tell(effects.wake, True)
        self._waiters.tell(effects.refuse, False)


def can_spend(quota: Quota) -> bool:
    """Whether its holder is registered and has units of any organisation. It looks at all of them."""
    registered = quota.incarnation > 0 and not quota._fenced.is_set()
    return registered and any(units > 0 for _, units in quota.credit.items())


def obstacle_of(quota: Quota) -> str:
    """Why its process can accept no messages now, a sentence; "" when it can."""
    try:
        quota.memory.check()
    except Full as e:
        return e.detail
    return quota._commits.redis.obstacle
