"""The tail of one shard's activity stream, kept between look-ups that follow one another.

A look-up of an old message looks through all that is not archived yet: under load a second of everything,
some megabytes. So what one look-up has read is kept for the next, which reads only what was added since. What
left the stream meanwhile is in the store, and is forgotten here. Redis is asked each time, so nothing that it
has is missing.

    Redis away, or no answer    as without it; what is kept stays as it was
    Redis lost data             what it has no more is forgotten with the next look-up
    the archiver is far behind  the tails exceed `BYTES_MAX`: the last one is not kept, each look-up reads for
                                itself
    nobody looks up anything    what is kept is dropped after `KEPT_S`
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter

from engine.activity.records import ActivityEntry
from engine.stream_id import STREAM_START, StreamId

# Octets kept of all shards at most, and for how long after the last look-up, seconds. A second of 60,000
# messages in batches has 12 MB.
BYTES_MAX = 32 << 20
KEPT_S = 1.0

_id = attrgetter("id")
# The first entry of the stream, if it has any, and a page of entries from an id on.
Look = Callable[[StreamId], Awaitable[tuple[Sequence[ActivityEntry], Sequence[ActivityEntry]]]]


class KeptOctets:
    """What the tails of all shards of a process have together, in octets."""

    def __init__(self) -> None:
        self.now = 0


class KeptTail:
    """Of one shard."""

    def __init__(self, look: Look, page_size: int, together: KeptOctets) -> None:
        """`look` reads a page of at most `page_size` entries."""
        self._look = look
        self._page_size = page_size
        self._together = together
        # All entries of the stream from `_from` on, as it was at the last look; None: nothing is kept.
        self._entries: list[ActivityEntry] = []
        self._from: StreamId | None = None
        self._octets = 0
        self._looking = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def begin(self) -> Sequence[ActivityEntry]:
        """What the stream began with when it was last looked at, in order, without a gap: all of it, unless
        that look-up failed on its way. None when it is not kept."""
        return self._entries if self._from == STREAM_START else []

    async def since(self, start: StreamId) -> list[ActivityEntry] | None:
        """All entries from `start` on, in order; None when they are too many to be kept.

        Raises what `look` raises.
        """
        async with self._looking:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(KEPT_S, self._forget, None)
            if self._from is None or start < self._from:
                self._forget(start)
            while self._from is not None:
                if not await self._catch_up(self._from):
                    continue
                return self._entries[bisect_left(self._entries, start, key=_id) :]
            return None

    async def _catch_up(self, begins: StreamId) -> bool:
        """Read the next page, and forget what has left the stream. True: that was all; False: there is more,
        or nothing is kept any more. `begins`: from where on entries are kept."""
        last = self._entries[-1].id if self._entries else None
        first, page = await self._look(last or begins)
        if self._from is None:
            # That took so long that what was kept has been dropped.
            return False
        size = len(page)
        if last and first and first[0].id <= last:
            if page and page[0].id == last:
                page = page[1:]
            else:
                # The last one is gone, and not those before it: Redis lost data, and may number anew.
                self._forget(begins)
                return False
        if not first or first[0].id >= begins:
            # There is nothing before it.
            self._from = STREAM_START
        gone = bisect_left(self._entries, first[0].id, key=_id) if first else len(self._entries)
        self._count(sum(len(entry.blob) for entry in page))
        self._count(-sum(len(entry.blob) for entry in self._entries[:gone]))
        self._entries = [*self._entries[gone:], *page]
        if self._together.now > BYTES_MAX:
            self._forget(None)
        return self._from is not None and size < self._page_size

    def _count(self, octets: int) -> None:
        self._octets += octets
        self._together.now += octets

    def _forget(self, start: StreamId | None) -> None:
        self._count(-self._octets)
        self._entries, self._from = [], start
