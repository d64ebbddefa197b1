"""How much memory Redis has and what it does when it is full, read from the reply of `INFO memory`."""

from __future__ import annotations

import msgspec


class RedisMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of one Redis, bytes."""

    # Memory that counts towards the limit.
    used_bytes: int
    # `maxmemory`; 0: there is no limit but the machine's.
    limit_bytes: int
    # `maxmemory-policy`.
    policy: str

    @property
    def fullness(self) -> float:
        """The share of the limit that is used; 0 when there is no limit."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0

    @property
    def fault(self) -> str:
        """One sentence that says why the engine must not run on this Redis; "" when it may."""
        if not self.limit_bytes or self.policy == "noeviction":
            return ""
        return (
            f"Redis deletes messages and credit when its memory is full (maxmemory-policy {self.policy}); "
            "set maxmemory-policy to noeviction, or maxmemory to 0."
        )


def memory_of(info: bytes) -> RedisMemory:
    """Read the reply of INFO, of all sections or of `memory` alone; a missing line gives 0 or ""."""
    found = {}
    for line in info.decode(errors="replace").splitlines():
        name, _, value = line.partition(":")
        found[name] = value.strip()
    # As Redis counts: without its buffers for replicas and for its own file.
    used = int(found.get("used_memory", 0)) - int(found.get("mem_not_counted_for_evict", 0))
    return RedisMemory(
        used_bytes=used,
        limit_bytes=int(found.get("maxmemory", 0)),
        policy=found.get("maxmemory_policy", ""),
    )
