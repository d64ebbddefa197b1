"""How many messages of each queue no worker has been given, in Redis. It reads only, one step a shard."""

from __future__ import annotations

from collections.abc import Sequence

from engine import redis_keys as keys
from engine.errors import Unavailable
from engine.records import Queue
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.wire import ReplyError


async def waiting(link: RedisLink, queues: Sequence[Queue], shards: int) -> dict[Queue, int]:
    """By queue, the messages of all shards that may be sent and that no worker has been given.

    Those of organisations that are paused are left out, and those that are put off. One round trip. Raises
    Unavailable.
    """
    found: dict[Queue, int] = dict.fromkeys(queues, 0)
    of = [queue for queue in queues for _ in range(shards)]
    replies = await link.batch([_backlog(queue, s) for queue in queues for s in range(shards)])
    for queue, reply in zip(of, replies, strict=True):
        if isinstance(reply, ReplyError):
            raise Unavailable(f"Redis does not say how much waits: {reply}.") from reply
        behind, paused, _, _, _, unread, put_off, *_ = reply
        found[queue] += behind - paused - put_off + unread
    return found


def _backlog(queue: Queue, shard: int) -> Command:
    """Reply as `backlog` in functions/queue says; of one organisation, because none is not to be had."""
    touched = (*keys.line_keys(shard, queue), keys.limits_key(shard), keys.ways_key(shard, queue))
    return ("FCALL_RO", versioned("backlog"), len(touched), *touched, 1)
