"""Which shards had messages behind their ready stream, by what Redis said last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class Backlog:
    """The shards of one queue where messages wait behind the ready stream, as far as one worker knows."""

    def __init__(self) -> None:
        self._shards: set[int] = set()

    def take(self) -> list[int]:
        """The shards, in order. They are forgotten until Redis speaks of them again."""
        shards, self._shards = sorted(self._shards), set()
        return shards

    def note(self, shards: Iterable[int], waiting: Iterable[Any]) -> None:
        """Note how many messages wait in each of `shards`; no number, because Redis refused: none."""
        for shard, messages in zip(shards, waiting, strict=True):
            if isinstance(messages, int) and messages:
                self._shards.add(shard)
            else:
                self._shards.discard(shard)

    def counted(self, shards: Iterable[int], replies: Sequence[Sequence[int]]) -> int:
        """Note what waits, from replies [count, messages behind the stream]; the sum of the counts."""
        self.note(shards, [waiting for _, waiting in replies])
        return sum(count for count, _ in replies)
