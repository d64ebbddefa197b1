"""What is put off, as functions/queue keeps it beside a line, on the simulated data.

Of a list that has a turn, or had one and is not forgotten yet, the start stands in the field `start <list>`.
The ways are a tuple in the hash: of each its number, its text, its messages, its weight and its virtual time.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from tests.simulation.ready import Ready
from tests.simulation.redis_store import Store

_unpack = msgspec.msgpack.Decoder().decode
_pack = msgspec.msgpack.Encoder().encode
_MOVED_MAX = 256
_TURNS = 256


class Way:
    def __init__(self, number: int, text: str, messages: int = 0, weight: float = 0, time: float = 0) -> None:
        self.number, self.text, self.messages, self.weight, self.time = number, text, messages, weight, time
        self.over = False

    def turn(self, start: float, organisation: bytes) -> bytes:
        return struct.pack(">Hd", self.number, start) + organisation

    def kept(self) -> tuple[int, str, int, float, float]:
        return self.number, self.text, self.messages, self.weight, self.time


class Aside:
    """The list of one organisation in one way, in one step."""

    def __init__(self, way: Way, organisation: bytes, start: float | None, messages: int) -> None:
        self.way, self.organisation, self.start = way, organisation, start
        self.name = b"%b@%d" % (organisation, way.number)
        self.weight, self.paused = 1.0, False
        self.messages = messages
        self.had = False
        self.turn: float | None = None
        self.changed = self.over = False


def kept_ways(store: Store, wait: bytes) -> list[Way]:
    return [Way(*of) for of in store.db.get(wait, {}).get(b"ways", ())]


def packed_ways(store: Store, wait: bytes) -> bytes:
    """As the real hash has them; nothing was moved."""
    flat = [value for way in kept_ways(store, wait) for value in (*way.kept(), 0, 0, 0, 0, 0)]
    return _pack(flat) if flat else b""


class PutOff(Ready):
    """One step's view of what is put off beside a ready stream."""

    def __init__(self, store: Store, keys: Any, bundle_max: int = 1) -> None:
        super().__init__(store, keys, bundle_max)
        self.ways_key = b"ways" + self.turns[5:]
        self.put_off_count = int(store.db.get(self.wait, {}).get(b"put_off", b"0"))
        self._ways: list[Way] | None = None
        self.asides: dict[bytes, Aside] = {}

    def limits(self, kept: bytes | None) -> tuple[float, bool]:
        raise NotImplementedError

    @property
    def ways(self) -> list[Way]:
        if self._ways is None:
            self._ways = kept_ways(self.store, self.wait)
        return self._ways

    def way(self, text: str) -> Way:
        """The way with this text, made when there is none."""
        for way in self.ways:
            if way.text == text:
                return way
        taken = {way.number for way in self.ways}
        self.ways.append(Way(next(n for n in range(1, 1 << 16) if n not in taken), text))
        return self.ways[-1]

    def aside(self, way: Way, organisation: bytes) -> Aside:
        name = b"%b@%d" % (organisation, way.number)
        if name not in self.asides:
            kept = self.store.db.get(self.wait, {})
            start = kept.get(b"start " + name)
            of = Aside(way, organisation, None if start is None else float(start), len(kept.get(name, ())))
            of.weight, of.paused = self.limits(kept.get(b"limits:" + organisation))
            of.had = of.messages > 0 and not of.paused
            of.turn = None if of.paused else of.start
            self.asides[name] = of
        return self.asides[name]

    def count_aside(self, of: Aside, by: int) -> None:
        of.messages += by
        of.way.messages += by
        self.put_off_count += by
        of.changed = True

    def begin_aside(self, of: Aside) -> None:
        """Its turn begins, when it has nothing waiting."""
        if not of.messages:
            of.start = max(of.way.time, of.start or 0)

    def put_off(self, came: list[tuple[str, bytes]]) -> None:
        """`came`: of each message "@", "<" or "^", its way and from which it was recalled; and itself."""
        lists = [
            self.aside(self.way(to[1:].partition("\0")[0]), b"%d" % _unpack(payload)[1])
            for to, payload in came
        ]
        back: dict[bytes, list[bytes]] = {}
        for of, (to, payload) in zip(lists, came, strict=True):
            if self.comes_back(to):
                back.setdefault(of.name, []).append(payload)
        for name, payloads in back.items():
            self.begin_aside(self.asides[name])
            self.put_aside_back(self.asides[name], payloads)
        for of, (to, payload) in zip(lists, came, strict=True):
            if not self.comes_back(to):
                self.begin_aside(of)
                self.store.list_push(self.wait, of.name, _unpack(payload)[6], payload)
                self.count_aside(of, 1)

    def comes_back(self, to: str) -> bool:
        return to[0] != "@"

    def put_aside_back(self, of: Aside, payloads: list[bytes]) -> None:
        at = 0
        for payload in sorted(payloads, key=lambda p: _unpack(p)[0]):
            message = _unpack(payload)
            there = self.store.lists(self.wait).get(of.name, [])
            while at < len(there) and _unpack(there[at][1])[0] < message[0]:
                at += 1
            self.store.list_push(self.wait, of.name, message[6], payload, at)
            at += 1
            self.count_aside(of, 1)

    def take_aside(self, way: Way, organisation: bytes, item: tuple[int, bytes]) -> None:
        """Take a message out of a list, wherever it is."""
        of = self.aside(way, organisation)
        self.store.list_take(self.wait, of.name, item)
        self.count_aside(of, -1)

    def lists_aside(self) -> dict[bytes, tuple[Way, bytes]]:
        """The names of all lists, with the way and the organisation of each."""
        by_number = {way.number: way for way in self.ways}
        found = {}
        for name in self.store.lists(self.wait):
            organisation, _, number = name.partition(b"@")
            if number:
                found[name] = (by_number[int(number)], organisation)
        return found

    def turns_aside(self, way: Way) -> list[bytes]:
        members = self.store.db.get(self.ways_key, {})
        return sorted(m for m in members if m[:2] == struct.pack(">H", way.number))[:_TURNS]

    def serve_aside(self, way: Way, count: int, segments_max: int) -> tuple[int, int]:
        """Move messages of a way to the ready stream."""
        page = self.turns_aside(way)
        turns = [(*struct.unpack(">d", member[2:10]), member[10:]) for member in page]
        last = turns[-1][0] if len(page) == _TURNS else float("inf")
        moved = total = 0
        while turns and turns[0][0] <= last:
            start, organisation = turns[0]
            of = self.aside(way, organisation)
            if not of.messages:
                of.over = True
                turns.pop(0)
                continue
            if moved == count or total >= segments_max:
                break
            turns.pop(0)
            way.time = max(way.time, start)
            segments = self.move_aside(of)
            of.start = start + self.cost_aside(of, segments)
            moved, total = moved + 1, total + segments
            behind = sum(1 for other, _ in turns if other <= of.start)
            turns.insert(behind, (of.start, organisation))
        return moved, total

    def move_aside(self, of: Aside) -> int:
        """Move the first message of a list to the ready stream; its segments."""
        segments, payload = self.store.list_pop(self.wait, of.name)
        self.make_ready(segments, payload)
        self.count_aside(of, -1)
        return segments

    def cost_aside(self, of: Aside, segments: int) -> float:
        return segments / of.weight

    def keep_ways(self) -> None:
        """Write the turns and ways that this step has changed."""
        if self._ways is None:
            return
        kept, turns = self.store.hash(self.wait), self.store.hash(self.ways_key)
        for of in self.asides.values():
            has = of.messages > 0 and not of.paused
            of.way.weight += (has - of.had) * of.weight
            if of.over or (of.paused and not of.messages):
                kept.pop(b"start " + of.name, None)
                turns.pop(of.way.turn(of.turn or 0, of.organisation), None)
            elif of.changed:
                assert of.start is not None
                kept[b"start " + of.name] = b"%.17g" % of.start
                if not of.paused and of.turn != of.start:
                    if of.turn is not None:
                        turns.pop(of.way.turn(of.turn, of.organisation), None)
                    self.take_turn_aside(of)
        self.write_ways()

    def take_turn_aside(self, of: Aside) -> None:
        self.store.hash(self.ways_key)[of.way.turn(of.start or 0, of.organisation)] = b""

    def write_ways(self) -> None:
        kept = self.store.hash(self.wait)
        for way in self.ways:
            way.weight = way.weight if way.messages else 0
        left = tuple(way.kept() for way in self.ways if not way.over)
        if left:
            kept[b"ways"] = left  # type: ignore[assignment]
            kept[b"put_off"] = b"%d" % self.put_off_count
        else:
            kept.pop(b"ways", None)
            kept.pop(b"put_off", None)

    def limit_ways(
        self, organisation: bytes, weights: tuple[float, float], pauses: tuple[bool, bool]
    ) -> None:
        """Limits of an organisation, before and after."""
        kept, turns, ways = self.store.hash(self.wait), self.store.hash(self.ways_key), self.ways
        for way in ways:
            name = b"%b@%d" % (organisation, way.number)
            if b"start " + name not in kept:
                continue
            start, messages = float(kept[b"start " + name]), len(kept.get(name, ()))
            if messages:
                way.weight += (0 if pauses[1] else weights[1]) - (0 if pauses[0] else weights[0])
            if pauses == (False, True):
                turns.pop(way.turn(start, organisation), None)
                if not messages:
                    del kept[b"start " + name]
            elif pauses == (True, False):
                start = max(way.time, start)
                kept[b"start " + name] = b"%.17g" % start
                turns[way.turn(start, organisation)] = b""
        if ways:
            kept[b"ways"] = tuple(way.kept() for way in ways)  # type: ignore[assignment]
