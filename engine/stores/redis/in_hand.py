"""The messages that a worker has in hand: given to it, and neither settled nor dropped."""

from __future__ import annotations

from collections.abc import Sequence

from engine.delivery.settlement import DELIVERIES_MAX
from engine.records import Entry
from engine.stores.redis.whole_entries import end_of


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
        """Whether a suspect is among them, see `take_over` in functions/queue."""
        return bool(self._suspects)

    def take(self, entries: Sequence[Entry]) -> list[Entry]:
        """Add messages; those that were not in hand before, in order."""
        taken: list[Entry] = []
        at, count = 0, len(entries)
        while at < count:
            entry = entries[at]
            of, entry_id = self._places[entry.shard], entry.entry_id
            end, bits = _piece(entries, at) if entry.bundle > 1 else (at + 1, 1 << entry.place)
            places = of.get(entry_id, 0)
            if places & bits != bits:
                of[entry_id] = places | bits
                if entry.deliveries == DELIVERIES_MAX:
                    self._suspects.add((entry.shard, entry_id))
                some = entries[at:end]
                taken += [new for new in some if not places >> new.place & 1] if places else some
            self._dropped[entry.shard].discard(entry_id)
            at = end
        return taken

    def let_go(self, entries: Sequence[Entry]) -> None:
        """Remove messages that are settled; those not in hand are passed over."""
        at, count = 0, len(entries)
        while at < count:
            entry = entries[at]
            of, entry_id = self._places[entry.shard], entry.entry_id
            end, bits = _piece(entries, at) if entry.bundle > 1 else (at + 1, 1 << entry.place)
            places = of.pop(entry_id, 0) & ~bits
            if places:
                of[entry_id] = places
            if entry.deliveries == DELIVERIES_MAX:
                self._suspects.discard((entry.shard, entry_id))
            at = end

    def drop(self, entries: Sequence[Entry]) -> None:
        """Remove messages that are not settled."""
        for entry in entries:
            self.let_go((entry,))
            if entry.entry_id in self._places[entry.shard]:
                self._dropped[entry.shard].add(entry.entry_id)


def _piece(entries: Sequence[Entry], at: int) -> tuple[int, int]:
    """Where the piece of a bundle ends that begins at `at` (`end_of`), and the bits of its places."""
    end = end_of(entries, at)
    return end, (1 << end - at) - 1 << entries[at].place
