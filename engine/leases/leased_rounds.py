"""The rounds of a role that one of several processes does: the one that has the lease.

    not active          it waits until it has the lease
    a store away        said once, and again when it was back in between; the next round tries again
    drained             the round in hand is ended, and the lease is given up

What a round that is cut short leaves, and two processes that do the same, is for the role to say: see
`engine.leases.lease`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from engine.clocks.waits import happens, until_tick_s
from engine.errors import ConfigError, Unavailable
from engine.leases.lease import Lease, LeaseStore

_LEASE_S = 10.0


class LeasedRounds:
    """The rounds of one process; see the module."""

    def __init__(
        self,
        store: LeaseStore,
        owner: str,
        round_once: Callable[[], Awaitable[None]],
        *,
        of: str,
        log: FilteringBoundLogger,
        trouble: str,
        look_s: float,
    ) -> None:
        """`owner` is unique per process incarnation. `round_once` may raise Unavailable and ConfigError.

        `of`: what the lease is for, and `trouble`: what follows while a store is away, both for the log.
        `look_s`: from one round to the next, seconds.
        """
        self._round_once = round_once
        self._log = log
        self._trouble = trouble
        self._look_s = look_s
        self._lease = Lease(store, owner, _LEASE_S, of=of, mention=self._mention)
        self._away = False

    async def run(self, draining: asyncio.Event) -> None:
        """Do rounds until `draining` is set; what is left then is another process's."""
        async with self._lease.held():
            while not draining.is_set():
                if not self._lease.active:
                    await self._lease.stand_by(self._look_s)
                    continue
                try:
                    await self._round_once()
                    self._away = False
                except (Unavailable, ConfigError) as e:
                    await self._mention(e)
                await happens(draining, until_tick_s(self._look_s))

    async def _mention(self, error: Unavailable | ConfigError) -> None:
        if not self._away:
            self._log.warning(self._trouble, reason=str(error))
        self._away = True
