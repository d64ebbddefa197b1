"""The activity streams in Redis: reading, the plan, the lease, the trimming.

Keys:

activity:{s}         stream of one shard; each entry has one field `b`, see
                     `engine.activity.records.ActivityEntry`
archiver:lock        the owner of the lease
archiver:plan        the BlockPlan that is being executed, MessagePack
archiver:trimmed     hash: from which id on each stream is kept, by its key; for readers that must know
                     whether something was removed before they had read it
archiver:unreadable  stream to which entries are moved that no archiver could read

One step changes the plan and all streams, so they must be on one Redis. In a
Redis Cluster each shard would need a lease and a plan of its own beside its stream.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec

from engine.activity.records import ActivityEntry, Backlog, BlockPlan, MessageKey, RecentRows
from engine.errors import ConfigError, Unavailable
from engine.records import NO_RECORD
from engine.redis_keys import (
    ARCHIVER_LOCK,
    ARCHIVER_PLAN,
    ARCHIVER_TRIMMED,
    ARCHIVER_UNREADABLE,
    activity_key,
)
from engine.stores.redis.kept_tail import KeptTail
from engine.stores.redis.link import Argument, Command, RedisLink
from engine.stores.redis.tail_search import TailSearch
from engine.stores.redis.wire import ReplyError
from engine.stream_id import STREAM_START, StreamId

# Entries fetched by one command: while searching the tail, and while executing a plan.
SEARCH_PAGE = 200
_PLAN_PAGE = 1000
_rows = msgspec.msgpack.Decoder(list[list[Any]])

# `allow-oom`: when Redis is full because ClickHouse was away, these scripts make room again.

# lease(lock; owner, ttl_ms) -> 1 when the lease is the owner's now
# When the clock of Redis was set back, the lease of one that has died would last for as long as that: it ends
# as one of now does.
_LEASE = """#!lua flags=allow-oom
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) return 1 end
if owner then
  if redis.call('PTTL', KEYS[1]) > 2 * ARGV[2] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# release(lock; owner)
_RELEASE = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""

# propose(lock, plan; owner, plan) -> 1 when the plan was kept, 0 when the lease is another's or a plan
# is there
_PROPOSE = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('SETNX', KEYS[2], ARGV[2])
"""

# finish(plan, unreadable, trimmed, streams ...; plan, first id kept of each stream ...,
#        then per unreadable entry: index of its stream from 1, id)
# -> 1 when the plan was there and is finished now, 0 when another or none is there
_FINISH = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local streams = #KEYS - 3
for i = streams + 2, #ARGV, 2 do
  local key, id = KEYS[3 + tonumber(ARGV[i])], ARGV[i + 1]
  local found = redis.call('XRANGE', key, id, id)
  if found[1] then redis.call('XADD', KEYS[2], '*', 'k', key, 'i', id, 'b', found[1][2][2]) end
end
for i = 1, streams do
  redis.call('HSET', KEYS[3], KEYS[3 + i], ARGV[1 + i])
  redis.call('XTRIM', KEYS[3 + i], 'MINID', '=', ARGV[1 + i])
end
redis.call('DEL', KEYS[1])
return 1
"""


class RedisActivityStream:
    """The port `ActivityStream` on one Redis.

    Every call raises Unavailable, and ConfigError when Redis refuses the password. Under failure:
    every call may be repeated after `Unavailable`. `lease`, `release` and the reads change nothing
    the second time. When the answer of a `propose` that took effect was lost, `plan` gives that plan.
    When the answer of a `finish` was lost, the second one answers False, because the plan is gone.
    """

    def __init__(self, url: str, shards: int, timeout_s: float = 5.0) -> None:
        """`url`: as `RedisLink` takes it. `timeout_s`: deadline of each call, seconds."""
        self._shards = shards
        self._timeout_s = timeout_s
        # Connected when first used. `_reading` blocks while it waits for entries.
        self._link = RedisLink(url, timeout_s=timeout_s, name="activity")
        self._reading = RedisLink(url, timeout_s=timeout_s, name="activity reading")
        self._plan = msgspec.msgpack.Decoder(BlockPlan)
        # The plan last read, and its bytes in Redis, which another version may have written.
        self._written: tuple[BlockPlan | None, bytes] = (None, b"")
        # By shard, for look-ups.
        self._tails = [KeptTail(partial(first_and_page, self._link, s), SEARCH_PAGE) for s in range(shards)]

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()
        await self._reading.close()

    async def lease(self, owner: str, ttl_ms: int) -> bool:
        """Become or stay the one archiver for `ttl_ms` milliseconds; False while another is."""
        async with self._answering():
            return bool(await self._link.call(*_script(_LEASE, [ARCHIVER_LOCK], [owner, ttl_ms])))

    async def release(self, owner: str) -> None:
        """Give the lease up, if it is `owner`'s."""
        async with self._answering():
            await self._link.call(*_script(_RELEASE, [ARCHIVER_LOCK], [owner]))

    async def plan(self) -> BlockPlan | None:
        """The plan that is being executed; None when there is none."""
        async with self._answering():
            encoded = await self._link.call("GET", ARCHIVER_PLAN)
        if encoded is None:
            return None
        plan = self._plan.decode(encoded)
        self._written = (plan, encoded)
        return plan

    async def propose(self, owner: str, plan: BlockPlan) -> bool:
        """Keep `plan` for execution; False when the lease is another's, or a plan is there."""
        encoded = msgspec.msgpack.encode(plan)
        async with self._answering():
            return bool(
                await self._link.call(*_script(_PROPOSE, [ARCHIVER_LOCK, ARCHIVER_PLAN], [owner, encoded]))
            )

    async def read(self, after: Mapping[int, StreamId], count: int, block_ms: int) -> list[ActivityEntry]:
        """Up to `count` entries of each shard behind `after`; a shard not in it is read from its start.

        Waits up to `block_ms` milliseconds for the first one; [] when none came.
        """
        keys = {activity_key(shard): shard for shard in range(self._shards)}
        positions = [str(after.get(shard, STREAM_START)) for shard in keys.values()]
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
            async with self._answering():
                async for page in self._pages(part.shard, part.first, part.last, _PLAN_PAGE):
                    found += page
        return found

    async def finish(self, plan: BlockPlan, unreadable: Sequence[ActivityEntry]) -> bool:
        """Delete the plan and its entries in one step; move the `unreadable` ones aside.

        False when this plan is not there: it was finished before.
        """
        index = {part.shard: i for i, part in enumerate(plan.ranges, 1)}
        seen, written = self._written
        args: list[bytes | str | int] = [written if seen == plan else msgspec.msgpack.encode(plan)]
        args += [str(part.last.next) for part in plan.ranges]
        for entry in unreadable:
            args += [index[entry.shard], str(entry.id)]
        fixed = [ARCHIVER_PLAN, ARCHIVER_UNREADABLE, ARCHIVER_TRIMMED]
        keys = [*fixed, *(activity_key(part.shard) for part in plan.ranges)]
        async with self._answering():
            return bool(await self._link.call(*_script(_FINISH, keys, args)))

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

    async def recent_rows_of(
        self, shard: int, messages: Sequence[MessageKey], entries_max: int = 10_000
    ) -> dict[MessageKey, RecentRows]:
        """The rows of messages of one shard that are not archived yet, found in one pass.

        Looks for each in at most `entries_max` entries, within one call's deadline; `complete` is False
        when there are more. While the archiver keeps up, a shard has about one block of entries.
        """
        search = TailSearch(messages, unpacked, entries_max)
        page_size = min(SEARCH_PAGE, entries_max)
        # All entries from `begins` on; None: they are too many to be kept.
        begins: StreamId | None = None
        kept: list[ActivityEntry] | None = None
        async with self._answering():
            while search.start is not None:
                # It may go back to the begin of the stream, and look once more.
                if begins is None or (kept is not None and search.start < begins):
                    begins = search.start
                    kept = await self._tails[shard].since(begins)
                if kept is None:
                    page = await self._page(shard, str(search.start), "+", page_size)
                else:
                    first = bisect_left(kept, search.start, key=attrgetter("id"))
                    page = kept[first : first + page_size]
                search.take(page, last=len(page) < page_size)
        return search.found

    async def _pages(
        self, shard: int, first: StreamId, last: StreamId, page_size: int
    ) -> AsyncIterator[list[ActivityEntry]]:
        """The entries from `first` to `last`, in pages of at most `page_size`."""
        start = str(first)
        while True:
            page = await self._page(shard, start, str(last), page_size)
            if page:
                yield page
                start = f"({page[-1].id}"
            if len(page) < page_size:
                return

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


def _script(script: str, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Command:
    return ("EVAL", script, len(keys), *keys, *arguments)


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
