"""The line of a queue as queue.lua keeps it, on the simulated data.

A list is here what it stands for, [(segments, payload) …], without its chunks. What a step decides stands
in small methods, so that a mutation can spoil exactly one decision.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.redis_keys import GROUP
from engine.stores.redis.queue import MARK
from tests.simulation.redis_store import Store

_unpack = msgspec.msgpack.Decoder().decode
_MOVED_MAX = 256
_SLICES = 16


class Waiting:
    """One organisation in one step."""

    def __init__(self, organisation: bytes, waited: bool) -> None:
        self.organisation = organisation
        # Whether it had a turn when the step began.
        self.waited = waited
        self.start: float = -1
        self.served = False


class Line:
    """One step's view of a line."""

    def __init__(self, store: Store, keys: Any) -> None:
        self.store = store
        self.sms, self.wait, self.turns, self.ahead = keys
        kept = store.db.get(self.wait, {})
        self.messages = int(kept.get(b"messages", b"0"))
        self.time = float(kept.get(b"time", b"0"))
        self.busy = b"time" in kept
        self.mark = int(kept.get(b"mark", b"%d" % MARK))
        self.touched: dict[bytes, Waiting] = {}

    def aim(self, mark: int) -> None:
        if mark != self.mark:
            self.mark = mark
            self.store.hash(self.wait)[b"mark"] = b"%d" % mark

    def room(self) -> int:
        """How many more entries the ready stream takes."""
        stream = self.store.db.get(self.sms)
        if stream is None:
            return self.mark
        group = stream.groups.get(GROUP)
        return self.mark - len(stream.ids) + (len(group.pending) if group else 0)

    def is_open(self) -> bool:
        return self.messages == 0 and self.room() > 0

    def make_ready(self, payload: bytes) -> None:
        self.store.xadd(self.sms, [b"m", payload])

    def of(self, organisation: bytes) -> Waiting:
        if organisation not in self.touched:
            waited = organisation in self.store.db.get(self.turns, {})
            self.touched[organisation] = Waiting(organisation, waited)
        return self.touched[organisation]

    def enter(self, organisation: bytes, segments: int, payload: bytes) -> None:
        if self.is_open():
            self.make_ready(payload)
            return
        self.busy = True
        of = self.of(organisation)
        if not self.has_list(organisation):
            if of.start < 0:
                of.start = self.begins_at(organisation)
            if of.start <= self.time:
                of.start += segments
                self.make_ready(payload)
                return
        self.store.list_push(self.wait, organisation, segments, payload)
        self.messages += 1

    def has_list(self, organisation: bytes) -> bool:
        return organisation in self.store.db.get(self.wait, {})

    def begins_at(self, organisation: bytes) -> float:
        """The start time of the next message of an organisation without a list."""
        return max(self.time, self.store.hash(self.ahead).get(organisation, 0))  # type: ignore[call-overload,no-any-return]

    def serve(self, of: Waiting) -> None:
        """Move the first message of a list to the ready stream."""
        segments, payload = self.store.list_pop(self.wait, of.organisation)
        self.make_ready(payload)
        of.start += segments
        of.served = True
        self.messages -= 1

    def lost(self, organisation: bytes) -> None:
        """A message of a list was taken out, not by its turn."""
        of = self.of(organisation)
        of.start = float(self.store.db[self.turns][organisation])
        self.messages -= 1

    def next(self, turns: list[Waiting]) -> Waiting:
        """The one whose turn is first; of several, the one that has been first for longer."""
        return min(turns, key=lambda of: of.start)

    def refill(self) -> None:
        left = min(self.room(), _MOVED_MAX) if self.messages else 0
        turns = []
        for organisation in self.store.zrange(self.turns)[: max(0, left)]:
            of = self.of(organisation)
            of.start = float(self.store.db[self.turns][organisation])
            turns.append(of)
        while left > 0 and turns:
            of = self.next(turns)
            self.time = max(self.time, of.start)
            till = of.start + self.mark / _SLICES
            while left > 0 and of.start < till:
                self.serve(of)
                left -= 1
                if not self.has_list(of.organisation):
                    break
            turns.remove(of)
            if self.has_list(of.organisation):
                turns.append(of)

    def finish(self) -> int:
        if not self.busy:
            return 0
        for of in self.touched.values():
            if self.has_list(of.organisation) and not of.waited:
                self.take_turn(of)
                self.store.hash(self.ahead).pop(of.organisation, None)
                of.waited = True
        self.refill()
        if self.is_open():
            for key in (self.turns, self.ahead):
                self.store.db.pop(key, None)
            for field in (b"messages", b"time"):
                self.store.hash(self.wait).pop(field, None)
            return 0
        turns, ahead = self.store.hash(self.turns), self.store.hash(self.ahead)
        for of in self.touched.values():
            if self.has_list(of.organisation):
                if of.served:
                    turns[of.organisation] = of.start  # type: ignore[assignment]
            else:
                turns.pop(of.organisation, None)
                if of.start > self.time:
                    ahead[of.organisation] = of.start  # type: ignore[assignment]
        for organisation in [o for o, start in ahead.items() if start <= self.time]:  # type: ignore[operator]
            del ahead[organisation]
        self.store.hash(self.wait).update({b"messages": b"%d" % self.messages, b"time": b"%.17g" % self.time})
        return self.messages

    def take_turn(self, of: Waiting) -> None:
        """Begin to wait."""
        self.store.hash(self.turns)[of.organisation] = of.start  # type: ignore[assignment]


class LineFunctions:
    """The functions that only move messages, by name."""

    line = Line
    store: Store

    def promote(self, keys: Any, args: Any) -> list[int]:
        due = self.store.zrange(keys[0], args[0])[: args[1]]
        line = self.line(self.store, keys[1:5])
        line.aim(args[2])
        for payload in due:
            message = _unpack(payload)
            line.enter(b"%d" % message[1], message[6], payload)
            self.store.zrem(keys[0], payload)
        return [len(due), line.finish()]

    def sift(self, keys: Any, _: Any) -> list[Any]:
        line = self.line(self.store, keys)
        over = []
        for organisation, waiting in self.store.lists(keys[1]).items():
            for segments, payload in list(waiting):
                if _unpack(payload)[9] <= self.store.now_us():
                    self.store.list_take(keys[1], organisation, (segments, payload))
                    over.append(payload)
                    line.lost(organisation)
        for payload in sorted(over):
            line.make_ready(payload)
        line.finish()
        return [b"0", len(over)]

    def refill(self, keys: Any, args: Any) -> int:
        line = self.line(self.store, keys)
        line.aim(args[0])
        return line.finish()
