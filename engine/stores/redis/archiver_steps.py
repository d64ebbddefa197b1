"""The atomic steps of archivers, and the commands that make them: plans of blocks.

Keys:

archiver:lock      `shards` while archivers have leases of shards, or a plan of theirs stands: see
                   `shard_shares`, which has the leases
archiver:{s}:lock  the archiver that has the shard
archiver:plans     hash: the plan of the block that is being stored, under each shard that it has rows of
archiver:plan      the plan of a version that had one archiver for all shards

A plan stands under all its shards or under none. One step changes the plan and all its streams, so they must
be on one Redis. Each step may be sent again when its answer was lost: the notes say what a second call does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.activity.records import BlockPlan
from engine.redis_keys import (
    ARCHIVER_LOCK,
    ARCHIVER_PLAN,
    ARCHIVER_PLANS,
    ARCHIVER_TRIMMED,
    ARCHIVER_UNREADABLE,
    activity_key,
    archiver_lock_key,
)
from engine.stores.redis.link import Argument, Command
from engine.stream_id import StreamId

# `allow-oom`: when Redis is full because ClickHouse was away, these scripts make room again.

# adopt(lock, old plan, plans; plan, shards ...): a plan of the versions of before stands as one of these
_ADOPT = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= 'shards' or redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
for i = 2, #ARGV do redis.call('HSET', KEYS[3], ARGV[i], ARGV[1]) end
redis.call('PERSIST', KEYS[1])
redis.call('DEL', KEYS[2])
return 1
"""

# propose(lock, plans, old plan, then per shard of it: lock, stream; owner, plan, then per shard: shard, first
#         id of its range) -> 1 when the plan was kept
# 0: a shard is not the owner's, or has a plan, or its stream does not begin with the range any more: another
# had it meanwhile and archived that. A second call finds the plan, and is answered 0.
_PROPOSE = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= 'shards' or redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
for i = 4, #KEYS, 2 do
  if redis.call('GET', KEYS[i]) ~= ARGV[1] then return 0 end
  if redis.call('HEXISTS', KEYS[2], ARGV[i - 1]) == 1 then return 0 end
  local first = redis.call('XRANGE', KEYS[i + 1], '-', '+', 'COUNT', 1)[1]
  if not first or first[1] ~= ARGV[i] then return 0 end
end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[2]) end
redis.call('PERSIST', KEYS[1])
return 1
"""

# finish(lock, plans, unreadable, trimmed, streams ...; plan, ttl_ms of the lock when no plan is left, then
#        per stream: its shard, first id kept; then per unreadable entry: index of its stream from 1, id)
# -> 1 when the plan stood and is finished now, 0 when another or none stands
_FINISH = """#!lua flags=allow-oom
local streams = #KEYS - 4
for i = 1, streams do
  if redis.call('HGET', KEYS[2], ARGV[1 + 2 * i]) ~= ARGV[1] then return 0 end
end
for i = 3 + 2 * streams, #ARGV, 2 do
  local key, id = KEYS[4 + tonumber(ARGV[i])], ARGV[i + 1]
  local found = redis.call('XRANGE', key, id, id)
  if found[1] then redis.call('XADD', KEYS[3], '*', 'k', key, 'i', id, 'b', found[1][2][2]) end
end
for i = 1, streams do
  redis.call('HSET', KEYS[4], KEYS[4 + i], ARGV[2 + 2 * i])
  redis.call('XTRIM', KEYS[4 + i], 'MINID', '=', ARGV[2 + 2 * i])
  redis.call('HDEL', KEYS[2], ARGV[1 + 2 * i])
end
if redis.call('HLEN', KEYS[2]) == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""


def adopt(plan: BlockPlan, encoded: bytes) -> Command:
    """Let a plan of a version that had one archiver stand as one of these; `encoded`: as it was found."""
    shards = [part.shard for part in plan.ranges]
    return _script(_ADOPT, [ARCHIVER_LOCK, ARCHIVER_PLAN, ARCHIVER_PLANS], [encoded, *shards])


def propose(owner: str, plan: BlockPlan, encoded: bytes) -> Command:
    """Let the plan stand, when its shards are `owner`'s and nothing of it was archived meanwhile."""
    keys: list[Argument] = [ARCHIVER_LOCK, ARCHIVER_PLANS, ARCHIVER_PLAN]
    arguments: list[Argument] = [owner, encoded]
    for part in plan.ranges:
        keys += [archiver_lock_key(part.shard), activity_key(part.shard)]
        arguments += [part.shard, str(part.first)]
    return _script(_PROPOSE, keys, arguments)


def finish(
    plan: BlockPlan, encoded: bytes, ttl_ms: int, unreadable: Iterable[tuple[int, StreamId]]
) -> Command:
    """End the plan, remove its entries, and keep apart the `unreadable` ones, (shard, id)."""
    keys: list[Argument] = [ARCHIVER_LOCK, ARCHIVER_PLANS, ARCHIVER_UNREADABLE, ARCHIVER_TRIMMED]
    arguments: list[Argument] = [encoded, ttl_ms]
    for part in plan.ranges:
        keys.append(activity_key(part.shard))
        arguments += [part.shard, str(part.last.next)]
    index = {part.shard: i for i, part in enumerate(plan.ranges, 1)}
    for shard, entry_id in unreadable:
        arguments += [index[shard], str(entry_id)]
    return _script(_FINISH, keys, arguments)


def _script(script: str, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Command:
    return ("EVAL", script, len(keys), *keys, *arguments)
