"""The messages that a worker has in hand: given to it, and neither settled nor dropped."""

from __future__ import annotations

from collections.abc import Sequence

from engine.delivery.settlement import DELIVERIES_MAX
from engine.records import Entry
from engine.stores.redis.whole_entries import pieces


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

    def take(self, entries: Sequence[Entry]) -> list[Entry]:
        """Add messages; those that were not in hand before, in order."""
        taken: list[Entry] = []
        for at, end in pieces(entries):
            entry, count = entries[at], end - at
            of, bits = self._places[entry.shard], (1 << count) - 1 << entry.place
            places = of.get(entry.entry_id, 0)
            self._dropped[entry.shard].discard(entry.entry_id)
            if places & bits == bits:
                continue
            of[entry.entry_id] = places | bits
            if entry.deliveries == DELIVERIES_MAX:
                self._suspects.add((entry.shard, entry.entry_id))
            if places:
                taken += [new for new in entries[at:end] if not places >> new.place & 1]
            else:
                taken += entries[at:end]
        return taken

    def let_go(self, entries: Sequence[Entry]) -> None:
        """Remove messages that are settled; those not in hand are passed over."""
        for at, end in pieces(entries):
            entry = entries[at]
            of = self._places[entry.shard]
            places = of.get(entry.entry_id, 0) & ~((1 << end - at) - 1 << entry.place)
            if places:
                of[entry.entry_id] = places
            else:
                of.pop(entry.entry_id, None)
            if entry.deliveries == DELIVERIES_MAX:
                self._suspects.discard((entry.shard, entry.entry_id))

    def drop(self, entries: Sequence[Entry]) -> None:
        """Remove messages that are not settled."""
        for entry in entries:
            self.let_go((entry,))
            if entry.entry_id in self._places[entry.shard]:
                self._dropped[entry.shard].add(entry.entry_id)
