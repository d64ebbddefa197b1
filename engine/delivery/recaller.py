"""Service: recalls what is put off, when its providers have room (`engine.delivery.ways`).

It runs beside everything else, and sleeps while nothing is put off.

    killed          what was recalled is in the queue, for whoever reads it
    frozen          the other workers recall it; what this one has recalled before goes to whoever reads
    answer lost     what was recalled is in the queue; more is recalled a little later
    Redis away      nothing is recalled; what waits stays
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from engine.clocks.backoff import Backoff
from engine.delivery.ports import PutOffMessages
from engine.delivery.supply import Supply
from engine.delivery.ways import Ways
from engine.errors import Unavailable

# How often it looks while anything is put off, seconds; more often where a lane sends what waits in it
# sooner.
_LOOK_S, _LOOK_MIN_S = 0.1, 0.01
# Longest pause while Redis is away, seconds.
_PAUSE_MAX_S = 1.0


class Recaller:
    """Recalls messages of one queue for one worker."""

    def __init__(
        self,
        put_off: PutOffMessages,
        ways: Ways,
        supply: Supply,
        *,
        clock_s: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._put_off = put_off
        self._ways = ways
        self._supply = supply
        self._clock_s = clock_s
        self._log = log
        self._looked = asyncio.Event()
        # Set when the reader has found for the first time what is put off.
        self.known = asyncio.Event()

    def asks(self) -> None:
        """The reader is about to ask what is put off."""
        self._ways.asks()

    def look(self) -> None:
        """Note what the reader has just found put off."""
        waiting = self._put_off.waiting
        self._ways.note(waiting, self._clock_s(), release=not self._put_off.allowed)
        self.known.set()
        if waiting:
            self._looked.set()

    async def run(self) -> None:
        """Recall until canceled."""
        backoff = Backoff(_LOOK_S, _PAUSE_MAX_S)
        while True:
            if not self._put_off.waiting:
                self._looked.clear()
                await self._looked.wait()
            try:
                await self._recall()
            except Unavailable as e:
                if not backoff.failures:
                    self._log.warning("nothing that is put off can be recalled", reason=e.detail)
                await asyncio.sleep(backoff.next())
                continue
            if backoff.failures:
                self._log.info("what is put off is recalled again")
                backoff.reset()
            await asyncio.sleep(self._pause_s())

    async def _recall(self) -> None:
        """Recall what there is room for now. Raises Unavailable."""
        asked_at_s = self._clock_s()
        recalls = self._ways.wanted(asked_at_s)
        if not recalls:
            return
        moved = await self._put_off.recall(recalls)
        now_s = self._clock_s()
        # While nothing waits behind the ready stream, reads wait, and say nothing of this.
        self._supply.note_read(now_s - asked_at_s)
        for recall, (messages, segments) in zip(recalls, moved, strict=True):
            self._ways.recalled(recall, messages, segments, now_s)

    def _pause_s(self) -> float:
        """How long what waits in the lanes lasts, or a part of that."""
        return max(_LOOK_MIN_S, min([_LOOK_S, *self._ways.lasts_s(self._clock_s())]))
