"""The group commit of one holder: submissions and notes gather, and go to Redis as one flush for each shard.

What comes in one turn of the loop goes together, and so does what gathers while a flush of the shard is under
way. Redis answers, and the clients of the flush are answered. When more than a few have gathered meanwhile,
they are sent first, so that Redis works while the answers are written. When Redis does not answer:

a flush was not answered    it is sent again under the same number, after a pause that doubles
for `DEAD_S` nothing but    Redis counts as *away*: what waits in the queue is refused and is never
refused or broken con-      written, and what comes is refused at once; neither waits for anything
nections; for `SILENT_S`
no answer
for `UNKNOWN_S`             the clients of the flush under way are told that its outcome is unknown. The
                            connection is dropped with all that the machine had not sent, and the flush is
                            withdrawn (see `flush`): sent again without its submissions until the outcome
                            is known. What was applied by then was accepted. What was not never will be.
an outcome comes            Redis is not away any more

A flush that fewer machines have than the operator asks for is as one that was not answered: the store raises
`Unavailable` for it. So a 202 is given only for what all of them have, and while too few replicas
answer, messages are refused at once. `redis_answers` has the times after which Redis is away.

Killed here: what was applied is in Redis with its usage; nobody was told more than that. Frozen: see
`quota`. Answered twice: this cannot be, because one link answers in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog

from engine.clocks.backoff import Backoff
from engine.credit.awaiting import Awaiting, Done
from engine.credit.flush import Admitted, Ended, Flush, Note, Outbox
from engine.credit.memory_mark import MARK, MemoryMark
from engine.credit.ports import AdmissionStore
from engine.credit.redis_answers import RedisAnswers
from engine.errors import Fenced, Full, Unavailable, Undecided
from engine.records import Submission

log = structlog.get_logger("quota")

_RETRY_S = 0.1
_RETRY_MAX_S = 1.0
# When less than this part of a flush has gathered behind it, its clients are answered first.
_FEW = 4
# A drain looks so often whether a flush can be sent, seconds.
_LOOK_S = 0.001
# After so long the clients of a flush are told that its outcome is unknown, seconds.
UNKNOWN_S = 2.0

NOT_WRITTEN = "The queue does not answer, so nothing of this request was accepted; send it again later."
UNDECIDED = (
    "It is not known whether the messages were accepted, and they may be sent; to send them once, send the "
    "request again with the same Idempotency-Key."
)


class Admission(NamedTuple):
    """A submission on its way."""

    token: int
    shard: int


class GroupCommit:
    """The outboxes of one holder, and their way to Redis."""

    def __init__(
        self,
        store: AdmissionStore,
        name: str,
        *,
        shards: int,
        messages_max: int,
        memory: MemoryMark,
        fenced: asyncio.Event,
        release: Callable[[Submission], None],
        heed: Callable[[Admitted], None],
    ) -> None:
        """`fenced` is set when a flush finds the epoch over; `release` gives units back that were not used;
        `heed` is told of each flush that was admitted.

        The others are as in `Quota`.
        """
        self._store = store
        self._name = name
        self._memory = memory
        self._fenced = fenced
        self._release = release
        self._heed = heed
        self.awaiting = Awaiting(release)
        self.outboxes = [Outbox(s, messages_max=messages_max) for s in range(shards)]
        # By shard: the epoch, and the last sequence that Redis answered.
        self.answered = [(0, 0)] * shards
        # Shards with something to send. `_scheduled`: a flush of them is scheduled.
        self._dirty: set[int] = set()
        self._scheduled = False
        # Where flushes run; a fault of one ends the process.
        self._group: asyncio.TaskGroup | None = None
        self.sending: set[asyncio.Task[None]] = set()
        # What Redis owes, and whether it is away.
        self.redis = RedisAnswers()

    # -- for the holder

    def submit(self, shard: int, submission: Submission, done: Done) -> Admission:
        """Put a submission behind those that wait; `done` is told its outcome, never within this call.

        Raises Unavailable while Redis is away."""
        if self.redis.away:
            raise Unavailable(NOT_WRITTEN)
        token = self.awaiting.add(done)
        self.outboxes[shard].add(token, submission)
        if shard not in self._dirty or not self._scheduled:
            self.mark(shard)
        return Admission(token, shard)

    def take_back(self, admission: Admission) -> bool:
        """Take a submission out of the queue whose client has given up; False when it was sent already.

        Nobody is told its outcome any more."""
        self.awaiting.forget(admission.token)
        submission = self.outboxes[admission.shard].take_back(admission.token)
        if submission is None:
            return False
        self._release(submission)
        return True

    def note(self, shard: int, note: Note) -> None:
        """Put a note behind those that wait."""
        self.outboxes[shard].note(note)
        self.mark(shard)

    def mark(self, *shards: int) -> None:
        """Flush these shards in the next turn of the loop, or when the flush under way has ended."""
        self._dirty.update(shards)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def look(self) -> bool:
        """Whether Redis has come to be away now; then what waits is refused. Call it a few times a second."""
        if not self.redis.look(asyncio.get_running_loop().time()):
            return False
        for outbox in self.outboxes:
            self.awaiting.refuse(outbox.take_back_all(), Unavailable(NOT_WRITTEN))
        log.warning("messages are refused at once", holder=self._name, reason=self.redis.obstacle)
        return True

    # -- its life

    def registered(self, epochs: list[int]) -> None:
        """New epochs begin, in order of the shards."""
        for outbox, epoch in zip(self.outboxes, epochs, strict=True):
            outbox.registered(epoch)
        self.answered = [(epoch, 0) for epoch in epochs]
        self.redis.forget()

    def serve(self, group: asyncio.TaskGroup | None) -> None:
        """Send flushes in `group` from now on; with None no more."""
        self._group = group

    async def void(self) -> None:
        """The epoch is over: wait for what is being sent, and refuse all the rest. It never is applied."""
        if self.sending:
            await asyncio.wait(self.sending)
        for token in [token for outbox in self.outboxes for token in outbox.fenced()]:
            self.awaiting.tell(token, Unavailable("This process was fenced."))
        self.redis.forget()

    async def drain(self) -> None:
        """Write what clients wait for; returns when they wait no more, or it cannot be written any more."""
        while any(outbox.awaited for outbox in self.outboxes) and not self._fenced.is_set():
            if self._group is None:
                return
            self._dirty.update(range(len(self.outboxes)))
            self._flush()
            if self.sending:
                await asyncio.wait(self.sending, timeout=_RETRY_S)
            else:
                await asyncio.sleep(_LOOK_S)

    # -- within

    def _flush(self) -> None:
        """Send what has gathered for shards that have no flush under way; it is written in the next turn."""
        self._scheduled = False
        if self._fenced.is_set() or self._group is None:
            return
        if shards := _taken(self.outboxes, self._dirty):
            task = self._group.create_task(self._send(shards))
            self.sending.add(task)
            task.add_done_callback(self.sending.discard)

    async def _send(self, shards: list[int]) -> None:
        """Send the flushes under way of these shards, and those that gather behind them meanwhile."""
        while shards:
            shards = await self._written(shards)

    async def _written(self, shards: list[int]) -> list[int]:
        """Send the flushes under way of these shards until the outcome of each is known.

        The shards of flushes that are to be sent next, and are under way from now on; perhaps none."""
        followed: list[int] = []
        backoff = Backoff(_RETRY_S, _RETRY_MAX_S)
        time_s = asyncio.get_running_loop().time
        began_s = time_s()
        self.redis.sent(shards, began_s)
        # The first time, nothing was sent of them before, so a flush that Redis refuses was not applied.
        first = True
        while shards:
            flushes = [flush for s in shards if (flush := self.outboxes[s].under_way) is not None]
            left_s = began_s + UNKNOWN_S - time_s()
            outcomes: list[Admitted | Fenced | Full] = []
            try:
                outcomes = await self._store.admit(self._name, flushes, left_s if left_s > 0 else UNKNOWN_S)
            except Unavailable as e:
                if self.redis.failed(e.detail, time_s()):
                    log.warning("flush again", reason=e.detail)
            again = shards[len(outcomes) :]
            ended: list[Ended] = []
            for flush, outcome in zip(flushes, outcomes, strict=False):
                if isinstance(outcome, Full) and not first:
                    _see_full(self._memory)
                    again.append(flush.shard)
                else:
                    ended += self._ended(flush, outcome)
            if outcomes:
                self.redis.answered(time_s())
                followed = self._go_on(ended, {f.shard for f in flushes} - set(again), alone=not again)
            shards, first = again, False
            if shards:
                pause_s = backoff.next()
                # Too little time would be left for an answer.
                if time_s() + pause_s > began_s + UNKNOWN_S - _RETRY_S:
                    for token in [token for s in shards for token in self.outboxes[s].withdraw()]:
                        self.awaiting.tell(token, Undecided(UNDECIDED))
                    began_s = float("-inf")
                await asyncio.sleep(pause_s)
        return followed

    def _ended(self, flush: Flush, outcome: Admitted | Fenced | Full) -> list[Ended]:
        """The outcome of a flush is known: what became of the submissions whose clients are to be told."""
        outbox = self.outboxes[flush.shard]
        self.redis.ended(flush.shard)
        if isinstance(outcome, Fenced):
            # Its submissions stay in the outbox until `void` refuses them.
            self._fenced.set()
            return []
        if isinstance(outcome, Full):
            _see_full(self._memory)
            self.awaiting.refuse(outbox.refused(), self._memory.error())
            return []
        self.answered[flush.shard] = (flush.epoch, flush.sequence)
        self._heed(outcome)
        return outbox.applied(outcome)

    def _go_on(self, ended: list[Ended], shards: set[int], *, alone: bool) -> list[int]:
        """Tell the clients of flushes that were applied. When more than a few submissions have gathered for
        these shards meanwhile, their flushes come first: they are taken, and their shards are returned.
        `alone`: no other flush is sent again, for which these would have to wait."""
        gathered = sum(self.outboxes[s].gathered for s in shards)
        self._dirty.update(shards)
        if alone and gathered > len(ended) // _FEW and ended and not self._fenced.is_set():
            # The caller writes them before it lets the loop go on.
            asyncio.get_running_loop().call_soon(self.awaiting.end, ended)
            return _taken(self.outboxes, self._dirty)
        self.awaiting.end(ended)
        if not all(self.outboxes[s].idle for s in shards):
            self.mark()
        return []


def _taken(outboxes: list[Outbox], dirty: set[int]) -> list[int]:
    """Take what has gathered for those `dirty` shards that have no flush under way as their next: these
    shards. None is dirty any more."""
    taken = [s for s in dirty if outboxes[s].next_flush() is not None]
    dirty.clear()
    return taken


def _see_full(memory: MemoryMark) -> None:
    see(memory, 1.0)


def see(memory: MemoryMark, fullness: float) -> None:
    """Note the share of its memory that Redis uses, and log when it has crossed the mark."""
    if memory.see(fullness):
        log.warning("memory of Redis", used_percent=round(100 * fullness), admitting=fullness < MARK)
