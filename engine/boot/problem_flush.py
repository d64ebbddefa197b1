"""Hands on what a process noted of its providers' problems: once a second, one batch to Redis.

Killed here: what was noted since the last batch is lost, a second's worth at most; nothing depends on it.
Frozen: it comes later, under the time of the flush. Redis away, slow or full: what was noted stays here,
added up to one count and a few samples for each kind of each provider, until Redis takes it; nothing waits
for it. A batch without an answer may have been applied and is sent again, so a problem may be counted
twice then, and never is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from structlog.typing import FilteringBoundLogger

from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.problem_records import Noted
from engine.providers.problems import Problems, joined

PERIOD_S = 1.0

# Keeps a collection; raises Unavailable.
Keep = Callable[[Sequence[Noted]], Awaitable[None]]


class ProblemFlush:
    """Collects from `problems` every `period_s` while its context lasts, and once more at its end."""

    def __init__(
        self, problems: Problems, keep: Keep, log: FilteringBoundLogger, period_s: float = PERIOD_S
    ) -> None:
        self._problems = problems
        self._keep = keep
        self._log = log
        self._period_s = period_s
        # What could not be kept yet.
        self._left: list[Noted] = []

    async def flush(self) -> None:
        """Hand on what was noted; what cannot be kept now is handed on with the next flush."""
        self._left = joined(self._left, self._problems.collect())
        if not self._left:
            return
        try:
            await self._keep(self._left)
        except Unavailable:
            return
        self._left = []

    async def _flush_on(self) -> None:
        while True:
            await next_tick(self._period_s)
            try:
                await self.flush()
            except Exception as e:  # whatever it is, it must not keep a process from delivering
                self._left = []
                self._log.error("problems of providers cannot be kept", exc_info=e)

    async def __aenter__(self) -> Self:
        self._flushing = asyncio.create_task(self._flush_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._flushing.cancel()
        await asyncio.wait([self._flushing])
        await self.flush()
