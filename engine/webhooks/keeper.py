"""Service: deliveries on their way into PostgreSQL and out of it, many in one statement.

A delivery that cannot be made at once is kept there until it is due again, has been made, or has failed.
Only when it is there does the position of its shard go on.

    killed before the statement   the position has not gone on: the event is read again, with the same id
    killed after it               the same, and keeping it again changes nothing
    killed before `forget`        it is due again when its claim is over, and delivered a second time
    PostgreSQL away               everything waits here and is written when it is back; the notifier reads no
                                  more when too much waits
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from engine.clocks.backoff import Backoff
from engine.errors import ConfigError, Unavailable
from engine.webhooks.ports import DeliveryBook
from engine.webhooks.records import Delivery
from engine.webhooks.recoveries import Origin

log = structlog.get_logger("notifier")

# Deliveries in one statement, and how long one waits for others, seconds.
_BATCH_MAX = 1000
_GATHER_S = 0.02
_PAUSE_S, _PAUSE_S_MAX = 0.2, 5.0


class KeeperCounts(msgspec.Struct):
    """Deliveries that were kept to be tried later, and those that failed for good."""

    kept: int = 0
    failed: int = 0


class Keeper:
    """Writes in batches; `run` it. `pending` is what is not written yet."""

    def __init__(self, book: DeliveryBook) -> None:
        self._book = book
        # (delivery, seconds until it is due, None: it has failed)
        self._kept: list[tuple[Delivery, float | None]] = []
        self._forgotten: list[int] = []
        self._takes: dict[Origin, bool] = {}
        self._writing = 0
        self._stirred = asyncio.Event()
        self._written = asyncio.Event()
        self.counts = KeeperCounts()

    @property
    def pending(self) -> int:
        """What is not written yet: deliveries, and changes of origins."""
        return len(self._kept) + len(self._forgotten) + len(self._takes) + self._writing

    def keep(self, delivery: Delivery, due_in_s: float) -> None:
        """Keep it until it is due again."""
        self._kept.append((delivery, due_in_s))
        self.counts.kept += 1
        self._stirred.set()

    def fail(self, delivery: Delivery) -> None:
        """Keep it as failed."""
        self._kept.append((delivery, None))
        self.counts.failed += 1
        self._stirred.set()

    def forget(self, row_id: int) -> None:
        """The delivery of this row was made."""
        self._forgotten.append(row_id)
        self._stirred.set()

    def note_recovery(self, origin: Origin, takes: bool) -> None:
        """The origin took the last delivery, or it failed there."""
        self._takes[origin] = takes
        self._stirred.set()

    async def run(self) -> None:
        """Write until canceled."""
        backoff, away = Backoff(_PAUSE_S, _PAUSE_S_MAX), False
        while True:
            await self._stirred.wait()
            if len(self._kept) + len(self._forgotten) < _BATCH_MAX:
                await asyncio.sleep(_GATHER_S)
            try:
                await self._write()
                backoff.reset()
                away = False
            except (Unavailable, ConfigError) as e:
                if not away:
                    log.warning("webhook deliveries cannot be kept; they wait", reason=str(e))
                away = True
                await asyncio.sleep(backoff.next())

    async def written(self) -> None:
        """Wait until everything is written."""
        while self.pending:
            self._written.clear()
            self._stirred.set()
            await self._written.wait()

    async def _write(self) -> None:
        """Write a batch of each kind. Raises Unavailable; then both are pending again."""
        kept, self._kept = self._kept[:_BATCH_MAX], self._kept[_BATCH_MAX:]
        forgotten, self._forgotten = self._forgotten[:_BATCH_MAX], self._forgotten[_BATCH_MAX:]
        takes, self._takes = self._takes, {}
        self._writing = len(kept) + len(forgotten) + len(takes)
        try:
            if kept:
                await self._book.keep(kept)
                for delivery, _ in kept:
                    settle(delivery)
                self._writing -= len(kept)
                kept = []
            if forgotten:
                await self._book.forget(forgotten)
                forgotten = []
            if takes:
                await self._book.note_recoveries(takes)
                takes = {}
        finally:
            self._kept = kept + self._kept
            self._forgotten = forgotten + self._forgotten
            # What was noted meanwhile is newer.
            self._takes = takes | self._takes
            self._writing = 0
        if not self._kept and not self._forgotten and not self._takes:
            self._stirred.clear()
        self._written.set()


def settle(delivery: Delivery) -> None:
    """The delivery was made or is kept: the position of its shard need not wait for it."""
    part, delivery.part = delivery.part, None
    if part is not None:
        part.open -= 1
