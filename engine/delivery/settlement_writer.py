"""Service: settlements gather, and are written to Redis in batches.

A flush writes what has gathered. A second one begins before the first is answered when enough have gathered,
so that the worker does not wait for round trips. While a backlog is read, and after a rest, a flush goes with
each read: what reaches Redis together is one turn of its loop, and one write to its disk.

    killed               a settlement whose answer did not come counts once
    Redis away, or a     the flush is sent again until it is answered, and counts once. No entry is in two
    flush not answered   flushes, so they may arrive in any order
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from engine.clocks.backoff import Backoff
from engine.delivery.dead_letters import log_set_aside
from engine.delivery.ports import QueueReader
from engine.delivery.sent import SentEntries, added_up
from engine.delivery.settlement_counts import SettlementCounts
from engine.errors import Unavailable
from engine.histogram import SENT_S, Histogram
from engine.records import Settlement

# Settlements are flushed when so many have gathered, or, while no flush is under way, when the first has
# waited so long, seconds.
_FLUSH_COUNT = 400
_FLUSH_S = 0.01
# So many are worth a flush beside a read.
_BESIDE_READ = 50
# About the most settlements in one call to Redis, and the most calls that are under way.
_FLUSH_MAX = 1000
_FLUSHES_MAX = 2
# The first and the longest pause after Redis was unavailable, seconds.
_PAUSE_S = 0.05
_PAUSE_MAX_S = 1.0


class SettlementWriter:
    """The settlements of one worker that are not written yet."""

    def __init__(
        self, reader: QueueReader, on_written: Callable[[int], None], log: FilteringBoundLogger
    ) -> None:
        """`on_written` is told how many entries each flush has settled."""
        self._reader = reader
        self._on_written = on_written
        self._log = log
        self.counts = SettlementCounts()
        # From the acceptance of a message, or when it was due, until a provider took it.
        self.times = Histogram(SENT_S, unit_s=1e-6)
        # Entries whose settlement has gathered or is being written.
        self.unsettled = 0
        # Those of them that are put off in a way, and those that are so at the front.
        self.putting_off = self.putting_in_front = 0
        # What has gathered, how many entries that is, and whether the first has waited long enough.
        self._settlements: list[Settlement] = []
        self._sent: list[SentEntries] = []
        self._gathered = 0
        self._late = False
        # Whether a read is about to be written.
        self._read_comes = False
        self._timer: asyncio.TimerHandle | None = None
        self._flush = asyncio.Event()
        self._flushes = 0
        # Redis did not take the last flush.
        self._away = False

    def add(self, settlement: Settlement) -> None:
        """Let it be written soon."""
        self._settlements.append(settlement)
        if settlement.way:
            self._put_off([settlement], 1)
        self._gather(1)

    def add_sent(self, sent: SentEntries) -> None:
        """Let them be written soon."""
        self._sent.append(sent)
        self._gather(len(sent.entries))

    def _put_off(self, settlements: Sequence[Settlement], by: int) -> None:
        """Count those that are put off, when they are added (1) and when they are written (-1)."""
        for settlement in settlements:
            if settlement.way:
                self.putting_off += by
                self.putting_in_front += by * (settlement.front or settlement.entry.way != "")

    def read_comes(self) -> bool:
        """A read is about to be written: whether a flush is, too, in the next turn of our loop."""
        self._read_comes = self._gathered >= _BESIDE_READ and self._flushes < _FLUSHES_MAX
        if self._read_comes:
            self._flush.set()
        return self._read_comes

    async def run(self) -> None:
        """Write until canceled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_FLUSHES_MAX):
                group.create_task(self._write(), name="settle")

    async def _write(self) -> None:
        while True:
            while not self._due():
                self._flush.clear()
                await self._flush.wait()
            settlements, sent = self._take()
            self._flushes += 1
            await self._settle(settlements, sent)
            self.counts.add(settlements, sent, self.times)
            log_set_aside(settlements, self._log)
            self._flushes -= 1
            count = len(settlements) + added_up(sent)
            self.unsettled -= count
            if self.putting_off:
                self._put_off(settlements, -1)
            self._on_written(count)

    def _due(self) -> bool:
        """Whether a flush is to be written now."""
        if self._gathered >= _FLUSH_COUNT or self._read_comes:
            return True
        return self._late and not self._flushes

    def _take(self) -> tuple[list[Settlement], list[SentEntries]]:
        """What the next flush writes: all that has gathered, up to about `_FLUSH_MAX`."""
        settlements, self._settlements = self._settlements[:_FLUSH_MAX], self._settlements[_FLUSH_MAX:]
        count, taken = len(settlements), 0
        while count < _FLUSH_MAX and taken < len(self._sent):
            count += len(self._sent[taken].entries)
            taken += 1
        sent, self._sent = self._sent[:taken], self._sent[taken:]
        self._gathered -= count
        self._late, self._read_comes = self._gathered > 0, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return settlements, sent

    def _gather(self, count: int) -> None:
        """Note that so many settlements more have gathered."""
        self.unsettled += count
        self._gathered += count
        if self._gathered >= _FLUSH_COUNT:
            self._flush.set()
        elif self._timer is None and not self._late:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self._ring)

    def _ring(self) -> None:
        self._late, self._timer = True, None
        self._flush.set()

    async def _settle(self, settlements: Sequence[Settlement], sent: Sequence[SentEntries]) -> None:
        """Settle, however long Redis is away. Sent again, a settlement counts once."""
        backoff = Backoff(_PAUSE_S, _PAUSE_MAX_S)
        while True:
            try:
                counted = await self._reader.settle(settlements, sent)
            except Unavailable as e:
                if not self._away:
                    self._log.warning("verdicts cannot be settled", reason=e.detail, waiting=self.unsettled)
                self._away = True
                await asyncio.sleep(backoff.next())
                continue
            if self._away:
                self._log.info("verdicts are settled again")
                self._away = False
            of_others = len(settlements) + added_up(sent) - counted
            if of_others and not backoff.failures:
                self._log.warning("entries were settled by another worker", count=of_others)
            return
