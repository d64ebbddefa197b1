"""What the clock must do for one queue: show that its worker lives, move due messages to
the queue, and take over what dead workers left.

Every worker sweeps; the steps are atomic in Redis, so they may do so at the same time.
Killed here: the next worker does it. Answer lost: what was claimed unheard is found again
by the reader (see `engine.stores.redis.queue`), what was promoted is in the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from engine.backoff import Backoff
from engine.delivery.ports import QueueReader
from engine.errors import Unavailable
from engine.records import Entry

# Pause between looks at the due sets: the most that a retry or a scheduled message is late.
_TICK_S = 0.1
_BEAT_S = 1.0
_TAKE_OVER_S = 1.0
# After Redis was away every pending entry looks idle: give the living time to settle theirs.
_GRACE_S = 3.0
_PAUSE_MAX_S = 1.0


class Sweeper:
    """The clock's duties for the queue of `reader`."""

    def __init__(
        self,
        reader: QueueReader,
        *,
        room: Callable[[], int],
        take: Callable[[Sequence[Entry]], None],
        min_idle_ms: int,
        promote_max: int,
        now_us: Callable[[], int],
        log: FilteringBoundLogger,
    ) -> None:
        """`room` tells how many entries the worker can take over, `take` gives them to it.
        `promote_max` bounds one step per shard: Redis does nothing else meanwhile.
        """
        self._reader = reader
        self._room = room
        self._take = take
        self._min_idle_ms = min_idle_ms
        self._promote_max = promote_max
        self._now_us = now_us
        self._log = log
        # Loop times.
        self._beat_at = 0.0
        self._take_over_at = 0.0

    async def run(self, draining: asyncio.Event) -> None:
        """Sweep until canceled.

        While draining it only beats: a worker that falls silent with sends in flight
        would be fenced, and they would be sent twice. So it is canceled by its owner,
        after the worker has ended.
        """
        backoff = Backoff(_TICK_S, _PAUSE_MAX_S)
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
            await asyncio.sleep(0 if more else _TICK_S)

    async def sweep(self, draining: bool) -> bool:
        """One round of what is due now; whether there is more to do at once. Raises Unavailable."""
        now = asyncio.get_running_loop().time()
        if now >= self._beat_at:
            await self._reader.beat()
            self._beat_at = now + _BEAT_S
        if draining:
            return False
        promoted = await self._reader.promote(self._now_us(), self._promote_max)
        room = self._room()
        if now >= self._take_over_at and room > 0:
            entries = await self._reader.take_over(self._min_idle_ms, room)
            # Where there was something there may be more: look again with the next tick.
            self._take_over_at = now + (_TICK_S if entries else _TAKE_OVER_S)
            if entries:
                self._take(entries)
        return promoted >= self._promote_max
