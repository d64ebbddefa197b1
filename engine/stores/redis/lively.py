"""Rule: the streams that a worker looks at first after a rest, without waiting.

A read that waits asks for an equal share of each stream. Where messages come in bundles that is one entry, so
it would be given one, and the next read the rest. Each of them is a turn of Redis, and a write to its disk. A
read that looks first where messages came from lately is given all, and goes with the settlements.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

# A read so long after the last is one after a rest; what came within the second came lately. Seconds.
REST_S, LATELY_S = 0.001, 0.05
# An equal share of so many entries of a stream, or more, is no small one.
SHARE_MIN = 4


class LivelyShards:
    """The shards of one queue that gave messages lately. Times are the loop's, seconds."""

    def __init__(self) -> None:
        self._read_s = 0.0
        self._gave_s: dict[int, float] = {}

    def gave(self, shards: Iterable[int]) -> None:
        """A read has ended that gave messages of these."""
        self._read_s = asyncio.get_running_loop().time()
        self._gave_s |= dict.fromkeys(shards, self._read_s)

    def first(self, shards: Sequence[int], entries: int) -> list[int]:
        """Those of `shards` that a read of so many entries looks at first."""
        now_s = asyncio.get_running_loop().time()
        if entries >= SHARE_MIN * len(shards) or now_s < self._read_s + REST_S:
            return []
        return [shard for shard, gave_s in self._gave_s.items() if now_s < gave_s + LATELY_S]
