"""Which processes of a kind live: a sorted set in Redis with their names, by the time until which they do."""

from __future__ import annotations

from engine.stores.redis.link import Command

# living(names; name, ttl_ms) -> the names of all that live, this one among them
# By the clock of Redis, whatever the processes think of it. When that clock was set back, an earlier note
# would count for as long; it ends as one of now does. `allow-oom`: those who make room when Redis is full ask
# this first.
_LIVING = """#!lua flags=allow-oom
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = string.format('%.0f', now + ARGV[2])
redis.call('ZADD', KEYS[1], ends, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local beyond = string.format('(%.0f', now + 2 * ARGV[2])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], beyond, '+inf')) do
  redis.call('ZADD', KEYS[1], ends, name)
end
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""


def living(key: str | bytes, name: str, ttl_ms: int) -> Command:
    """`name` lives for `ttl_ms` more; answered with the names of all that do. It may be sent again."""
    return ("EVAL", _LIVING, 1, key, name, ttl_ms)
