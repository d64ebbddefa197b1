"""The ready stream of a queue as functions/queue keeps it, with its bundles, on the simulated data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.bundle_format import payloads_of, record
from engine.redis_keys import GROUP
from engine.stores.redis.queue import MARK
from tests.simulation.redis_store import Store, format_id, parse_id

# The number of the first message that is made ready is one more.
FIRST = 1 << 40
# In each run of Redis the numbers move on by so much at least, and by less than twice as much.
JUMP = 1 << 30


def bundled(records: Iterable[bytes], number: int = 0) -> bytes:
    """The bundle of these records; `number`: of its last message."""
    parts = list(records)
    return b"\xc1\x01" + len(parts).to_bytes(2, "big") + number.to_bytes(8, "big") + b"".join(parts)


def jump_of(run: bytes) -> int:
    """By how much the numbers move on in a run of Redis."""
    return JUMP + int(run[:8], 16) % JUMP


def ready_id(entry_id: tuple[int, int], fields: list[bytes]) -> bytes:
    """The id of the entry in which the messages of an entry became ready."""
    return (len(fields) > 2 and fields[5]) or format_id(entry_id)


def note_of(number: int) -> bytes:
    """The field that says of a bundle which of its messages are settled."""
    return b"part:%d" % number


class Ready:
    """One step's view of a ready stream, as a part of a line."""

    def __init__(self, store: Store, keys: Any, bundle_max: int = 1) -> None:
        self.store = store
        self.sms, self.wait, self.turns, self.ahead = keys
        kept = store.db.get(self.wait, {})
        self.messages = int(kept.get(b"messages", b"0"))
        self.time = float(kept.get(b"time", b"0"))
        self.busy = b"time" in kept
        self.said = int(kept.get(b"mark", b"%d" % MARK))
        # Whether what waits in lists is left there until a worker takes it.
        self.lies = self.said == 0
        self.mark = self.said or MARK
        self.moment = int(kept[b"moment"]) if b"moment" in kept else None
        self.bundled = int(kept.get(b"bundled", b"0"))
        self.number = int(kept.get(b"number", b"%d" % FIRST))
        # The run of Redis in which an entry was last written.
        self.run: bytes | None = kept.get(b"run")
        self.bundle_max = bundle_max
        # The messages of the bundle that was begun; whether the ready stream was changed.
        self.begun: list[tuple[int, bytes]] = []
        self.changed = False
        self._left: int | None = None
        self._counted = False
        # The way of what is being recalled.
        self.recalled_way = ""

    @property
    def bundle(self) -> int:
        """How many messages an entry may have."""
        return max(1, min(self.bundle_max, self.mark // 4))

    def aim(self, mark: int, moment: int, taken: int | None = None) -> None:
        if mark != self.said:
            self.said = mark
            self.store.hash(self.wait)[b"mark"] = b"%d" % mark
        holds = (mark or MARK) if taken is None else taken
        self._left = None if self._left is None else self._left + holds - self.mark
        self.mark, self.lies = holds, mark == 0 and taken is None
        if moment != (self.moment or mark):
            self.moment = moment
            self.store.hash(self.wait)[b"moment"] = b"%d" % moment

    def entries(self) -> int:
        stream = self.store.db.get(self.sms)
        return 0 if stream is None else len(stream.ids)

    def unread(self) -> int:
        """How many messages of the ready stream no worker has been given."""
        entries = self.entries()
        stream = self.store.db.get(self.sms)
        group = None if stream is None else stream.groups.get(GROUP)
        unread = entries - (len(group.pending) if group else 0)
        if unread <= 0:
            return len(self.begun)
        most = unread + self.bundled
        if group is not None and group.last[1] >= FIRST:
            behind = self.number - group.last[1]
            if behind >= JUMP and self.run:
                behind -= jump_of(self.run)
            most = min(most, behind)
        return max(unread, most) + len(self.begun)

    def room(self) -> int:
        """How many more messages the ready stream takes; too few, until `count_in_hand`."""
        if self._left is None:
            self._left = self.mark - self.entries() - self.bundled - len(self.begun)
        return self._left

    def count_in_hand(self) -> None:
        if not self._counted:
            self._counted = True
            self._left = self.mark - self.unread()

    def leave_unread(self, unread: int) -> None:
        """So many messages are unread, and the numbers of entries do not say it until one is read."""
        self._counted, self._left = True, self.mark - unread

    def is_open(self) -> bool:
        if self.messages:
            return False
        if self.room() <= 0:
            self.count_in_hand()
        return self.room() > 0

    def make_ready(self, segments: int, payload: bytes) -> None:
        if len(self.begun) + 1 > self.bundle:
            self.close_bundle()
        self.begun.append((segments, payload))
        if self._left is not None:
            self._left -= 1

    def make_all_ready(self, records: list[tuple[int, bytes]]) -> None:
        for first in range(0, len(records), self.bundle):
            some = records[first : first + self.bundle]
            if len(self.begun) + len(some) > self.bundle:
                self.close_bundle()
            for segments, payload in some:
                self.make_ready(segments, payload)

    def close_bundle(self) -> None:
        records, self.begun = self.begun, []
        if records:
            content = records[0][1] if len(records) == 1 else b"".join(record(*of) for of in records)
            self.add_entry(content, len(records))

    def move_on(self) -> None:
        """This run of Redis has not written to the line yet."""
        self.run = self.store.run
        self.number += jump_of(self.run)
        self.store.hash(self.wait).update({b"number": b"%d" % self.number, b"run": self.run})

    def add_entry(self, content: bytes, count: int, given: int = 0, from_id: bytes = b"") -> None:
        """Write an entry of a message or of records; its id ends in the number of its last message.

        `from_id`: of the entry in which they became ready, when that was another.
        """
        stream = self.store.stream(self.sms)
        if self.run != self.store.run:
            self.move_on()
        ms, before = self.store.now_ms(), self.number
        if (ms, before + count) <= stream.last:
            ms, before = max(ms, stream.last[0]), max(before, stream.last[1])
        self.number = before + count
        head = bundled((), self.number)
        payload = content if count == 1 else head[:2] + count.to_bytes(2, "big") + head[4:] + content
        fields = [b"m", payload]
        if self.recalled_way:
            fields += [b"d", b"0", b"i", from_id, b"w", self.recalled_way.encode()]
        elif given or from_id:
            fields += [b"d", b"%d" % given, b"i", from_id]
        self.store.xadd(self.sms, fields, (ms, self.number))
        self.count_entry(count)

    def count_entry(self, count: int) -> None:
        self.bundled += count - 1
        self.changed = True

    def keep_ready(self) -> None:
        self.close_bundle()
        if self.changed:
            self.store.hash(self.wait).update(
                {b"bundled": b"%d" % self.bundled, b"number": b"%d" % self.number}
            )

    def noted(self, entry_id: bytes) -> bytes | None:
        """Which messages of a bundle are settled."""
        name = note_of(parse_id(entry_id)[1])
        return self.store.db.get(self.wait, {}).get(name)  # type: ignore[no-any-return]

    def open_messages(self, entry_id: bytes, payload: bytes) -> list[bytes]:
        """The messages of an entry that are not settled."""
        payloads = payloads_of(payload)
        note = (len(payloads) > 1 and self.noted(entry_id)) or b"." * len(payloads)
        return [message for message, state in zip(payloads, note, strict=True) if state == ord(".")]

    def settle_part(self, entry_id: bytes, size: int, places: list[int], is_open: bool) -> set[int]:
        """Settle some messages of a bundle; the places of those that count. `is_open`: it may be settled."""
        if not is_open:
            return set()
        note = bytearray(self.noted(entry_id) or b"." * size)
        found = {place for place in places if note[place] == ord(".")}
        if not found:
            return found
        for place in found:
            note[place] = ord("x")
        self.changed = True
        self.store.settle_part(self.sms, parse_id(entry_id), sorted(found))
        if self.is_over(bytes(note)):
            self.store.xack(self.sms, GROUP, parse_id(entry_id))
            self.store.xdel(self.sms, parse_id(entry_id))
            self.store.hash(self.wait).pop(note_of(parse_id(entry_id)[1]), None)
            self.bundled -= len(found) - 1
        else:
            self.store.hash(self.wait)[note_of(parse_id(entry_id)[1])] = bytes(note)
            self.bundled -= len(found)
        return found

    def is_over(self, note: bytes) -> bool:
        return b"." not in note
