"""Which shard an organisation belongs to."""

from __future__ import annotations

_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def shard_of(organisation_id: int, shards: int) -> int:
    """Spread ids, also consecutive ones, evenly (Fibonacci hashing, Knuth 6.4)."""
    return ((organisation_id * _MIX & _MASK) >> 32) % shards
