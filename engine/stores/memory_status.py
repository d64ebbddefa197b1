"""How much memory Redis has left, and how long that lasts while ClickHouse is away.

What is recorded waits in Redis until ClickHouse has it, and receipts do. So its memory bounds how long
ClickHouse may be away. From a share of `maxmemory` on (`engine.credit.memory_mark`) no new messages are
accepted, and what was accepted is sent and recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine import redis_keys as keys
from engine.stores.redis.link import RedisLink
from engine.stores.redis.memory import RedisMemory, memory_of
from engine.stores.redis.wire import ReplyError

# What has waited so long for ClickHouse does so because that is away or slow, milliseconds.
_WAITED_MS = 60_000


class MemoryStatus(msgspec.Struct):
    """The memory of Redis, MB of 2**20 bytes."""

    used_mb: int
    # `maxmemory` of Redis, 0: there is none.
    limit_mb: int
    # So much of it is used that new messages are refused.
    full: bool
    # Of it, what activity and receipts take that wait for ClickHouse; None: Redis does not say.
    waiting_mb: int | None = None
    # When it will be full if they go on to wait as they have, milliseconds; None: there is no `maxmemory`, or
    # nothing has waited for a minute.
    lasts_ms: int | None = None


async def memory_status(link: RedisLink, shards: Sequence[int], mark: float, waited_ms: int) -> MemoryStatus:
    """The memory of Redis, in two round trips. From the share `mark` on it counts as full. `waited_ms`: how
    long the oldest activity has waited. Raises Unavailable."""
    found = memory_of(await link.call("INFO", "memory"))
    status = MemoryStatus(found.used_bytes >> 20, found.limit_bytes >> 20, full=found.fullness >= mark)
    # By default Redis looks at five pieces of each stream, so a long one takes no longer.
    streams = [key(shard) for shard in shards for key in (keys.activity_key, keys.receipts_key)]
    taken = await link.batch([("MEMORY", "USAGE", key) for key in streams])
    if not any(isinstance(one, ReplyError) for one in taken):
        waiting = sum(one or 0 for one in taken)
        status.waiting_mb = waiting >> 20
        status.lasts_ms = lasts_ms(found, mark, waiting, waited_ms)
    return status


def lasts_ms(memory: RedisMemory, mark: float, waiting_bytes: int, waited_ms: int) -> int | None:
    """When the share `mark` is used, milliseconds from now, if what waits goes on to come as it has in
    `waited_ms`; None as of `MemoryStatus`."""
    if not memory.limit_bytes or not waiting_bytes or waited_ms < _WAITED_MS:
        return None
    room = max(0, int(memory.limit_bytes * mark) - memory.used_bytes)
    return room * waited_ms // waiting_bytes
