"""The messages of a queue that no worker has been given, in Redis (`engine.delivery.ports.UnreadMessages`).

They are looked at where they lie, and nothing is taken in hand. So nothing is left behind by whoever is
killed or frozen here.

look     Messages that wait in lists behind a stream are looked at in Redis, and those whose validity is over
         are moved into the stream, in one step a shard. The rest reads only. Its answer lost: the same
         messages are looked at again.
settle   One atomic step a shard. A message that a worker was given since it was looked at does not count,
         and stays with that worker. Done again, or by two workers at the same time, it counts once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from engine.records import Entry, Queue, Settlement
from engine.stores.redis import queue_wire as wire
from engine.stores.redis import settle_wire
from engine.stores.redis.link import Command

_HEAD = b"0-0"
# A chunk of a list holds about so many messages.
_CHUNK = 16


class UnreadEntries:
    """The port `UnreadMessages`: one queue, all shards. Every call raises Unavailable."""

    def __init__(
        self,
        queue: Queue,
        shards: Sequence[int],
        name: str,
        send: Callable[[Sequence[Command]], Awaitable[list[Any]]],
        room: Callable[[int], wire.Room],
    ) -> None:
        """`name`: of the worker that settles, for the record. `send`: commands in, replies out; raises
        Unavailable when one is refused. `room`: what the stream of a shard may hold."""
        self._queue: Queue = queue
        self._name = name
        self._send = send
        self._room = room
        # Behind which entry of each shard the next look begins.
        self._after = dict.fromkeys(shards, _HEAD)
        # Where in the lists of each shard the next look begins.
        self._cursors = dict.fromkeys(shards, b"0")

    async def look(self, limit: int) -> list[Entry]:
        """The next `limit` messages or so, in at most four round trips; see the port."""
        found: list[Entry] = []
        (unread,) = await self._send([wire.unread_in(self._queue, self._after)])
        shards = [shard for shard, has in zip(self._after, unread, strict=True) if has]
        chunks = max(1, limit // len(self._after) // _CHUNK)
        sifts = [wire.sift(self._queue, s, self._cursors[s], chunks, self._room(s)) for s in shards]
        for shard, (cursor, _) in zip(shards, await self._send(sifts), strict=True):
            self._cursors[shard] = cursor
        # First an equal share of each shard, then the rest of `limit` from the shards with more.
        for _ in range(2):
            if limit <= 0 or not shards:
                break
            share, more = max(1, limit // len(shards)), []
            commands = [wire.unread(self._queue, s, self._after[s], share) for s in shards]
            for shard, (page, has_more) in zip(shards, await self._send(commands), strict=True):
                self._after[shard] = page[-1][0] if has_more else _HEAD
                if has_more:
                    more.append(shard)
                # What holds no message is left to the worker that is given it.
                raw = [wire.raw_entry(entry_id, fields, 1, note) for entry_id, fields, note in page]
                entries = wire.decoded(shard, self._queue, raw)[0]
                limit -= len(entries)
                found += entries
            shards = more
        return found

    async def settle(self, settlements: Sequence[Settlement]) -> int:
        """Settle messages in one command for each shard; how many counted."""
        by_shard: dict[int, list[settle_wire.Settled]] = {}
        for settlement in settlements:
            by_shard.setdefault(settlement.entry.shard, []).append(settle_wire.settled(settlement))
        commands = [
            settle_wire.settle(self._queue, self._name, s, self._room(s), some, unread=True)
            for s, some in by_shard.items()
        ]
        return sum(counted for counted, _ in await self._send(commands))
