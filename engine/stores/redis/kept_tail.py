"""The tail of one shard's activity stream, kept between look-ups that follow one another.

A look-up of an old message looks through all that is not archived yet: under load a second of everything,
some megabytes. So what one look-up has read is kept for the next, which reads only what was added since. What
left the stream meanwhile is in the store, and is forgotten here. Redis is asked each time, so nothing that it
has is missing.

    Redis away, or no answer    as without it; what is kept stays as it was
    Redis lost data             what it has no more is forgotten with the next look-up
    the archiver is far behind  the tail exceeds `BYTES_MAX`: nothing is kept, each look-up reads for itself
    nobody looks up anything    what is kept is dropped after `KEPT_S`
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter

from engine.activity.records import ActivityEntry
from engine.stream_id import StreamId

# Octets kept of one shard at most, and for how long after the last look-up, seconds.
BYTES_MAX = 8 << 20
KEPT_S = 1.0

_id = attrgetter("id")
# The first entry of the stream, if it has any, and a page of entries from an id on.
Look = Callable[[StreamId], Awaitable[tuple[Sequence[ActivityEntry], Sequence[ActivityEntry]]]]


class KeptTail:
    """Of one shard."""

    def __init__(self, look: Look, page_size: int) -> None:
        """`look` reads a page of at most `page_size` entries."""
        self._look = look
        self._page_size = page_size
        # All entries of the stream from `_from` on, as it was at the last look; None: nothing is kept.
        self._entries: list[ActivityEntry] = []
        self._from: StreamId | None = None
        self._octets = 0
        self._looking = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

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
        size = len(page)
        if last and first and first[0].id <= last:
            if page and page[0].id == last:
                page = page[1:]
            else:
                # The last one is gone, and not those before it: Redis lost data, and may number anew.
                self._forget(begins)
                return False
        gone = bisect_left(self._entries, first[0].id, key=_id) if first else len(self._entries)
        self._octets += sum(len(entry.blob) for entry in page)
        self._octets -= sum(len(entry.blob) for entry in self._entries[:gone])
        self._entries = [*self._entries[gone:], *page]
        if self._octets > BYTES_MAX:
            self._forget(None)
        return self._from is not None and size < self._page_size

    def _forget(self, start: StreamId | None) -> None:
        self._entries, self._from, self._octets = [], start, 0
