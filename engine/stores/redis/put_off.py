"""The messages of a queue that are put off, in Redis (`engine.delivery.ports.PutOffMessages`).

recall   Messages that came into the queue are there, for whoever reads it. Its answer lost: more is recalled
         by the next call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from engine.delivery.ports import PutOff, Recall
from engine.records import Queue
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.link import Command
from engine.stores.redis.pulse import Pulse, readable


class PutOffEntries:
    """The port `PutOffMessages`: one queue, all shards. Every call raises Unavailable."""

    def __init__(
        self,
        queue: Queue,
        send: Callable[[Sequence[Command]], Awaitable[list[Any]]],
        room: Callable[[int], wire.Room],
        waits: Callable[[Iterable[int], Iterable[Any]], None],
        pulse: Pulse | None,
    ) -> None:
        """`send`: commands in, replies out; raises Unavailable when one is refused. `room`: what the stream
        of a shard may hold. `waits` is told what weight waits behind the streams of shards. `pulse`: None
        where all processes are of this version."""
        self._queue: Queue = queue
        self._send = send
        self._room = room
        self._waits = waits
        self._pulse = pulse
        self._by_shard: dict[int, list[PutOff]] = {}

    @property
    def waiting(self) -> list[PutOff]:
        """See the port."""
        return [of for shard in self._by_shard.values() for of in shard]

    @property
    def allowed(self) -> bool:
        """See the port."""
        return readable(self._pulse, "way")

    def note(self, ways: Sequence[bytes]) -> None:
        """Note what the hashes of all shards have of their ways."""
        self._by_shard = {s: wire.ways_of(s, packed) for s, packed in enumerate(ways) if packed}

    async def recall(self, recalls: Sequence[Recall]) -> list[tuple[int, int]]:
        """Move messages to the stream; of each recall how many, and their segments."""
        replies = await self._send([wire.recall(self._queue, of, self._room(of.shard)) for of in recalls])
        for of, (_, _, ways, weight) in zip(recalls, replies, strict=True):
            self._by_shard[of.shard] = wire.ways_of(of.shard, ways)
            self._waits([of.shard], [weight])
        return [(messages, segments) for messages, segments, _, _ in replies]
