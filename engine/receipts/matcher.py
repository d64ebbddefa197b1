"""Service: who matches receipts, and when; `engine.receipts.rounds` does it.

One matcher is active, the one that holds the lease; others stand by. The lease only saves
work: what keeps two matchers apart is that only the one that *began* last may record (see
`engine.receipts.rounds`). So a matcher that was asleep beyond its lease does no harm, and one
that got it back in time goes on without beginning anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from engine.backoff import Backoff
from engine.errors import ConfigError, Fenced, Unavailable
from engine.lease import Lease, boot_time_s
from engine.receipts.ports import MatchLimits, ReceiptStream, Rounds

log = structlog.get_logger()


class Matcher:
    """One matcher process; see the module."""

    def __init__(
        self,
        stream: ReceiptStream,
        rounds: Rounds,
        owner: str,
        limits: MatchLimits,
        clock_s: Callable[[], float] = boot_time_s,
    ) -> None:
        """`owner` is unique per process incarnation, never reused."""
        self._rounds = rounds
        self._owner = owner
        self._limits = limits
        self._clock_s = clock_s
        self._begun = 0
        self._draining = asyncio.Event()
        self._lease = Lease(
            stream, owner, limits.lease_s, of="matcher", mention=self._mention, clock_s=clock_s
        )
        # When the trouble that lasts was last mentioned; None while all is well.
        self._mentioned: float | None = None

    @property
    def active(self) -> bool:
        """Whether the lease is ours at this instant."""
        return self._lease.active

    async def run(self, draining: asyncio.Event) -> None:
        """Match until `draining` is set; the round in hand is ended, or left to the next matcher.

        Raises Broken, in an ExceptionGroup, when Redis refuses a step.
        """
        self._draining = draining
        async with self._lease.held():
            await self._work()

    async def _work(self) -> None:
        begun, backoff = False, Backoff(self._limits.backoff_s, self._limits.backoff_max_s)
        while not self._draining.is_set():
            try:
                if not self.active:
                    await self._lease.stand_by(self._limits.idle_s)
                    continue
                if not begun:
                    begun = await self._begin()
                    continue
                full = await self._rounds.round(self._insist)
                backoff.reset()
                self._well()
                if not full:
                    await self._pause(self._limits.gather_s)
            except Fenced:
                log.warning("another matcher has begun; begins anew", owner=self._owner)
                begun = False
                await self._pause(self._limits.backoff_s)
            except (Unavailable, ConfigError) as e:
                await self._mention(e)
                await self._pause(backoff.next())

    async def _begin(self) -> bool:
        """Begin and catch up; False when the lease was lost meanwhile, or it is time to end."""
        self._begun += 1
        await self._rounds.begin(f"{self._owner}/{self._begun}")
        while self.active and not self._draining.is_set():
            if await self._rounds.caught_up():
                return True
            await self._pause(self._limits.gather_s)
        return False

    async def _insist(self, step: Callable[[], Awaitable[None]]) -> None:
        """See `engine.receipts.ports.Insist`."""
        backoff = Backoff(self._limits.backoff_s, self._limits.backoff_max_s)
        while True:
            try:
                return await step()
            except Unavailable as e:
                if self._draining.is_set():
                    raise
                await self._mention(e)
            await self._pause(backoff.next())

    async def _mention(self, error: Unavailable | ConfigError) -> None:
        """Log a trouble when it begins, and now and then while it lasts."""
        if self._mentioned is None or self._clock_s() - self._mentioned >= self._limits.remind_s:
            self._mentioned = self._clock_s()
            log.warning("receipts cannot be matched; they wait in Redis", reason=str(error))

    def _well(self) -> None:
        if self._mentioned is not None:
            log.info("receipts are matched again")
            self._mentioned = None

    async def _pause(self, seconds: float) -> None:
        """Sleep, until the wish to drain at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._draining.wait(), seconds)
