"""What of the activity is not archived yet: since when, and the events of a batch. It reads only.

Redis away, or no answer    Unavailable
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from engine.activity.records import ActivityEntry
from engine.batches import Batch
from engine.errors import Unavailable
from engine.records import ActivityRow
from engine.redis_keys import activity_key
from engine.stores.redis.activity_stream import SEARCH_PAGE, first_and_page, unpacked
from engine.stores.redis.kept_tail import KeptOctets, KeptTail
from engine.stores.redis.link import RedisLink
from engine.stores.redis.tail_search import rows_between
from engine.stores.redis.wire import ReplyError
from engine.stream_id import STREAM_START


class RedisArchiveProgress:
    """The port `ArchiveProgress`. Every call raises Unavailable."""

    def __init__(self, link: RedisLink, shards: int) -> None:
        self._link = link
        together = KeptOctets()
        self._tails = [
            KeptTail(partial(first_and_page, link, shard), SEARCH_PAGE, together) for shard in range(shards)
        ]

    async def oldest_ms(self, shard: int) -> int | None:
        """When the first entry of a shard's stream was recorded, milliseconds; None when it is empty."""
        try:
            found = await self._link.call("XRANGE", activity_key(shard), "-", "+", "COUNT", 1)
        except ReplyError as e:
            raise _refused(e) from e
        return int(found[0][0].partition(b"-")[0]) if found else None

    async def recent_rows_of_batch(self, shard: int, organisation_id: int, batch: Batch) -> list[ActivityRow]:
        """The rows of the messages of a batch that are not archived yet, from all of the stream."""
        try:
            kept = await self._tails[shard].since(STREAM_START)
            entries = await self._all(shard) if kept is None else kept
        except ReplyError as e:
            raise _refused(e) from e
        needle, rows = batch.prefix.encode(), []
        for entry in entries:
            if needle in entry.blob:
                rows += rows_between(unpacked(entry), organisation_id, batch)
        return rows

    async def _all(self, shard: int) -> Sequence[ActivityEntry]:
        """All entries, when they are too many to be kept."""
        found: list[ActivityEntry] = []
        start = STREAM_START
        while True:
            _, page = await first_and_page(self._link, shard, start)
            found += page
            if len(page) < SEARCH_PAGE:
                return found
            start = page[-1].id.next


def _refused(error: ReplyError) -> Unavailable:
    return Unavailable(f"Redis refuses to show what is not archived: {error}.")
