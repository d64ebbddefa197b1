"""Leases of shards that processes of one kind share, archivers or matchers, and the commands for them.

Keys of a kind:

lock     `shards` while any of them has a lease, or has left a plan that must be executed first. Versions that
         had one such process for all shards keep its name here: they and these exclude each other
locks    of each shard the process that has it
living   sorted set: those that live, by the time until which they do
plans    where the kind has plans: a hash that is there while one stands

All leases of a process are asked for in one step, so their keys must be on one Redis. Each step may be sent
again when its answer was lost: the notes say what a second call does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from engine.leases.ports import HeldShards
from engine.shards import share_of
from engine.stores.redis.link import Argument, Command
from engine.stores.redis.living import living

# `allow-oom`: these processes make room when Redis is full.

# own(lock, lock of each shard ..., plans if the kind has any; owner, ttl_ms, then per shard '1' when it is in
# the owner's share) -> per shard 1 when it is the owner's now; nothing while one process has all shards in
# one A shard that the owner has stays its own, in its share or not. A second call does the same again. When
# the clock of Redis was set back, the lease of one that has died would last for as long: it ends as one of
# now.
_OWN = """#!lua flags=allow-oom
local all, shards = redis.call('GET', KEYS[1]), #ARGV - 2
if all and all ~= 'shards' then return {} end
local ours, some = {}, false
for i = 1, shards do
  local key = KEYS[i + 1]
  local owner = redis.call('GET', key)
  ours[i] = 0
  if owner == ARGV[1] or (not owner and ARGV[i + 2] == '1') then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    ours[i], some = 1, true
  elseif owner and redis.call('PTTL', key) > 2 * ARGV[2] then
    redis.call('PEXPIRE', key, ARGV[2])
  end
end
if some then
  local plans = KEYS[shards + 2]
  redis.call('SET', KEYS[1], 'shards')
  if not plans or redis.call('HLEN', plans) == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
end
return ours
"""

# give_back(lock of each shard ...; owner)
_GIVE_BACK = """#!lua flags=allow-oom
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[1] then redis.call('DEL', KEYS[i]) end
end
return 1
"""

# leave(lock, living, plans if the kind has any; owner), after the owner has given back its shards
_LEAVE = """#!lua flags=allow-oom
redis.call('ZREM', KEYS[2], ARGV[1])
local last = redis.call('ZCARD', KEYS[2]) == 0 and (not KEYS[3] or redis.call('HLEN', KEYS[3]) == 0)
if last and redis.call('GET', KEYS[1]) == 'shards' then redis.call('DEL', KEYS[1]) end
return 1
"""


class ShardShares(NamedTuple):
    """The keys of one kind of process, see the module; `shards`: how many there are."""

    lock: bytes
    living: bytes
    lock_of: Callable[[int], bytes]
    shards: int
    plans: bytes | None = None

    def live(self, owner: str, ttl_ms: int) -> Command:
        """`owner` lives for `ttl_ms` more; answered with the names of all that do."""
        return living(self.living, owner, ttl_ms)

    def own(self, owner: str, ttl_ms: int, names: Iterable[bytes]) -> Command:
        """Keep the shards that `owner` has, and win those of its share that nobody has. `names`: as `live`
        was answered. The answer is for `held`."""
        share = self._share(owner, names)
        keys = [self.lock, *map(self.lock_of, range(self.shards)), *self._plans()]
        return _script(_OWN, keys, [owner, ttl_ms, *(int(s in share) for s in range(self.shards))])

    def held(self, owner: str, names: Iterable[bytes], ours: Sequence[int]) -> HeldShards:
        """The shards that `owner` has; `ours`: what `own` was answered with."""
        share = self._share(owner, names)
        held = {shard for shard, is_ours in enumerate(ours) if is_ours}
        return HeldShards(frozenset(held & share), frozenset(held - share))

    def give_back(self, owner: str, shards: Iterable[int]) -> Command:
        """Let others have those of the shards that are `owner`'s."""
        return _script(_GIVE_BACK, list(map(self.lock_of, shards)), [owner])

    def leave(self, owner: str) -> Command:
        """`owner` lives no longer. Only after it has given back its shards."""
        return _script(_LEAVE, [self.lock, self.living, *self._plans()], [owner])

    def _share(self, owner: str, names: Iterable[bytes]) -> set[int]:
        return share_of(owner, [name.decode() for name in names], self.shards)

    def _plans(self) -> list[bytes]:
        return [] if self.plans is None else [self.plans]


def _script(script: str, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Command:
    return ("EVAL", script, len(keys), *keys, *arguments)
