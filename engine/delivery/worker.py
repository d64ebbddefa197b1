"""One queue in one process: read ahead, send with bounded concurrency, settle in batches.

Entries flow from the reader to the dispatcher, from there to a provider while fewer than
`concurrency` sends are in flight, and with their verdict into `_settlements`, which one
flush at a time writes back. Per message there is no task, no future and no round trip:
a provider calls back, and callbacks move the next entry along.

Whatever is in hand counts against one bound, so a worker that cannot settle, because
Redis is away, soon stops reading and then stops sending.

Killed at any point: what was in hand is pending under our name, and others take it over;
what was in flight is sent twice (at-least-once), and charged once.
Frozen: entries read more than `hand_s` ago are not sent but dropped; by then another
worker may have them. What was in flight is settled by whoever comes first.
Drained: sends in flight get their verdict and are settled, what was only read is handed
back through the due set. After a clean end nothing is pending under our name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random

from structlog.typing import FilteringBoundLogger

from engine.delivery.ports import Dispatch, QueueReader
from engine.delivery.settlement import Backoff, after_verdict, before_sending, put_off, unroutable
from engine.errors import Unavailable
from engine.records import Entry, Settlement, Verdict

# A read waits this long for a first entry, and a drain at most this long for the read.
_BLOCK_MS = 250
# Settlements are flushed when so many wait, or the first has waited so long.
_FLUSH_COUNT = 200
_FLUSH_S = 0.002
# Most settlements in one flush.
_FLUSH_MAX = 1000
# While no provider has room, it is asked again this often, seconds.
_LOOK_S = 0.1
# Pause after Redis was unavailable; doubles up to the second.
_PAUSE_S = 0.05
_PAUSE_MAX_S = 1.0


class Worker:
    """Delivers the messages of `reader`'s queue."""

    def __init__(
        self,
        reader: QueueReader,
        dispatcher: Dispatch,
        *,
        concurrency: int,
        backoff: Backoff,
        hand_s: float,
        now_us: Callable[[], int],
        clock_s: Callable[[], float],
        rng: Random,
        log: FilteringBoundLogger,
        at_most_once: bool = False,
    ) -> None:
        """`concurrency` bounds the sends in flight, as the dispatcher counts them. `hand_s` plus
        a provider's time-out must be less than the idle time after which entries are taken
        over. `at_most_once`: what was sent and never answered is given up, not sent again.
        """
        self._reader = reader
        self._dispatcher = dispatcher
        self._concurrency = concurrency
        self._backoff = backoff
        self._hand_s = hand_s
        self._now_us = now_us
        self._clock_s = clock_s
        self._rng = rng
        self._log = log
        self._at_most_once = at_most_once
        # Sends in flight, entries that wait in lanes, and verdicts not yet settled, together.
        self._in_hand_max = concurrency + max(1, concurrency // 2) * dispatcher.lanes
        self._in_hand = 0
        self._settlements: list[Settlement] = []
        self._flush = asyncio.Event()
        # Set whenever something in hand was settled.
        self._settled = asyncio.Event()
        self._draining = False
        dispatcher.report_to(self)

    @property
    def in_flight(self) -> int:
        return self._dispatcher.in_flight

    @property
    def in_hand(self) -> int:
        return self._in_hand

    def room(self) -> int:
        """How many entries of other workers this one can take over now: up to one more
        `concurrency` beside what it reads itself."""
        return 0 if self._draining else max(0, self._in_hand_max + self._concurrency - self._in_hand)

    def take(self, entries: Sequence[Entry]) -> None:
        """Take entries in hand, to be sent in order; while draining, to be handed back."""
        now_s = self._clock_s()
        self._in_hand += len(entries)
        if self._draining:
            now_us = self._now_us()
            for entry in entries:
                self._settle(put_off(entry, now_us))
            return
        for entry in entries:
            self._dispatcher.place(entry, now_s, now_s)
        self._dispatcher.pump(now_s)

    async def run(self, draining: asyncio.Event, drain_s: float) -> None:
        """Deliver until `draining` is set; then end within about `drain_s`.

        What is not settled by then stays pending for the other workers. Never raises
        Unavailable: it waits for Redis to come back, holding what it has.
        """
        async with asyncio.TaskGroup() as group:
            flushing = group.create_task(self._flush_loop(), name="settle")
            dispatching = group.create_task(self._dispatcher.run(), name="dispatch")
            await self._read_loop(draining)
            self._draining = True
            for entry, _ in self._dispatcher.clear():
                self._settle(put_off(entry, self._now_us()))
            try:
                async with asyncio.timeout(drain_s):
                    while self._in_hand:
                        self._settled.clear()
                        await self._settled.wait()
            except TimeoutError:
                self._log.warning("drained with entries left to other workers", left=self._in_hand)
            dispatching.cancel()
            flushing.cancel()

    async def _read_loop(self, draining: asyncio.Event) -> None:
        # Asking for a few at a time would cost a round trip each.
        worthwhile = max(1, self._in_hand_max // 4)
        pause_s = 0.0
        while not draining.is_set():
            room = self._in_hand_max - self._in_hand
            if room < worthwhile:
                self._settled.clear()
                await _first_of(self._settled, draining)
                continue
            if not self._dispatcher.worth_reading(self._clock_s()):
                self._settled.clear()
                await _first_of(self._settled, draining, timeout_s=_LOOK_S)
                continue
            try:
                entries = await self._reader.read(room, _BLOCK_MS)
            except Unavailable as e:
                if not pause_s:
                    self._log.warning("queue cannot be read", reason=e.detail)
                pause_s = min(max(2 * pause_s, _PAUSE_S), _PAUSE_MAX_S)
                await asyncio.sleep(pause_s)
                continue
            if pause_s:
                self._log.info("queue can be read again")
                pause_s = 0.0
            if entries:
                self.take(entries)

    def fit(self, entry: Entry, read_at_s: float) -> bool:
        """See `engine.delivery.ports.EntryOwner`; so are the next three."""
        if read_at_s < self._clock_s() - self._hand_s:
            self._reader.drop([entry])
            self._let_go(1)
            return False
        settlement = before_sending(entry, self._now_us())
        if settlement is not None:
            self._settle(settlement)
        return settlement is None

    def ended(self, entry: Entry, verdict: Verdict, *, others: bool, reroute: bool) -> None:
        self._settle(
            after_verdict(
                entry,
                verdict,
                self._now_us(),
                self._backoff,
                self._rng,
                others=others,
                reroute=reroute,
                at_most_once=self._at_most_once,
            )
        )

    def put_off(self, entry: Entry, pause_s: float) -> None:
        now_us = self._now_us()
        # What has expired or killed workers is settled now, not moved round.
        self._settle(before_sending(entry, now_us) or put_off(entry, now_us + int(pause_s * 1e6)))

    def unroutable(self, entry: Entry) -> None:
        now_us = self._now_us()
        self._settle(before_sending(entry, now_us) or unroutable(entry, now_us))

    def _let_go(self, count: int) -> None:
        self._in_hand -= count
        self._settled.set()

    def _settle(self, settlement: Settlement) -> None:
        self._settlements.append(settlement)
        waiting = len(self._settlements)
        if waiting == 1:
            asyncio.get_running_loop().call_later(_FLUSH_S, self._flush.set)
        elif waiting == _FLUSH_COUNT:
            self._flush.set()

    async def _flush_loop(self) -> None:
        """One flush at a time: while one is under way, the next gathers."""
        while True:
            await self._flush.wait()
            self._flush.clear()
            settlements, self._settlements = self._settlements, []
            for first in range(0, len(settlements), _FLUSH_MAX):
                batch = settlements[first : first + _FLUSH_MAX]
                await self._settle_all(batch)
                self._let_go(len(batch))

    async def _settle_all(self, batch: Sequence[Settlement]) -> None:
        """Settle however long Redis is away; answered or not, sent again it counts once."""
        pause_s = 0.0
        while True:
            try:
                counted = await self._reader.settle(batch)
            except Unavailable as e:
                if not pause_s:
                    self._log.warning("verdicts cannot be settled", reason=e.detail, waiting=self._in_hand)
                pause_s = min(max(2 * pause_s, _PAUSE_S), _PAUSE_MAX_S)
                await asyncio.sleep(pause_s)
                continue
            if pause_s:
                self._log.info("verdicts are settled again")
            elif counted < len(batch):
                self._log.warning("entries were settled by another worker", count=len(batch) - counted)
            return


async def _first_of(*events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Until one of them is set, or the time is over."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
