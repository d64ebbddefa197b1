"""Service: one queue in one process: read ahead, send with bounded concurrency, settle in batches.

Entries flow from the reader to the dispatcher (`engine.delivery.dispatcher`), from there to a provider
while fewer than `concurrency` sends are in flight, and with their verdict to the settler
(`engine.delivery.settler`), which writes them back. A message costs no task, no future and no round
trip of its own: providers call back, and one loop acts on all verdicts that came meanwhile.

A send takes room until its answer, an entry until it is sent. Entries that wait to be settled have a bound of
their own, so that a slow Redis does not slow the sending. So a worker that cannot settle, because Redis is
away or frozen, soon stops reading and then stops sending.

    killed at any point   what was in hand is pending under the worker's name, and others take it over.
                          They send it again, so what was in flight is sent twice, and charged once;
                          where the queue promises at-most-once they end it, because any of it may have
                          been sent (`engine.delivery.settlement`)
    frozen                entries that were read more than `hand_s` ago are not sent but dropped,
                          because another worker may have them by then. What was in flight is settled
                          by whoever comes first
    a fault of our own    `run` raises it, and the process ends: as killed
    drained               sends in flight get their verdict and are settled; what was only read is
                          put back to the front of its organisation's backlog, in order, and what lies
                          unread of that behind it. After a clean end nothing is pending under the worker's
                          name. Other workers have in hand what came next, and may send it first
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from structlog.typing import FilteringBoundLogger

from engine.clocks.backoff import Backoff
from engine.clocks.waits import until_tick_ms
from engine.delivery.dispatcher import Dispatcher
from engine.delivery.ports import Apart, QueueReader
from engine.delivery.read_ahead import worth_reading
from engine.delivery.settlement_counts import SettlementCounts
from engine.delivery.settler import Settler
from engine.errors import Unavailable
from engine.histogram import Histogram
from engine.records import Entry

# About how long a read waits for a first entry, seconds; a drain waits for the read.
_BLOCK_S = 0.5
# While no provider has room, it is asked again this often, seconds.
_LOOK_S = 0.1
# So many entries may wait to be settled, for each send that may be in flight, before no more are read; or
# what is sent in the time of a few writes to a slow disk, seconds, up to the third.
_UNSETTLED, _UNSETTLED_S, _UNSETTLED_MAX = 4, 0.04, 8
# A read that gave less than this part of what was asked for has emptied the queue, or nearly.
_FEW = 4
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
        waited: Callable[[float], float],
        fit: Callable[[], bool] = lambda: True,
        linger_s: float = 0.0,
        careful: bool = False,
        recalling: Callable[[], Coroutine[Any, Any, None]] | None = None,
        known: asyncio.Event | None = None,
    ) -> None:
        """`concurrency` bounds the sends in flight, as the dispatcher counts them; `dispatcher`
        and `settler` are this worker's alone. While it is not `fit`, it takes nothing more. `linger_s`: after
        a read that has emptied the queue it lets so much time pass, seconds, so that more can come together.
        `careful`: what is in hand when the worker is killed is never sent again. So it takes little in hand:
        `concurrency` and half as many for each provider, what waits to be settled included. `recalling` runs
        as long as it reads. Before several providers it reads nothing until `known` is set, that is until it
        is known what is put off: what it read would be sent before that. `waited`: what part of the time in
        which this process wants a core it waits for one, asked with the time of `clock_s`.
        """
        self._recalling = recalling
        self._known = known
        self._reader = reader
        self._dispatcher = dispatcher
        self._settler = settler
        self._concurrency = concurrency
        self._clock_s = clock_s
        self._log = log
        self._fit = fit
        self._waited = waited
        self._linger_s = linger_s
        self._careful = careful
        self._draining = False
        # Set when it takes entries, for whoever rests as long as it has none.
        self.stirred = asyncio.Event()

    @property
    def counts(self) -> SettlementCounts:
        """What was settled that an operator should know of."""
        return self._settler.counts

    @property
    def times(self) -> Histogram:
        """From the acceptance of a message, or when it was due, until a provider took it."""
        return self._settler.times

    @property
    def in_hand(self) -> int:
        """Entries that were taken and are not settled."""
        return self._settler.in_hand

    def allow(self, concurrency: int) -> None:
        """Let so many sends be in flight from now on.

        Nothing is dropped: of fewer, those that are in flight get their verdict, what has been read is sent
        as room comes, and no more is read until then.
        """
        self._concurrency = concurrency
        self._dispatcher.allow(concurrency)
        self._settler.freed.set()

    def room(self) -> int:
        """How many entries of other workers this one can take over now: up to `concurrency` beyond what it
        reads itself."""
        if self._draining or not self._fit() or self._full():
            return 0
        return max(0, self._room() + self._concurrency)

    def take(self, entries: Sequence[Entry]) -> None:
        """Take entries in hand and send them in order; while draining, or when what came before them goes
        back, hand them back."""
        now_s = self._clock_s()
        self.stirred.set()
        self._settler.took(len(entries))
        if self._draining or self._dispatcher.unsent.all_back:
            self._dispatcher.unsent.give_back(entries)
            return
        self._dispatcher.take(entries, now_s)

    async def run(self, draining: asyncio.Event, drain_s: float) -> None:
        """Deliver until `draining` is set; then end within about `drain_s`, seconds.

        What is not settled by then stays pending for the other workers. It never raises Unavailable:
        while Redis is away it waits, and keeps what it has in hand. It raises a fault of this
        program's own, in an ExceptionGroup; the process is to end then.
        """
        async with asyncio.TaskGroup() as group:
            settling = group.create_task(self._settler.run(), name="settle")
            dispatching = group.create_task(self._dispatcher.run(), name="dispatch")
            waking = group.create_task(self._wake_when(draining), name="drain")
            recalling = group.create_task(self._recalling(), name="recall") if self._recalling else None
            if self._known is not None and len(self._dispatcher.lanes) > 1:
                await _first_of(self._known, draining)
            await self._read_loop(draining)
            self.take(await self._reader.rest())
            self._draining = True
            if recalling is not None:
                recalling.cancel()
            self._dispatcher.unsent.leave()
            try:
                async with asyncio.timeout(drain_s):
                    while self.in_hand:
                        self._settler.settled.clear()
                        await self._settler.settled.wait()
            except TimeoutError:
                self._log.warning("drained with entries left to other workers", left=self.in_hand)
            for task in (dispatching, settling, waking):
                task.cancel()

    def _room(self) -> int:
        """How many entries more may be read."""
        settler = self._settler
        room = self._unsent_max() - settler.in_hand + self._dispatcher.lanes.hanging()
        if self._careful:
            return room
        held_up = self._dispatcher.lanes.held_up(self._clock_s())
        return 0 if self._full() else room + settler.unsettled + held_up

    def _full(self) -> bool:
        """Whether so many entries wait to be settled that no more are to be read."""
        rate, concurrency = self._dispatcher.lanes.supply.rate, self._concurrency
        least = _UNSETTLED * concurrency
        if rate < math.inf:
            least = max(least, min(int(rate * _UNSETTLED_S), _UNSETTLED_MAX * concurrency))
        return self._settler.unsettled >= least

    def _unsent_max(self) -> int:
        """How many sends in flight and entries that wait in lanes there may be, together."""
        return self._concurrency + self._ahead()

    def _ahead(self) -> int:
        """How many entries may wait in lanes."""
        return self._dispatcher.lanes.ahead(self._clock_s(), far=not self._careful)

    def _worth_reading(self) -> int:
        """How much room there must be for a read."""
        if self._dispatcher.lanes.held_up(self._clock_s()):
            return 1
        return worth_reading(self._concurrency, self._ahead())

    async def _wake_when(self, draining: asyncio.Event) -> None:
        """Let the reading wake once more when the worker is to drain."""
        await draining.wait()
        self._settler.freed.set()

    async def _read_loop(self, draining: asyncio.Event) -> None:
        freed = self._settler.freed
        backoff = Backoff(_PAUSE_S, _PAUSE_MAX_S)
        # It has let time pass, so that more could come together.
        rested = False
        while not draining.is_set():
            if self._dispatcher.unsent.all_back:
                await _hand_all_back(self, draining)
                continue
            room = self._room()
            if room < self._worth_reading():
                freed.clear()
                # A lane of several may become crowded meanwhile.
                await (freed.wait() if len(self._dispatcher.lanes) < 2 else _soon(freed, _LOOK_S))
                continue
            lanes, now_s, more = self._dispatcher.lanes, self._clock_s(), self._reader.more
            lanes.begun(now_s, more=more)
            self._reader.ready_max, self._reader.moment = lanes.ready_messages(now_s), lanes.supply.moment
            wanted = lanes.room(now_s, far=not self._careful)
            self._reader.reads_aside = freely = wanted is None and not self._careful
            apart_s = lanes.supply.apart_s(self._waited(now_s)) if freely else 0.0
            self._reader.apart = Apart(apart_s, self._settler.read_comes)
            if not self._fit() or wanted == 0:
                freed.clear()
                await _soon(freed, _LOOK_S)
                continue
            if rested and self._settler.read_comes():
                await asyncio.sleep(0)
            try:
                room = room if wanted is None else min(room, wanted)
                entries = await self._reader.read(room, until_tick_ms(_BLOCK_S))
            except Unavailable as e:
                if not backoff.failures:
                    self._log.warning("queue cannot be read", reason=e.detail)
                await asyncio.sleep(backoff.next())
                continue
            if (took_s := self._reader.took_s) is not None:
                lanes.supply.note_read(took_s)
                lanes.supply.note_given(len(entries))
            if backoff.failures:
                self._log.info("queue can be read again")
                backoff.reset()
            if entries:
                self.take(entries)
            few = entries and len(entries) < room // _FEW
            rested = bool(few and self._linger_s and not self._reader.more)
            if rested:
                await asyncio.sleep(self._linger_s)


async def _hand_all_back(worker: Worker, draining: asyncio.Event) -> None:
    """With no read under way, wait until all that goes back is written: from then on reads give it first.
    While Redis is away it is not known what of a read was lost, so that is asked for once more."""
    worker.take(await worker._reader.rest())
    settler = worker._settler
    while settler.unsettled and not draining.is_set():
        settler.settled.clear()
        await _soon(settler.settled, _LOOK_S)
    if found := await worker._reader.rest():
        worker.take(found)
    elif not settler.unsettled:
        worker._dispatcher.unsent.all_back = False


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of these is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _soon(event: asyncio.Event, timeout_s: float) -> None:
    """Wait until the event is set, or the time is over; then it is set too."""
    timer = asyncio.get_running_loop().call_later(timeout_s, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
