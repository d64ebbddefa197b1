"""Service: one queue in one process: read ahead, send with bounded concurrency, settle in batches.

Entries flow from the reader to the dispatcher (`engine.delivery.dispatcher`), from there to a provider
while fewer than `concurrency` sends are in flight, and with their verdict to the settler
(`engine.delivery.settler`), which writes them back. A message costs no task, no future and no round
trip of its own: providers call back, and one loop acts on all verdicts that came meanwhile.

All entries in hand count against one bound. So a worker that cannot settle, because Redis is
away, soon stops reading and then stops sending.

    killed at any point   what was in hand is pending under the worker's name, and others take it over.
                          They send it again, so what was in flight is sent twice, and charged once;
                          where the queue promises at-most-once they end it, because any of it may have
                          been sent (`engine.delivery.settlement`)
    frozen                entries that were read more than `hand_s` ago are not sent but dropped,
                          because another worker may have them by then. What was in flight is settled
                          by whoever comes first
    a fault of our own    `run` raises it, and the process ends: as killed
    drained               sends in flight get their verdict and are settled; what was only read is
                          handed back through the due set. After a clean end nothing is
                          pending under the worker's name
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from engine.backoff import Backoff
from engine.delivery.dispatcher import Dispatcher
from engine.delivery.ports import QueueReader
from engine.delivery.settler import SettlementCounts, Settler
from engine.errors import Unavailable
from engine.records import Entry

# A read waits this long for a first entry; a drain waits at most this long for the read.
_BLOCK_MS = 250
# While no provider has room, it is asked again this often, seconds.
_LOOK_S = 0.1
# The first and the longest pause after Redis was unavailable, seconds.
_PAUSE_S = 0.05
_PAUSE_MAX_S = 1.0


class Worker:
    """Delivers the messages of `reader`'s queue."""

    def __init__(
        self,
        reader: QueueReader,
        dispatcher: Dispatcher,
        settler: Settler,
        *,
        concurrency: int,
        clock_s: Callable[[], float],
        log: FilteringBoundLogger,
        fit: Callable[[], bool] = lambda: True,
    ) -> None:
        """`concurrency` bounds the sends in flight, as the dispatcher counts them; `dispatcher`
        and `settler` are this worker's alone. While it is not `fit`, it takes nothing more.
        """
        self._reader = reader
        self._dispatcher = dispatcher
        self._settler = settler
        self._concurrency = concurrency
        self._clock_s = clock_s
        self._log = log
        self._fit = fit
        # Sends in flight, entries that wait in lanes, and verdicts not yet settled, together.
        self._in_hand_max = concurrency + max(1, concurrency // 2) * len(dispatcher.lanes)
        self._draining = False

    @property
    def counts(self) -> SettlementCounts:
        """What was settled that an operator should know of."""
        return self._settler.counts

    @property
    def in_hand(self) -> int:
        """Entries that were taken and are not settled."""
        return self._settler.in_hand

    def room(self) -> int:
        """How many entries of other workers this one can take over now: up to `concurrency` beyond what it
        reads itself."""
        return (
            0
            if self._draining or not self._fit()
            else max(0, self._in_hand_max + self._concurrency - self.in_hand)
        )

    def take(self, entries: Sequence[Entry]) -> None:
        """Take entries in hand and send them in order; while draining, hand them back."""
        now_s = self._clock_s()
        self._settler.took(len(entries))
        if self._draining:
            for entry in entries:
                self._settler.hand_back(entry)
            return
        for entry in entries:
            self._dispatcher.place(entry, now_s, now_s)
        self._dispatcher.pump(now_s)

    async def run(self, draining: asyncio.Event, drain_s: float) -> None:
        """Deliver until `draining` is set; then end within about `drain_s`, seconds.

        What is not settled by then stays pending for the other workers. It never raises Unavailable:
        while Redis is away it waits, and keeps what it has in hand. It raises a fault of this
        program's own, in an ExceptionGroup; the process is to end then.
        """
        async with asyncio.TaskGroup() as group:
            settling = group.create_task(self._settler.run(), name="settle")
            dispatching = group.create_task(self._dispatcher.run(), name="dispatch")
            await self._read_loop(draining)
            self._draining = True
            for entry, _ in self._dispatcher.clear():
                self._settler.hand_back(entry)
            try:
                async with asyncio.timeout(drain_s):
                    while self.in_hand:
                        self._settler.settled.clear()
                        await self._settler.settled.wait()
            except TimeoutError:
                self._log.warning("drained with entries left to other workers", left=self.in_hand)
            dispatching.cancel()
            settling.cancel()

    async def _read_loop(self, draining: asyncio.Event) -> None:
        # A read of only a few entries costs as much as one of many.
        worthwhile = max(1, self._in_hand_max // 4)
        settled = self._settler.settled
        backoff = Backoff(_PAUSE_S, _PAUSE_MAX_S)
        while not draining.is_set():
            room = self._in_hand_max - self.in_hand
            if room < worthwhile:
                settled.clear()
                await _first_of(settled, draining)
                continue
            lanes, now_s = self._dispatcher.lanes, self._clock_s()
            self._reader.ready_max = lanes.ready_messages(now_s)
            wanted = lanes.room(now_s)
            if not self._fit() or wanted == 0:
                settled.clear()
                await _first_of(settled, draining, timeout_s=_LOOK_S)
                continue
            try:
                entries = await self._reader.read(room if wanted is None else min(room, wanted), _BLOCK_MS)
            except Unavailable as e:
                if not backoff.failures:
                    self._log.warning("queue cannot be read", reason=e.detail)
                await asyncio.sleep(backoff.next())
                continue
            if backoff.failures:
                self._log.info("queue can be read again")
                backoff.reset()
            if entries:
                self.take(entries)


async def _first_of(*events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait until one of the events is set, or the time is over."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
