"""How much waits where: what an operator watches."""

from __future__ import annotations

import asyncpg
import msgspec

from engine import shards as keys
from engine.activity.ports import ActivityStream
from engine.records import QUEUES, Queue
from engine.stores.postgres.errors import translated
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.wire import ReplyError
from engine.stream_id import StreamId

_READS = 5


class QueueStatus(msgspec.Struct):
    """Messages of one queue, all shards."""

    # Not yet given to a worker.
    waiting: int = 0
    # Given to a worker, not settled.
    in_hand: int = 0
    # Scheduled, or waiting for another attempt.
    due: int = 0
    # Set aside after killing workers.
    dead: int = 0
    # Age of the oldest message waiting or in hand, milliseconds.
    oldest_ms: int = 0


class LedgerStatus(msgspec.Struct):
    # How far the books are behind the usage streams, the worst shard, milliseconds.
    lag_ms: int = 0


class ActivityStatus(msgspec.Struct):
    waiting_entries: int = 0
    oldest_ms: int = 0


class ReceiptsStatus(msgspec.Struct):
    """Receipts from providers that are not matched to their messages."""

    # Batches that came and were not looked at yet, and the age of the oldest, milliseconds.
    waiting_entries: int = 0
    oldest_ms: int = 0
    # Receipts whose message was not found yet.
    set_aside: int = 0
    # Given up in the last 24 hours; None when ClickHouse does not answer.
    unmatched: int | None = None


class Status(msgspec.Struct):
    node: str
    processes: object
    queues: dict[str, QueueStatus]
    ledger: LedgerStatus
    activity: ActivityStatus
    receipts: ReceiptsStatus


class StatusReader:
    def __init__(self, pool: asyncpg.Pool, link: RedisLink, activity: ActivityStream, shards: int) -> None:
        self._pool = pool
        self._link = link
        self._activity = activity
        self._shards = range(shards)

    async def queues(self, now_ms: int) -> dict[str, QueueStatus]:
        """Two round trips for all queues and shards. Raises Unavailable."""
        return {queue: await self._queue(queue, now_ms) for queue in QUEUES}

    async def ledger(self) -> LedgerStatus:
        """Behind is a shard whose stream ends after the position in the books."""
        with translated():
            rows = await self._pool.fetch("SELECT shard, position FROM shards")
        positions = {row["shard"]: _ms(row["position"].encode()) for row in rows}
        lasts = await self._link.batch(
            [("XREVRANGE", keys.usage_key(s), "+", "-", "COUNT", 1) for s in self._shards]
        )
        lags = [
            _ms(last[0][0]) - positions.get(shard, 0)
            for shard, last in zip(self._shards, lasts, strict=True)
            if last and not isinstance(last, ReplyError)
        ]
        return LedgerStatus(lag_ms=max([0, *lags]))

    async def activity(self, now_ms: int) -> ActivityStatus:
        backlogs = await self._activity.backlog()
        oldest = [b.first.ms for b in backlogs if b.first]
        return ActivityStatus(
            waiting_entries=sum(b.entries for b in backlogs),
            oldest_ms=max(0, now_ms - min(oldest)) if oldest else 0,
        )

    async def receipts(self, now_ms: int) -> ReceiptsStatus:
        """All but `unmatched`. Raises Unavailable."""
        commands: list[Command] = []
        for s in self._shards:
            commands += [
                ("XLEN", keys.receipts_key(s)),
                ("ZCARD", keys.receipts_later_key(s)),
                ("FCALL_RO", "receipts_first", 1, keys.receipts_key(s)),
            ]
        replies = await self._link.batch(commands)
        oldest = [_ms(first) for first in replies[2::3] if first and not isinstance(first, ReplyError)]
        return ReceiptsStatus(
            waiting_entries=sum(replies[0::3]),
            set_aside=sum(replies[1::3]),
            oldest_ms=max(0, now_ms - min(oldest)) if oldest else 0,
        )

    async def _queue(self, queue: Queue, now_ms: int) -> QueueStatus:
        commands: list[Command] = []
        for s in self._shards:
            stream = keys.queue_key(s, queue)
            commands += [
                ("XLEN", stream),
                ("XPENDING", stream, keys.GROUP),
                ("XRANGE", stream, "-", "+", "COUNT", 1),
                ("ZCARD", keys.due_key(s, queue)),
                ("XLEN", keys.dead_key(s, queue)),
            ]
        replies = await self._link.batch(commands)
        status = QueueStatus()
        for at in range(0, len(replies), _READS):
            length, pending, first, due, dead = replies[at : at + _READS]
            in_hand = 0 if isinstance(pending, ReplyError) else pending[0]
            status.in_hand += in_hand
            status.waiting += max(0, length - in_hand)
            status.due += due
            status.dead += dead
            if first:
                status.oldest_ms = max(status.oldest_ms, now_ms - _ms(first[0][0]))
        return status


def _ms(entry_id: bytes) -> int:
    return StreamId.parse(entry_id).ms
