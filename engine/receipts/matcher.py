"""Service: which receipts a process matches, and when; `engine.receipts.rounds` does the matching.

Matchers share the shards (`engine.leases.shard_leases`). The leases only save work. What keeps two matchers
apart is that of each shard only the one that *began* last may record (see `engine.receipts.rounds`). So a
matcher that slept beyond its leases does no harm, and one that gets them back in time goes on without
beginning anew."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from engine.clocks.backoff import Backoff
from engine.errors import ConfigError, Fenced, Unavailable
from engine.leases.lease import boot_time_s
from engine.leases.shard_leases import ShardLeases
from engine.receipts.ports import MatchLimits, ReceiptStream
from engine.receipts.rounds import Rounds

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
        # The shards in which the rounds have begun.
        self._had = frozenset[int]()
        self._draining = asyncio.Event()
        self._leases = ShardLeases(
            stream, owner, limits.lease_s, of="matcher", mention=self._mention, clock_s=clock_s
        )
        # When the trouble that lasts was last mentioned; None while all is well.
        self._mentioned: float | None = None

    @property
    def shards(self) -> frozenset[int]:
        """The shards that are this matcher's at this instant."""
        return self._leases.shards

    async def run(self, draining: asyncio.Event) -> None:
        """Match until `draining` is set. The round in hand is ended, or left to other matchers.

        Raises Broken, in an ExceptionGroup, when Redis refuses a step.
        """
        self._draining = draining
        async with self._leases.held():
            await self._work()

    async def _work(self) -> None:
        backoff = Backoff(self._limits.backoff_s, self._limits.backoff_max_s)
        while not self._draining.is_set():
            try:
                await self._leases.give_back()
                if not await self._has_caught_up():
                    continue
                full = await self._rounds.round(self._insist)
                backoff.reset()
                self._well()
                if not full:
                    await self._pause(self._limits.gather_s)
            except Fenced:
                log.warning("another matcher has begun; begins anew", owner=self._owner)
                self._rounds.begin_anew()
                self._had = frozenset()
                await self._pause(self._limits.backoff_s)
            except (Unavailable, ConfigError) as e:
                await self._mention(e)
                await self._pause(backoff.next())

    async def _has_caught_up(self) -> bool:
        """Begin in the shards that are new, and leave those that are gone. False, after a while, when there
        is none yet of which the store has all that others recorded."""
        shards = self.shards
        if shards != self._had:
            self._begun += 1
            await self._rounds.have(shards, f"{self._owner}/{self._begun}")
            self._had = shards
        if not shards:
            await self._leases.stand_by(self._limits.idle_s)
            return False
        if await self._rounds.caught_up():
            return True
        await self._pause(self._limits.gather_s)
        return False

    async def _insist(self, step: Callable[[], Awaitable[None]]) -> None:
        """Make `step` until it is done: see `engine.receipts.ports.Insist`."""
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
        """Sleep; the wish to drain ends the sleep."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._draining.wait(), seconds)
