"""The limits of organisations in Redis: `limit` and `backlogs` in functions/queue.

Every step may be repeated after `Unavailable`; functions/queue says of each what a repetition does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine import redis_keys as keys
from engine.errors import Unavailable
from engine.limits.pace import LinePace, Part, rate_of
from engine.limits.records import Backlog, InForce, ShardLimits
from engine.records import QUEUE_DEFAULT, QUEUES, Queue
from engine.stores.redis.link import Argument, Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.wire import ReplyError
from engine.stream_id import StreamId


class RedisLimits:
    """The ports `LimitsInForce` and `Backlogs`. Every call is one round trip, and raises Unavailable."""

    def __init__(
        self, link: RedisLink, shards: int, shard_of: Callable[[int], int], queue: Queue = QUEUE_DEFAULT
    ) -> None:
        """`queue`: whose ready streams `in_force` tells of."""
        self._queue = QUEUES.index(queue)
        self._link = link
        self._shards = range(shards)
        self._shard_of = shard_of

    async def in_force(self) -> list[InForce]:
        """What is in force, in order of the shards."""
        replies = await self._all([("HMGET", keys.limits_key(s), "version", "paused") for s in self._shards])
        return [
            InForce((version or b"").decode(), self._paused(paused or b"")) for version, paused in replies
        ]

    def _paused(self, notes: bytes) -> dict[int, StreamId]:
        found = {}
        for note in notes.split():
            organisation_id, *last = note.split(b":")
            found[int(organisation_id)] = StreamId.parse(last[self._queue])
        return found

    async def put(self, limits: Sequence[ShardLimits]) -> None:
        """Put limits in force where those stand that are known."""
        await self._all([limit(of_shard) for of_shard in limits])

    async def backlogs(self, organisation_ids: Sequence[int]) -> list[Backlog]:
        """What waits of these organisations, both queues."""
        by_shard: dict[int, list[int]] = {}
        for organisation_id in organisation_ids:
            by_shard.setdefault(self._shard_of(organisation_id), []).append(organisation_id)
        commands: list[Command] = [
            (
                "FCALL_RO",
                versioned("backlogs"),
                4,
                *[keys.line_keys(s, queue)[of] for of in (1, 2) for queue in QUEUES],
                *ids,
            )
            for s, ids in by_shard.items()
        ]
        replies = await self._all(commands)
        return [
            _backlog(organisation_id, row, paces)
            for ids, (rows, paces) in zip(by_shard.values(), replies, strict=True)
            for organisation_id, row in zip(ids, rows, strict=True)
        ]

    async def _all(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._link.batch(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise Unavailable(f"Redis refuses: {reply}.") from reply
        return replies


def line_pace(reply: Sequence[Any]) -> LinePace:
    """What `pace_of` in functions/queue replies."""
    moved, lasted_ms, since, weight = reply
    return LinePace(moved, lasted_ms, since, float(weight))


def _backlog(organisation_id: int, row: Sequence[Any], paces: Sequence[Sequence[Any]]) -> Backlog:
    """What `backlogs` in functions/queue replies of one organisation."""
    messages, segments, paused, weight, *counts = row
    parts = [
        Part(line_pace(pace), *of)
        for pace, of in zip(paces, zip(*[iter(counts)] * 3, strict=True), strict=True)
    ]
    return Backlog(organisation_id, messages, segments, rate_of(parts, float(weight)), bool(paused))


def limit(limits: ShardLimits) -> Command:
    """Put limits in force in a shard; reply: 1 when they are, 0 when others stand than those known."""
    s = limits.shard
    touched = (
        keys.limits_key(s), *keys.line_keys(s, "express"), *keys.line_keys(s, "normal"),
        keys.ways_key(s, "express"), keys.ways_key(s, "normal"),
    )  # fmt: skip
    rows: list[Argument] = []
    for row in limits.rows:
        rows += (row.organisation_id, repr(row.weight), "1" if row.paused else "")
    whole = "1" if limits.whole else ""
    return ("FCALL", versioned("limit"), len(touched), *touched, limits.known, limits.version, whole, *rows)
