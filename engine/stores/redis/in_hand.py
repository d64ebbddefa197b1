"""What a worker has in hand: entries given to it that it has neither settled nor dropped."""

from __future__ import annotations

from collections.abc import Iterable

from engine.delivery.settlement import DELIVERIES_MAX
from engine.records import Entry


class HeldEntries:
    """Tells an entry that the worker knows of from one of which it never heard."""

    def __init__(self, shards: int) -> None:
        self._ids: list[set[bytes]] = [set() for _ in range(shards)]
        self._suspects: set[tuple[int, bytes]] = set()

    def __len__(self) -> int:
        return sum(map(len, self._ids))

    def holds(self, shard: int, entry_id: bytes) -> bool:
        return entry_id in self._ids[shard]

    @property
    def suspected(self) -> bool:
        """Whether an entry on its last chance is among them: see take_over in queue.lua."""
        return bool(self._suspects)

    def take(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those that were not in hand yet, and now are."""
        taken = []
        for entry in entries:
            ids = self._ids[entry.shard]
            if entry.entry_id not in ids:
                ids.add(entry.entry_id)
                taken.append(entry)
                if entry.deliveries == DELIVERIES_MAX:
                    self._suspects.add((entry.shard, entry.entry_id))
        return taken

    def let_go(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._ids[entry.shard].discard(entry.entry_id)
            if entry.deliveries == DELIVERIES_MAX:
                self._suspects.discard((entry.shard, entry.entry_id))
