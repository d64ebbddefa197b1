"""The entries that a worker has in hand: given to it, and neither settled nor dropped."""

from __future__ import annotations

from collections.abc import Iterable

from engine.delivery.settlement import DELIVERIES_MAX
from engine.records import Entry


class HeldEntries:
    """The ids of the entries in hand, by shard. An entry not here was given in an answer that was lost."""

    def __init__(self, shards: int) -> None:
        self._ids: list[set[bytes]] = [set() for _ in range(shards)]
        self._suspects: set[tuple[int, bytes]] = set()

    def __len__(self) -> int:
        return sum(map(len, self._ids))

    def holds(self, shard: int, entry_id: bytes) -> bool:
        """Whether the entry is in hand."""
        return entry_id in self._ids[shard]

    @property
    def suspected(self) -> bool:
        """Whether a suspect is among them, see `take_over` in queue.lua."""
        return bool(self._suspects)

    def take(self, entries: Iterable[Entry]) -> list[Entry]:
        """Add entries; those that were not in hand before, in order."""
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
        """Remove entries; those not in hand are passed over."""
        for entry in entries:
            self._ids[entry.shard].discard(entry.entry_id)
            if entry.deliveries == DELIVERIES_MAX:
                self._suspects.discard((entry.shard, entry.entry_id))
