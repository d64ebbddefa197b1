"""Service: what has to be done for one queue from time to time.

It shows that its worker lives, moves due messages to the queue, takes over what dead workers left, and
ends messages whose validity is over and that no worker has been given.

The last is for messages that nobody reads, because every provider is paused or closed, or because a long
backlog is before them. A stream is in the order of admission, not of expiry. So the sweeper looks through
all that is unread, `_LOOK_MAX` messages a second, again and again, and takes nothing in hand. Such a message
ends within a second of its expiry, and with a longer backlog within a second for each `_LOOK_MAX` messages
of it. What a look costs does not depend on the backlog.

Every worker sweeps. The steps are atomic in Redis, so workers may sweep at the same time.

A worker that has something in hand, or had a moment ago, looks every `TICK_S`, because it may put messages
on the due set at any time. So does each while messages are put off, which it may have room for
(`engine.delivery.recaller`). One at rest looks when the next message is due, and every `_REST_S`. When all
workers rest, a message is late by that at most that somebody else has put on the due set: one that is
scheduled for an instant nearer than `_REST_S`, or a retry whose worker has died since.

    killed          the next worker does it
    frozen          others fence the worker and take over its entries; it joins again when it wakes
    answer lost     entries that were taken over in that call are found again by the reader (see
                    `engine.stores.redis.queue`); messages that were promoted are in the queue;
                    messages that were ended are gone, and the next look does not find them
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from engine.clocks.backoff import Backoff
from engine.clocks.waits import happens, until_tick_s
from engine.delivery.dead_letters import log_set_aside
from engine.delivery.ports import QueueReader
from engine.delivery.sweep_times import TAKE_OVER_S, TICK_S
from engine.errors import Unavailable
from engine.records import Entry, Settlement

# Pause between looks at the due sets of a worker at rest, seconds, and how long after its last entry it comes
# to rest.
_REST_S = 0.5
_STIRRED_S = 1.0
# How often the worker beats, seconds.
_BEAT_S = 1.0
# How often the sweeper looks at messages that nobody has been given, seconds, and how many at a time.
_LOOK_S = 1.0
_LOOK_MAX = 2000
# Messages that are ended in one step, because Redis does nothing else meanwhile.
_END_MAX = 500
# After Redis was away every pending entry looks idle. The workers that live have so long to settle
# theirs before anything is taken over, seconds.
_GRACE_S = 3.0
# Longest pause while Redis is away, seconds.
_PAUSE_MAX_S = 1.0


class Sweeper:
    """Sweeps the queue of `reader` for one worker."""

    def __init__(
        self,
        reader: QueueReader,
        *,
        room: Callable[[], int],
        busy: Callable[[], bool],
        stirred: asyncio.Event,
        take: Callable[[Sequence[Entry]], None],
        before_sending: Callable[[Entry], Settlement | None],
        asks: Callable[[], None] = lambda: None,
        looked: Callable[[], None] = lambda: None,
        min_idle_ms: int,
        promote_max: int,
        now_us: Callable[[], int],
        log: FilteringBoundLogger,
    ) -> None:
        """`room`: how many entries the worker can take over. `busy`: whether it has any in hand; `stirred` is
        set when it takes some, and cleared here. `take` gives them to it. `before_sending`: the
        settlement of a message that must not be sent, None for any other. `asks` is called before the reader
        looks what is due and what is put off, and `looked` when it has. `min_idle_ms`:
        entries that were given out so long ago are taken over. `promote_max` bounds the messages
        moved in one step of one shard, because Redis does nothing else meanwhile.
        """
        self._reader = reader
        self._room = room
        self._busy = busy
        self._stirred = stirred
        # Until then it does not rest, loop time.
        self._rests_at = 0.0
        self._take = take
        self._before_sending = before_sending
        self._asks = asks
        self._looked = looked
        self._min_idle_ms = min_idle_ms
        self._promote_max = promote_max
        self._now_us = now_us
        self._log = log
        # When to beat, to take over, and to look at what is unread, next: loop times.
        self._beat_at = 0.0
        self._take_over_at = 0.0
        self._look_at = 0.0

    async def run(self, draining: asyncio.Event) -> None:
        """Sweep until canceled.

        While `draining` is set it only beats. A worker that stops beating with sends in flight would be
        fenced, and the messages would be sent twice. So the owner cancels this after the worker has
        ended.
        """
        backoff = Backoff(TICK_S, _PAUSE_MAX_S)
        while True:
            try:
                more = await self.sweep(draining.is_set())
            except Unavailable as e:
                if not backoff.failures:
                    self._log.warning("queue cannot be swept", reason=e.detail)
                await asyncio.sleep(backoff.next())
                self._beat_at = 0.0
                self._take_over_at = asyncio.get_running_loop().time() + _GRACE_S
                continue
            if backoff.failures:
                self._log.info("queue is swept again")
                backoff.reset()
            await self._pause(more)

    async def _pause(self, more: bool) -> None:
        """Wait until the next sweep; `more`: there is more to do at once."""
        now = asyncio.get_running_loop().time()
        if self._busy() or self._stirred.is_set():
            self._stirred.clear()
            self._rests_at = now + _STIRRED_S
        if more or now < self._rests_at or self._reader.put_off.waiting:
            await asyncio.sleep(0 if more else TICK_S)
            return
        due_us = self._reader.next_due_us
        due_s = _REST_S if due_us is None else (due_us - self._now_us()) / 1e6
        await happens(self._stirred, min(max(due_s, TICK_S), until_tick_s(_REST_S)))

    async def sweep(self, draining: bool) -> bool:
        """Do once what is due now; returns whether there is more to do at once. Raises Unavailable."""
        now = asyncio.get_running_loop().time()
        # What is due before the next sweep is done now, so that none is late.
        by = now + TICK_S
        if by >= self._beat_at:
            await self._reader.beat()
            self._beat_at = now + _BEAT_S
        if draining:
            return False
        self._asks()
        promoted = await self._reader.promote(self._now_us(), self._promote_max)
        self._looked()
        room = self._room()
        if by >= self._take_over_at and room > 0:
            entries = await self._reader.take_over(self._min_idle_ms, room)
            # When something was there, there may be more: look again with the next tick.
            self._take_over_at = now + (TICK_S if entries else TAKE_OVER_S)
            if entries:
                self._take(entries)
        if by >= self._look_at:
            await self._end_unread()
            self._look_at = now + _LOOK_S
        return promoted >= self._promote_max

    async def _end_unread(self) -> None:
        """End those of the next unread messages that must not be sent any more. Raises Unavailable."""
        unread = await self._reader.unread.look(_LOOK_MAX)
        ended = [settlement for entry in unread if (settlement := self._before_sending(entry)) is not None]
        for first in range(0, len(ended), _END_MAX):
            some = ended[first : first + _END_MAX]
            await self._reader.unread.settle(some)
            log_set_aside(some, self._log)
