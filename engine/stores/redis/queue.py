"""A worker's side of the queue streams in Redis (`engine.delivery.ports.QueueReader`).

Every message a worker has been given lies in the stream's pending list under the
worker's name until it is settled; that list, not this process, is what remembers.
What happens when this process dies or freezes, or an answer does not come:

read       The entries are pending under our name though we never saw them. The next
           `read` looks through the pending list for what is not in hand.
settle     Counted or not, we cannot tell; sent again it counts what was not counted.
take_over  As for `read`.
killed     The name is fenced; the other workers take over at once.
frozen     They take over after `min_idle_ms`. Whoever settles an entry first, counts.

All shards are read by one command from one Redis. A Redis Cluster would need one link
and one command per node: `_read_streams` and `_all` are the places.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from structlog.typing import FilteringBoundLogger

from engine.errors import Unavailable
from engine.records import Entry, Queue, Settlement
from engine.shards import queue_key
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.in_hand import HeldEntries
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.wire import ReplyError

# Pending entries looked through per command when searching for lost ones.
_PAGE = 500


class QueueStreams:
    """One queue, all shards, as the consumer `worker_name`."""

    def __init__(
        self,
        commands: RedisLink,
        reading: RedisLink,
        *,
        queue: Queue,
        shards: int,
        worker_name: str,
        timeout_s: float,
        log: FilteringBoundLogger,
    ) -> None:
        """`reading` blocks and so belongs to this reader alone; its answers may take the
        block and `timeout_s`. `worker_name` is unique per incarnation, never used again.
        """
        self._commands = commands
        self._reading = reading
        self.queue: Queue = queue
        self._shards = range(shards)
        self._name = worker_name
        self._timeout_s = timeout_s
        self._log = log
        self._shard_of_key = {queue_key(shard, queue): shard for shard in self._shards}
        self._hand = HeldEntries(shards)
        # Streams that gave as much as they were asked for last time.
        self._busy: list[int] = []
        # There may be pending entries of ours that are not in hand.
        self._lost = False

    async def join(self) -> None:
        """Make the groups, and be known as alive: else others take our entries over at once."""
        await self.ensure_groups()
        await self._all([wire.register(self._name, shard) for shard in self._shards])

    async def ensure_groups(self) -> None:
        """Make the consumer groups that are not there. Raises Unavailable."""
        for reply in await self._commands.batch([wire.make_group(self.queue, s) for s in self._shards]):
            if isinstance(reply, ReplyError):
                raise Unavailable(f"Redis does not make the consumer group: {reply}.") from reply

    async def beat(self) -> None:
        alive = await self._all([wire.beat(self._name, shard) for shard in self._shards])
        fenced = [shard for shard in self._shards if not alive[shard]]
        if fenced:
            self._log.warning("worker was fenced, joining again", queue=self.queue, shards=fenced)
            await self._all([wire.register(self._name, shard) for shard in fenced])

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        try:
            if self._lost:
                self._lost = False
                if found := await self._receive(await self._claim_own(0, count)):
                    return found
            streams = await self._read_streams(count, block_ms)
        except (Unavailable, asyncio.CancelledError):
            self._lost = True
            raise
        return await self._receive((self._shard_of_key[key], wire.fields_of(raw)) for key, raw in streams)

    async def _read_streams(self, count: int, block_ms: int) -> list[Any]:
        """[[key, entries] …]: at once from streams known to have more, else blocking for all."""
        while True:
            asked = wire.shares(self._shards, self._busy, count)
            block = None if self._busy else block_ms
            self._busy = []
            replies = await self._reading.batch(
                [wire.read(self.queue, self._name, shards, share, block) for shards, share in asked],
                timeout_s=self._timeout_s + (block or 0) / 1000,
            )
            streams: list[Any] = []
            for (_, share), reply in zip(asked, replies, strict=True):
                if isinstance(reply, ReplyError):
                    raise await self._mended(reply)
                for key, raw in reply or ():
                    streams.append((key, raw))
                    if len(raw) >= share:
                        self._busy.append(self._shard_of_key[key])
            if streams or block is not None:
                return streams

    async def settle(self, settlements: Sequence[Settlement]) -> int:
        by_shard: dict[int, list[Settlement]] = {}
        for settlement in settlements:
            by_shard.setdefault(settlement.entry.shard, []).append(settlement)
        counted = await self._all(
            [wire.settle(self.queue, self._name, shard, some) for shard, some in by_shard.items()]
        )
        self._hand.let_go(settlement.entry for settlement in settlements)
        return sum(counted)

    def drop(self, entries: Sequence[Entry]) -> None:
        self._hand.let_go(entries)
        self._lost = self._lost or bool(entries)

    async def promote(self, now_us: int, limit: int) -> int:
        return sum(await self._all([wire.promote(self.queue, s, now_us, limit) for s in self._shards]))

    async def take_over(self, min_idle_ms: int, limit: int) -> list[Entry]:
        try:
            claimed = await self._claim_own(min_idle_ms, limit)
            limit -= len(claimed)
            shards, suspected = list(self._shards), None
            # An equal share of each shard, then what is left of `limit` from those with more.
            for _ in range(2):
                if limit <= 0 or not shards:
                    break
                share = max(1, limit // len(shards))
                more = []
                for shard, (raw, suspects) in await self._claim(shards, min_idle_ms, share, suspects=0):
                    claimed.append((shard, raw))
                    limit -= len(raw)
                    if len(raw) == share:
                        more.append(shard)
                    if suspects:
                        suspected = shard
                shards = more
            # Suspects pass through one at a time, whatever their shard.
            if suspected is not None and not self._hand.suspected:
                claimed += [
                    (s, raw) for s, (raw, _) in await self._claim([suspected], min_idle_ms, 1, suspects=1)
                ]
        except (Unavailable, asyncio.CancelledError):
            self._lost = True
            raise
        return await self._receive(claimed)

    async def _claim(
        self, shards: Sequence[int], min_idle_ms: int, limit: int, *, suspects: int
    ) -> Iterable[tuple[int, tuple[list[wire.RawEntry], int]]]:
        """Per shard: entries taken over, and suspects passed over."""
        commands = [wire.take_over(self.queue, self._name, s, min_idle_ms, limit, suspects) for s in shards]
        return zip(shards, await self._all(commands), strict=True)

    async def _claim_own(self, min_idle_ms: int, limit: int) -> list[tuple[int, Iterable[wire.RawEntry]]]:
        """What lies under our name, idle for `min_idle_ms`, and is not in hand: up to `limit`."""
        lost: list[tuple[int, bytes, int, int]] = []
        starts = dict.fromkeys(self._shards, b"-")
        while starts and len(lost) < limit:
            pages = await self._all(
                [
                    wire.own_pending(self.queue, self._name, shard, min_idle_ms, start, _PAGE)
                    for shard, start in starts.items()
                ]
            )
            further = {}
            for shard, page in zip(starts, pages, strict=True):
                lost += [
                    (shard, i, idle, given) for i, _, idle, given in page if not self._hand.holds(shard, i)
                ]
                if len(page) == _PAGE:
                    further[shard] = b"(" + page[-1][0]
            starts = further
        if len(lost) > limit:
            self._lost = True
            del lost[limit:]
        replies = await self._all(
            [wire.own_again(self.queue, self._name, shard, i, idle, given) for shard, i, idle, given in lost]
        )
        return [
            (shard, [(entry_id, fields[1], given) for entry_id, fields in reply])
            for (shard, _, _, given), reply in zip(lost, replies, strict=True)
        ]

    async def _receive(self, claimed: Iterable[tuple[int, Iterable[wire.RawEntry]]]) -> list[Entry]:
        """Take in hand what holds a message and is not there yet; set aside what holds none."""
        received: list[Entry] = []
        undecodable: list[wire.Undecodable] = []
        for shard, raw in claimed:
            entries, bad = wire.decoded(shard, self.queue, raw)
            received += entries
            undecodable += bad
        for entry in undecodable:
            self._log.error(
                "queue entry holds no message, moved to the dead letters",
                queue=self.queue,
                shard=entry.shard,
                entry_id=entry.entry_id.decode(),
                payload_bytes=len(entry.payload),
            )
        try:
            await self._all([wire.set_aside(self.queue, self._name, entry) for entry in undecodable])
        except Unavailable:
            # Still pending and not in hand: met again with the lost ones.
            self._lost = True
        except asyncio.CancelledError:
            self._lost = True
            raise
        return self._hand.take(received)

    async def _all(self, commands: Sequence[Command]) -> list[Any]:
        """One write; raises Unavailable when any is refused, though others may have been applied."""
        replies = await self._commands.batch(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise await self._mended(reply)
        return replies

    async def _mended(self, error: ReplyError) -> Unavailable:
        """Make what Redis lost when it was emptied; the caller's next try then succeeds."""
        if error.code == "NOGROUP" or "no such key" in str(error):
            await self.ensure_groups()
        return Unavailable(f"Redis refuses: {error}.", retry_after=0.05)
