"""What messages hold, all of them and those of each organisation: as functions/queue keeps it and counts it
anew, and whether that is right.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.bundle_format import payloads_of
from engine.redis_keys import held_by_key
from tests.simulation.ready import note_of
from tests.simulation.redis_store import Store

_unpack = msgspec.msgpack.Decoder().decode


class Held:
    """A part of `redis_functions.Functions`."""

    store: Store

    def hold(self, key: bytes, by_key: bytes, sums: dict[int, int]) -> None:
        by = self.store.hash(by_key)
        for org, units in sums.items():
            by[b"%d" % org] = b"%d" % (int(by.get(b"%d" % org, b"0")) + units)
            if by[b"%d" % org] == b"0":
                del by[b"%d" % org]
        self.store.db[key] = b"%d" % (int(self.store.db.get(key, b"0")) + sum(sums.values()))

    def tally(self, keys: Any, _: Any) -> list[list[int]]:
        if not self.adds_up(*keys[:2]):
            self.count_anew(keys)
        return [[int(org), int(units)] for org, units in self.store.hash(keys[1]).items()]

    def adds_up(self, held: bytes, by: bytes) -> bool:
        """Whether what the messages of organisations hold is what all of them hold."""
        units = sum(map(int, self.store.hash(by).values()))
        return units == int(self.store.db.get(held, b"0"))

    def count_anew(self, keys: Any) -> None:
        """Read all messages, because an older version kept the sum alone."""
        db = self.store.db
        db.update({keys[0]: b"0", keys[1]: {}})
        payloads = [
            payload
            for i, wait in ((2, 8), (3, 9), (6, None), (7, None))
            if keys[i] in db
            for entry_id, fields in db[keys[i]].fields.items()
            for payload in self.open_messages(wait and keys[wait], entry_id, fields[1])
        ]
        payloads += [p for i in (4, 5) for p in db.get(keys[i], ())]
        payloads += [p for i in (8, 9) for p in self.in_lists(keys[i])]
        for message in map(_unpack, payloads):
            self.hold(*keys[:2], {message[1]: message[7]})

    def in_lists(self, wait: bytes) -> list[bytes]:
        return [payload for waiting in self.store.lists(wait).values() for _, payload in waiting]

    def open_messages(self, wait: bytes | None, entry_id: tuple[int, int], payload: bytes) -> list[bytes]:
        """The messages of an entry that are not settled."""
        notes = self.store.db.get(wait, {}) if wait else {}
        payloads = payloads_of(payload)
        note = notes.get(note_of(entry_id[1])) or b"." * len(payloads)
        return [message for message, state in zip(payloads, note, strict=True) if state == ord(".")]


class HeldBy:
    """The part of `checkers.Truth` that knows what the messages of each organisation hold."""

    def __init__(self, truth: Any) -> None:
        """`truth`: the `Truth` that this is a part of."""
        self._truth = truth
        # Shards of which only the sum is known, until it is counted anew.
        self.uncounted: set[int] = set()

    def counted(self, command: tuple[Any, ...]) -> None:
        """A step has counted a shard anew, if it had to."""
        for shard in [shard for shard in self.uncounted if held_by_key(shard) in command]:
            self.uncounted.discard(shard)
            for o in [o for o, sums in self._truth.sums.items() if sums.shard == shard]:
                self.check(o)

    def check(self, organisation_id: int) -> None:
        sums = self._truth.sums[organisation_id]
        known = self._truth.redis.store.db.get(held_by_key(sums.shard), {}).get(b"%d" % organisation_id, b"0")
        if sums.shard not in self.uncounted and int(known) != sums.h:
            self._truth.fail(f"organisation {organisation_id}: held says {known}, its messages {sums.h}")
