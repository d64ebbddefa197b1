"""The messages that a worker has in hand: given to it, and neither settled nor dropped."""

from __future__ import annotations

from collections.abc import Iterable

from engine.delivery.settlement import DELIVERIES_MAX
from engine.records import Entry


class HeldEntries:
    """What is in hand of each entry, by shard. An entry not here was given in an answer that was lost."""

    def __init__(self, shards: int) -> None:
        # By entry: the places of its messages in hand, a bit each.
        self._places: list[dict[bytes, int]] = [{} for _ in range(shards)]
        # Entries of which a message was dropped.
        self._dropped: list[set[bytes]] = [set() for _ in range(shards)]
        self._suspects: set[tuple[int, bytes]] = set()

    def holds(self, shard: int, entry_id: bytes) -> bool:
        """Whether all of the entry that is not settled is in hand."""
        return entry_id in self._places[shard] and entry_id not in self._dropped[shard]

    @property
    def suspected(self) -> bool:
        """Whether a suspect is among them, see `take_over` in queue.lua."""
        return bool(self._suspects)

    def take(self, entries: Iterable[Entry]) -> list[Entry]:
        """Add messages; those that were not in hand before, in order."""
        taken = []
        for entry in entries:
            of, bit = self._places[entry.shard], 1 << entry.place
            places = of.get(entry.entry_id, 0)
            if not places & bit:
                of[entry.entry_id] = places | bit
                taken.append(entry)
                if entry.deliveries == DELIVERIES_MAX:
                    self._suspects.add((entry.shard, entry.entry_id))
            self._dropped[entry.shard].discard(entry.entry_id)
        return taken

    def let_go(self, entries: Iterable[Entry]) -> None:
        """Remove messages that are settled; those not in hand are passed over."""
        for entry in entries:
            of = self._places[entry.shard]
            places = of.get(entry.entry_id, 0) & ~(1 << entry.place)
            if places:
                of[entry.entry_id] = places
            else:
                of.pop(entry.entry_id, None)
            if entry.deliveries == DELIVERIES_MAX:
                self._suspects.discard((entry.shard, entry.entry_id))

    def drop(self, entries: Iterable[Entry]) -> None:
        """Remove messages that are not settled."""
        for entry in entries:
            self.let_go((entry,))
            if entry.entry_id in self._places[entry.shard]:
                self._dropped[entry.shard].add(entry.entry_id)
