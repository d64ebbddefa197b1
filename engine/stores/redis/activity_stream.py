"""The activity streams in Redis: reading, the leases of shards, the plans, the trimming.

Keys, beside those of `archiver_steps`:

activity:{s}         stream of one shard; each entry has one field `b`, see
                     `engine.activity.records.ActivityEntry`
archiver:trimmed     hash: from which id on each stream is kept, by its key; for readers that must know
                     whether something was removed before they had read it
archiver:unreadable  stream to which entries are moved that no archiver could read
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec

from engine.activity.records import ActivityEntry, Backlog, BlockPlan, MessageKey, RecentRows
from engine.errors import ConfigError, Unavailable
from engine.leases.ports import HeldShards
from engine.records import NO_RECORD
from engine.redis_keys import (
    ARCHIVER_LOCK,
    ARCHIVER_PLAN,
    ARCHIVER_PLANS,
    ARCHIVERS,
    activity_key,
    archiver_lock_key,
)
from engine.stores.redis import archiver_steps as steps
from engine.stores.redis.kept_tail import KeptOctets, KeptTail
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.shard_shares import ShardShares
from engine.stores.redis.tail_search import TailSearch
from engine.stores.redis.wire import ReplyError
from engine.stream_id import StreamId

# Entries fetched by one command: while searching the tail, and while executing a plan.
SEARCH_PAGE = 200
_PLAN_PAGE = 1000
_rows = msgspec.msgpack.Decoder(list[list[Any]])


class RedisActivityStream:
    """The port `ActivityStream` on one Redis.

    Every call raises Unavailable, and ConfigError when Redis refuses the password. Under failure:
    every call may be repeated after `Unavailable`. The leases and the reads change nothing the second
    time. When the answer of a `propose` that took effect was lost, `plans` gives that plan.
    When the answer of a `finish` was lost, the second one answers False, because the plan is gone.
    """

    def __init__(self, url: str, shards: int, timeout_s: float = 5.0) -> None:
        """`url`: as `RedisLink` takes it. `timeout_s`: deadline of each call, seconds."""
        self._shards = shards
        self._shares = ShardShares(ARCHIVER_LOCK, ARCHIVERS, archiver_lock_key, shards, ARCHIVER_PLANS)
        self._timeout_s = timeout_s
        # Connected when first used. `_reading` blocks while it waits for entries.
        self._link = RedisLink(url, timeout_s=timeout_s, name="activity")
        self._reading = RedisLink(url, timeout_s=timeout_s, name="activity reading")
        self._plan = msgspec.msgpack.Decoder(BlockPlan)
        # The plans last read, and their bytes in Redis, which another version may have written.
        self._written: list[tuple[BlockPlan, bytes]] = []
        # How long a lease lasts, milliseconds, as it was last asked for.
        self._ttl_ms = 10_000
        # By shard, for look-ups.
        together = KeptOctets()
        self._tails = [
            KeptTail(partial(first_and_page, self._link, shard), SEARCH_PAGE, together)
            for shard in range(shards)
        ]

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()
        await self._reading.close()

    async def lease(self, owner: str, ttl_ms: int) -> HeldShards:
        """Live for `ttl_ms` milliseconds more; keep the shards that `owner` has, and win those of its share
        that nobody has, for as long."""
        self._ttl_ms = ttl_ms
        async with self._answering():
            names = await self._link.call(*self._shares.live(owner, ttl_ms))
            ours = await self._link.call(*self._shares.own(owner, ttl_ms, names))
        return self._shares.held(owner, names, ours)

    async def give_back(self, owner: str, shards: Collection[int]) -> None:
        """Let others have these shards at once, those that are `owner`'s."""
        async with self._answering():
            await self._link.call(*self._shares.give_back(owner, shards))

    async def release(self, owner: str) -> None:
        """Give back all that `owner` has; it lives no longer."""
        await self.give_back(owner, range(self._shards))
        async with self._answering():
            await self._link.call(*self._shares.leave(owner))

    async def plans(self, shards: Collection[int]) -> list[BlockPlan]:
        """The plans that stand in these shards, each once; they may have other shards too."""
        if not shards:
            return []
        async with self._answering():
            # One of a version that had one archiver; from here on it stands as the others do.
            if old := await self._link.call("GET", ARCHIVER_PLAN):
                await self._link.call(*steps.adopt(self._plan.decode(old), old))
            found = await self._link.call("HMGET", ARCHIVER_PLANS, *shards)
        encoded = dict.fromkeys(plan for plan in found if plan is not None)
        self._written = [(self._plan.decode(plan), plan) for plan in encoded]
        return [plan for plan, _ in self._written]

    async def propose(self, owner: str, plan: BlockPlan) -> bool:
        """Keep `plan` for execution; False when one of its shards is another's, or was meanwhile, or has a
        plan."""
        async with self._answering():
            return bool(await self._link.call(*steps.propose(owner, plan, msgspec.msgpack.encode(plan))))

    async def read(self, after: Mapping[int, StreamId], count: int, block_ms: int) -> list[ActivityEntry]:
        """Up to `count` entries of each shard that `after` has, behind the id there.

        Waits up to `block_ms` milliseconds for the first one; [] when none came.
        """
        keys = {activity_key(shard): shard for shard in after}
        positions = [str(position) for position in after.values()]
        block = ("BLOCK", block_ms) if block_ms else ()
        wait_s = self._timeout_s + block_ms / 1000
        async with self._answering(block_ms / 1000):
            answer = await self._reading.call(
                "XREAD", "COUNT", count, *block, "STREAMS", *keys, *positions, timeout_s=wait_s
            )
        return [entry for key, found in answer or () for entry in _entries(keys[key], found)]

    async def entries_of(self, plan: BlockPlan) -> list[ActivityEntry]:
        """The entries of the plan's ranges, in order; each page has the call's deadline."""
        found: list[ActivityEntry] = []
        for part in plan.ranges:
            start = str(part.first)
            async with self._answering():
                while page := await self._page(part.shard, start, str(part.last), _PLAN_PAGE):
                    found += page
                    start = f"({page[-1].id}"
        return found

    async def finish(self, plan: BlockPlan, unreadable: Sequence[ActivityEntry]) -> bool:
        """Delete the plan and its entries in one step; move the `unreadable` ones aside.

        False when this plan is not there: it was finished before.
        """
        found = next((written for known, written in self._written if known == plan), None)
        encoded = found or msgspec.msgpack.encode(plan)
        aside = [(entry.shard, entry.id) for entry in unreadable]
        async with self._answering():
            return bool(await self._link.call(*steps.finish(plan, encoded, self._ttl_ms, aside)))

    async def backlog(self) -> list[Backlog]:
        """How many entries wait in each shard, and the first of them; in one round trip."""
        async with self._answering():
            commands: list[Command] = []
            for shard in range(self._shards):
                commands += [
                    ("XLEN", activity_key(shard)),
                    ("XRANGE", activity_key(shard), "-", "+", "COUNT", 1),
                ]
            answers = await self._link.batch(commands)
            for refused in answers:
                if isinstance(refused, ReplyError):
                    raise refused
        return [
            Backlog(
                shard=shard,
                entries=answers[2 * shard],
                first=next((StreamId.parse(oldest) for oldest, _ in answers[2 * shard + 1]), None),
            )
            for shard in range(self._shards)
        ]

    def begin_of(self, shard: int) -> Sequence[ActivityEntry]:
        """What the shard's stream began with at the last look-up, if that was a moment ago, without a gap."""
        return self._tails[shard].begin

    async def recent_rows_of(
        self,
        shard: int,
        messages: Sequence[MessageKey],
        entries_max: int = 10_000,
        before: Sequence[ActivityEntry] = (),
    ) -> dict[MessageKey, RecentRows]:
        """The rows of messages of one shard that are not archived yet, found in one pass.

        Looks for each in at most `entries_max` entries, within one call's deadline; `complete` is False
        when there are more. While the archiver keeps up, a shard has about one block of entries. Of a
        message whose acceptance waits there nothing is archived: its rows are `whole`.

        `before`: what `begin_of` gave. As long as its last entry is in the stream, nothing behind that has
        left it, and the rest is in `before`: then what is found has no gap.
        """
        search = TailSearch(messages, unpacked, entries_max)
        page_size = min(SEARCH_PAGE, entries_max)
        # All entries from `begins` on; None: they are too many to be kept.
        begins: StreamId | None = None
        kept: list[ActivityEntry] | None = None
        gapless = False
        async with self._answering():
            while search.start is not None:
                # It may go back to the begin of the stream, and look once more.
                if begins is None or (kept is not None and search.start < begins):
                    begins = search.start
                    kept = await self._tails[shard].since(begins)
                    gapless = bool(before and begins <= before[0].id and _follows(kept, before))
                    if kept and gapless:
                        kept = [*before[: bisect_left(before, kept[0].id, key=attrgetter("id"))], *kept]
                if kept is None:
                    page = await self._page(shard, str(search.start), "+", page_size)
                else:
                    first = bisect_left(kept, search.start, key=attrgetter("id"))
                    page = kept[first : first + page_size]
                search.take(page, last=len(page) < page_size)
            # Asked last: what was taken from the stream before, while it was read, is behind this.
            left = await self._page(shard, "-", "+", 1) if search.has_begun else []
        found = search.found_by(left[0].id) if left else search.found
        if gapless:
            found = {key: msgspec.structs.replace(rows, gapless=True) for key, rows in found.items()}
        return found

    async def _page(self, shard: int, start: str, end: str, page_size: int) -> list[ActivityEntry]:
        """The first entries of a range, at most `page_size`; `start` and `end` are arguments of XRANGE."""
        found = await self._link.call("XRANGE", activity_key(shard), start, end, "COUNT", page_size)
        return _entries(shard, found)

    @asynccontextmanager
    async def _answering(self, extra_s: float = 0.0) -> AsyncIterator[None]:
        """Give this block the deadline of a call, `extra_s` seconds later; raise its failures as ours."""
        try:
            async with asyncio.timeout(self._timeout_s + extra_s):
                yield
        except ReplyError as e:
            if e.code in ("WRONGPASS", "NOAUTH"):
                raise ConfigError(f"Redis refuses the user or the password of its URL: {e}.") from e
            raise Unavailable(f"Redis refuses a step of the archive: {e}.") from e
        except TimeoutError as e:
            raise Unavailable(f"Redis does not answer: no answer within {self._timeout_s:g} s.") from e


def _follows(kept: Sequence[ActivityEntry] | None, before: Sequence[ActivityEntry]) -> bool:
    """Whether the stream, which has `kept` now, still has the last entry of what it had before."""
    return kept is not None and len(kept) > 0 and kept[0].id <= before[-1].id


async def first_and_page(
    link: RedisLink, shard: int, start: StreamId
) -> tuple[list[ActivityEntry], list[ActivityEntry]]:
    """The first entry of a shard's stream, if it has any, and a page of entries from `start` on: what
    `kept_tail.Look` asks for. Raises ReplyError, Unavailable."""
    key = activity_key(shard)
    replies = await link.batch(
        [("XRANGE", key, "-", "+", "COUNT", 1), ("XRANGE", key, str(start), "+", "COUNT", SEARCH_PAGE)]
    )
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise reply
    return _entries(shard, replies[0]), _entries(shard, replies[1])


def unpacked(entry: ActivityEntry) -> list[list[Any]]:
    """The rows of an entry as they were packed; [] when it cannot be read: the archiver sets it aside."""
    try:
        return _rows.decode(entry.blob)
    except NO_RECORD:
        return []


def _entries(shard: int, found: Iterable[tuple[bytes, list[bytes]]]) -> list[ActivityEntry]:
    return [ActivityEntry(shard=shard, id=StreamId.parse(i), blob=_blob(fields)) for i, fields in found]


def _blob(fields: list[bytes]) -> bytes:
    """The value of the field `b` of an entry; empty when it has none."""
    if len(fields) == 2 and fields[0] == b"b":
        return fields[1]
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"b", b"")
