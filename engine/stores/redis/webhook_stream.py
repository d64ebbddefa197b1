"""What notifiers read in Redis and keep there: the streams, how far they are settled, and who has which
shard.

Keys:

activity:{s}          rows of activity; only read here
webhooks:{s}          events that are no rows (`engine.webhooks.records.WebhookEvent`); each entry has
                      one field `b`, a MessagePack array of them
webhooks:{s}:settled  how far both are settled: delivered, or kept in PostgreSQL
webhooks:{s}:lock     the notifier that has the shard
webhooks:{s}:made:E   the last deliveries that the endpoint E took
webhooks:notifiers    the notifiers that live
archiver:trimmed      from where on the archiver has left the activity streams

Under failure: every call raises Unavailable and may be repeated. `settle` with the same positions changes
nothing the second time; one by a process that has lost the shard changes nothing at all. `note_made` done
twice lists the same deliveries twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from engine.errors import Unavailable
from engine.redis_keys import (
    ARCHIVER_TRIMMED,
    NOTIFIERS,
    activity_key,
    webhook_events_key,
    webhook_lock_key,
    webhook_made_key,
    webhook_positions_key,
)
from engine.stores.redis.link import Command, RedisLink
from engine.stores.redis.living import living
from engine.stores.redis.wire import ReplyError
from engine.stream_id import STREAM_START, StreamId
from engine.webhooks.ports import FoundEntry, Settled
from engine.webhooks.records import MADE_KEPT_S, MADE_MAX, MadeDelivery, WebhookEvent

# About so many entries wait in `webhooks:{s}` at most; with more, the oldest are dropped. They are few when a
# notifier runs.
EVENTS_MAX = 100_000

_pack = msgspec.msgpack.Encoder().encode
_unpack_made = msgspec.msgpack.Decoder(MadeDelivery).decode

# own(lock, positions, activity; owner, ttl_ms) -> {settled activity, settled events} when the shard is the
# owner's now, else nil. Of a shard that was never read the activity is read from its end on, and all events:
# those that are settled are not there any more.
_OWN = """#!lua flags=allow-oom
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  if redis.call('PTTL', KEYS[1]) > 2 * ARGV[2] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return false
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local activity = redis.call('HGET', KEYS[2], 'activity')
if not activity then
  activity = '0-0'
  if redis.call('EXISTS', KEYS[3]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[3])
    for i = 1, #info, 2 do if info[i] == 'last-generated-id' then activity = info[i + 1] end end
  end
  redis.call('HSET', KEYS[2], 'activity', activity)
end
return {activity, redis.call('HGET', KEYS[2], 'events') or '0-0'}
"""

# settle(lock, positions, events; owner, settled activity or '', settled events or '', first event kept or '')
# -> 1 when the shard is the owner's
_SETTLE = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] ~= '' then redis.call('HSET', KEYS[2], 'activity', ARGV[2]) end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], 'events', ARGV[3])
  redis.call('XTRIM', KEYS[3], 'MINID', '=', ARGV[4])
end
return 1
"""

# give_back(lock; owner)
_GIVE_BACK = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


def add_events(shard: int, events: Iterable[WebhookEvent]) -> Command:
    """The command that puts events on the stream of their shard, in one entry, all or none.

    It may be sent in a pipeline with others, or from a script (`XADD webhooks:{s} MAXLEN ~ EVENTS_MAX * b
    ...`). Sent twice, the events have the same ids, and receivers know them again.
    """
    return ("XADD", webhook_events_key(shard), "MAXLEN", "~", EVENTS_MAX, "*", "b", _pack(list(events)))


class RedisWebhookStreams:
    """The port `WebhookStreams`. `reading` waits in Redis for what comes; `link` never does."""

    def __init__(self, link: RedisLink, reading: RedisLink, timeout_s: float = 5.0) -> None:
        """`timeout_s`: the deadline of a read beyond the time that it waits, seconds."""
        self._link = link
        self._reading = reading
        self._timeout_s = timeout_s

    async def living(self, name: str, ttl_ms: int) -> list[str]:
        """Note that this notifier lives for `ttl_ms` more; the names of all that do, in their order."""
        replies = await self._batch([living(NOTIFIERS, name, ttl_ms)])
        return sorted(found.decode() for found in replies[0])

    async def own(self, owner: str, shards: Sequence[int], ttl_ms: int) -> dict[int, Settled]:
        """Become or stay the owner of shards, where no other process is; how far each is settled."""
        commands: list[Command] = [
            ("EVAL", _OWN, 3, webhook_lock_key(s), webhook_positions_key(s), activity_key(s), owner, ttl_ms)
            for s in shards
        ]  # fmt: skip
        replies = await self._batch(commands)
        return {
            shard: Settled(StreamId.parse(reply[0]), StreamId.parse(reply[1]))
            for shard, reply in zip(shards, replies, strict=True)
            if reply
        }

    async def give_back(self, owner: str, shards: Sequence[int]) -> None:
        """Let others have these shards at once, those that are `owner`'s."""
        await self._batch([("EVAL", _GIVE_BACK, 1, webhook_lock_key(s), owner) for s in shards])

    async def leave(self, name: str) -> None:
        """This notifier lives no longer."""
        await self._batch([("ZREM", NOTIFIERS, name)])

    async def settle(self, owner: str, settled: Mapping[int, tuple[str, str]]) -> list[int]:
        """Note by shard how far the activity and the events are settled, "" for no change, and remove settled
        events. Returns the shards that are not `owner`'s any more."""
        commands: list[Command] = [
            ("EVAL", _SETTLE, 3, webhook_lock_key(s), webhook_positions_key(s), webhook_events_key(s), owner,
             activity, events, str(StreamId.parse(events).next) if events else "")
            for s, (activity, events) in settled.items()
        ]  # fmt: skip
        replies = await self._batch(commands)
        return [shard for shard, reply in zip(settled, replies, strict=True) if not reply]

    async def read(
        self, read: Mapping[int, Settled], count: int, block_ms: int
    ) -> tuple[list[FoundEntry], dict[int, StreamId]]:
        """Up to `count` entries of each stream behind what was read, in the order of each stream; and by
        shard from where on the activity is kept, as it was after that. Waits up to `block_ms` for the first
        entry."""
        keys = {activity_key(s): (s, True) for s in read} | {webhook_events_key(s): (s, False) for s in read}
        places = [str(at.activity) for at in read.values()] + [str(at.events) for at in read.values()]
        block = ("BLOCK", block_ms) if block_ms else ()
        try:
            answer = await self._reading.call(
                "XREAD", "COUNT", count, *block, "STREAMS", *keys, *places,
                timeout_s=self._timeout_s + block_ms / 1000,
            )  # fmt: skip
        except ReplyError as e:
            raise _refused(e) from e
        trimmed = await self._trimmed(read)
        found = []
        for key, entries in answer or ():
            shard, activity = keys[key]
            found += [FoundEntry(shard, StreamId.parse(i), activity, _blob(fields)) for i, fields in entries]
        return found, trimmed

    async def put(self, shard: int, events: Sequence[WebhookEvent]) -> None:
        """Put events on the stream of their shard, all or none."""
        await self._batch([add_events(shard, events)])

    async def note_made(self, made: Mapping[tuple[int, int], Iterable[MadeDelivery]]) -> None:
        """Note by shard and endpoint what was delivered, the newest last. The last `MADE_MAX` are kept."""
        commands: list[Command] = []
        for (shard, endpoint_id), deliveries in made.items():
            key = webhook_made_key(shard, endpoint_id)
            commands += [
                ("LPUSH", key, *map(_pack, deliveries)),
                ("LTRIM", key, 0, MADE_MAX - 1),
                ("EXPIRE", key, MADE_KEPT_S),
            ]
        await self._batch(commands)

    async def made(self, shard: int, endpoint_id: int) -> list[MadeDelivery]:
        """The last deliveries that an endpoint took, the newest first."""
        replies = await self._batch([("LRANGE", webhook_made_key(shard, endpoint_id), 0, MADE_MAX - 1)])
        return [_unpack_made(found) for found in replies[0]]

    async def _trimmed(self, shards: Iterable[int]) -> dict[int, StreamId]:
        shards = list(shards)
        replies = await self._batch([("HMGET", ARCHIVER_TRIMMED, *map(activity_key, shards))])
        return {
            shard: StreamId.parse(kept) if kept else STREAM_START
            for shard, kept in zip(shards, replies[0], strict=True)
        }

    async def _batch(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        replies = await self._link.batch(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise _refused(reply) from reply
        return replies


def _refused(error: ReplyError) -> Unavailable:
    return Unavailable(f"Redis refuses a step of the webhooks: {error}.")


def _blob(fields: Sequence[bytes]) -> bytes:
    """The value of the field `b`; empty when the entry has none."""
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"b", b"")
