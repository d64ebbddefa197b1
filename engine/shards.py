"""Which shard an organisation belongs to, and which shards a process has of all that live."""

from __future__ import annotations

from collections.abc import Collection

_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def shard_of(organisation_id: int, shards: int) -> int:
    """Spread ids, also consecutive ones, evenly (Fibonacci hashing, Knuth 6.4)."""
    return ((organisation_id * _MIX & _MASK) >> 32) % shards


def share_of(name: str, living: Collection[str], shards: int) -> set[int]:
    """The shards of the process `name` among those that live, at most one more than any other has.

    They follow from the names alone, so processes that see the same names divide the shards without a word.
    """
    names = sorted({name, *living})
    return set(range(names.index(name), shards, len(names)))
