"""Service: which shards this notifier reads, of all that are alive.

Each notifier notes that it lives, sees who else does, and reads every n-th shard, by its place among their
names. A shard has one owner at a time, by a lease of its own. Whoever has too many stops reading some,
settles what it has read of them, and gives them back.

    killed         its leases end by themselves within `LEASE_S`, and others own its shards
    frozen         the same; when it wakes it knows that its time is over, and nothing that it settles then
    counts Redis away     it keeps its shards until their time is over, and reads on when Redis is back
    one more lives each of the others gives back what is not its share any more, within a few seconds
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.leases.lease import boot_time_s
from engine.shards import share_of
from engine.webhooks.ports import Settled, WebhookStreams
from engine.webhooks.records import ReadPart

log = structlog.get_logger("notifier")

LEASE_S = 10.0
_RENEW_S = 2.5


class OwnShard:
    """A shard that this notifier has: how far it is read, and what of that is not settled yet."""

    def __init__(self, shard: int, settled: Settled) -> None:
        self.shard = shard
        self.read = settled
        # In the order in which they were read.
        self.parts: deque[ReadPart] = deque()
        # It is another's share: it is not read any more.
        self.leaving = False
        # It could not be read: not again before this time of the loop, seconds.
        self.paused_until_s = 0.0
        # How far activity and events are settled and not noted in Redis, "" for no further.
        self.to_note = ("", "")

    @property
    def open(self) -> int:
        """Deliveries of it that are neither made nor kept."""
        return sum(part.open for part in self.parts)

    def settle(self) -> bool:
        """Move `to_note` on by what is settled; whether there is something to note."""
        while self.parts and self.parts[0].open <= 0:
            part = self.parts.popleft()
            self.to_note = part.activity or self.to_note[0], part.events or self.to_note[1]
        return self.to_note != ("", "")


class Shares:
    """The shards of one notifier. `run` it; `shards` is what it has now."""

    def __init__(
        self,
        streams: WebhookStreams,
        name: str,
        shards: int,
        *,
        lease_s: float = LEASE_S,
    ) -> None:
        """`name` is unique per process incarnation."""
        self._streams = streams
        self._name = name
        self._all = shards
        self._lease_s = lease_s
        self._until_s = 0.0
        self.shards: dict[int, OwnShard] = {}
        # Set when there is a shard to read.
        self.some = asyncio.Event()

    def reading(self) -> dict[int, OwnShard]:
        """The shards that are to be read now; none when the time of the leases is over."""
        if boot_time_s() >= self._until_s:
            return {}
        return {s: shard for s, shard in self.shards.items() if not shard.leaving}

    def lose(self, shards: list[int]) -> None:
        """Another notifier has these."""
        for shard in shards:
            log.warning("notifier lost a shard", shard=shard)
            self.shards.pop(shard, None)

    async def run(self) -> None:
        """Own this notifier's share until canceled."""
        away = False
        while True:
            try:
                await self.renew()
                away = False
            except Unavailable as e:
                if not away:
                    log.warning("notifier cannot renew its leases", reason=str(e))
                away = True
            await next_tick(self._lease_s * _RENEW_S / LEASE_S)

    async def renew(self) -> None:
        """Look once who lives, and own this notifier's share. Raises Unavailable."""
        asked_s = boot_time_s()
        ttl_ms = round(self._lease_s * 1000)
        names = await self._streams.living(self._name, ttl_ms)
        share = share_of(self._name, names, self._all)
        for shard, own in self.shards.items():
            own.leaving = shard not in share
        done = [s for s, own in self.shards.items() if own.leaving and not own.parts and not any(own.to_note)]
        await self._streams.give_back(self._name, done)
        for shard in done:
            self.shards.pop(shard, None)
        wanted = sorted(share | set(self.shards))
        ours = await self._streams.own(self._name, wanted, ttl_ms)
        if asked_s >= self._until_s:
            # The time was over: others may have read and settled what is known here.
            self.shards.clear()
        self.lose([s for s in self.shards if s not in ours])
        for shard, settled in ours.items():
            if shard not in self.shards and shard in share:
                self.shards[shard] = OwnShard(shard, settled)
        self._until_s = asked_s + self._lease_s
        if self.reading():
            self.some.set()

    async def leave(self) -> None:
        """Give everything back, because the process ends. Raises Unavailable."""
        await self._streams.give_back(self._name, list(self.shards))
        self.shards.clear()
        await self._streams.leave(self._name)
