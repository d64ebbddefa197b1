"""Service: kept deliveries that are due, back to the sender.

killed after a claim   nobody has the deliveries until the claim is over; then they are due again
PostgreSQL away        nothing is claimed until it is back
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from engine.clocks.waits import next_tick
from engine.errors import ConfigError, Unavailable
from engine.webhooks.ports import DeliveryBook, DueTarget
from engine.webhooks.recoveries import Origin
from engine.webhooks.sender import Sender
from engine.webhooks.shares import Shares

log = structlog.get_logger("notifier")

# How often what is kept is looked at, seconds: usually, and when there was something to claim.
RETRY_S = 2.0
_MORE_S = 0.1
# Nobody else has claimed deliveries for so long, seconds: more than one waits in line and is in flight.
CLAIM_S = 120.0
# How often what is old is given up or deleted, seconds.
_TIDY_S = 60.0
_TARGETS_MAX = 100


class Retries:
    """Claims what is due in this notifier's shards. `run` and `tidy` it."""

    def __init__(
        self,
        book: DeliveryBook,
        sender: Sender,
        shares: Shares,
        *,
        has_room: Callable[[], bool],
        retry_s: float,
    ) -> None:
        """`has_room`: whether the process may take more into its memory."""
        self._book = book
        self._sender = sender
        self._shares = shares
        self._has_room = has_room
        self._retry_s = retry_s
        # Kept deliveries that wait, as they were counted last.
        self.waiting = 0

    async def run(self) -> None:
        """Claim until canceled."""
        while True:
            more = False
            try:
                more = await self._claim()
            except (Unavailable, ConfigError) as e:
                log.warning("kept webhook deliveries cannot be looked up", reason=str(e))
            await (asyncio.sleep(_MORE_S) if more else next_tick(self._retry_s))

    async def tidy(self) -> None:
        """Give up and delete what is old, and count the rest, until canceled."""
        while True:
            with contextlib.suppress(Unavailable, ConfigError):
                given_up, self.waiting = await self._book.tidy(list(self._shares.reading()))
                if given_up:
                    log.warning("webhook deliveries were given up; they waited too long", count=given_up)
            await next_tick(_TIDY_S)

    async def _claim(self) -> bool:
        """Claim what is due and offer it; whether there may be more at once."""
        shards = list(self._shares.reading())
        if not shards or not self._has_room():
            return False
        wanted: list[tuple[DueTarget, int]] = []
        targets = await self._book.due_targets(shards)
        self._sender.recoveries.waits_at(Origin(t.shard, t.organisation_id, t.origin) for t in targets)
        for target in targets:
            if target.due_in_s <= 0 and (room := self._sender.room(target.organisation_id, target.origin)):
                wanted.append((target, room))
        for delivery in await self._book.claim(wanted[:_TARGETS_MAX], CLAIM_S) if wanted else []:
            self._sender.offer(delivery)
        return bool(wanted)
