"""A lease that one of several processes holds: the one that has it is active, the others stand by.

    state       how it comes about                     what follows
    won         nobody had it, or its time was over    `active`; `stand_by` returns at once
    kept        asked for again, thrice in its time    it stays `active`
    lost        the store says that another has it     not `active` from the answer on
    frozen      the process slept past its time        not `active` when it wakes: its time begins
                                                       with the question, not with the answer
    store away  nobody knows; others cannot win it     `active` until the time that is known is over
    given up    `held` was left (drained)              free for the others at once; when the store
                                                       is away, once its time is over

A lease saves work. It does not exclude: a process that was frozen may take one more step before it
looks at `active`. The process must guard what must not happen twice in another way.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import structlog

from engine.clocks.waits import next_tick
from engine.errors import ConfigError, Unavailable

log = structlog.get_logger()

# How often a lease is asked for: with what a tick may be late, thrice in its time at least, and as often as
# this, seconds.
_ASK, _ASK_S = 0.8 / 3, 2.0
# The clock goes on while the machine sleeps, as that of Redis does.
boot_time_s = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class LeaseStore(Protocol):
    """Where a lease is kept. Every call raises Unavailable or ConfigError."""

    async def lease(self, owner: str, ttl_ms: int) -> bool:
        """Become or stay the one owner for `ttl_ms` milliseconds; False while another process is."""

    async def release(self, owner: str) -> None:
        """Give the lease up at once, if it is `owner`'s."""


class Lease:
    """The lease of one process; see the module."""

    def __init__(
        self,
        store: LeaseStore,
        owner: str,
        lease_s: float,
        *,
        of: str,
        mention: Callable[[Unavailable | ConfigError], Awaitable[None]],
        clock_s: Callable[[], float] = boot_time_s,
    ) -> None:
        """`owner` is unique for each incarnation of a process and never used again.

        `lease_s`: how long a lease lasts, seconds. `of`: what it is for, in the log. `mention` is
        called with the error whenever the store does not answer.
        """
        self._store = store
        self._owner = owner
        self._lease_s = lease_s
        self._of = of
        self._mention = mention
        self._clock_s = clock_s
        self._until_s = 0.0
        self._won = asyncio.Event()

    @property
    def active(self) -> bool:
        """Whether this process has the lease now."""
        return self._clock_s() < self._until_s

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """While the block runs, win the lease when it is free and keep it; then give it up.

        An error of the block is raised in an ExceptionGroup.
        """
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep())
                yield
                keeping.cancel()
        finally:
            if self.active:
                log.debug(f"{self._of} gives its lease back", owner=self._owner)
            self._until_s = 0.0
            with contextlib.suppress(Unavailable, ConfigError):
                await self._store.release(self._owner)

    async def stand_by(self, seconds: float) -> None:
        """Wait until the lease is won, `seconds` at most."""
        self._won.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._won.wait(), seconds)

    async def _keep(self) -> None:
        while True:
            asked_s = self._clock_s()
            try:
                ours = await self._store.lease(self._owner, round(self._lease_s * 1000))
            except (Unavailable, ConfigError) as e:
                await self._mention(e)
            else:
                if ours and not self.active:
                    log.info(f"{self._of} is active", owner=self._owner)
                elif not ours and self.active:
                    log.warning(f"{self._of} lost its lease", owner=self._owner)
                self._until_s = asked_s + self._lease_s if ours else 0.0
                if ours:
                    self._won.set()
            await next_tick(min(_ASK_S, _ASK * self._lease_s))
