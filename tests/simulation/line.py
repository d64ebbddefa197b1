"""The line of a queue as functions/queue keeps it, on the simulated data.

A list is here what it stands for, [(segments, payload) …], without its chunks. What a step decides stands
in small methods, so that a mutation can spoil exactly one decision.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.bundle_format import record, records_of
from engine.redis_keys import GROUP
from tests.simulation.put_off import PutOff, packed_ways
from tests.simulation.ready import note_of
from tests.simulation.redis_store import Store, as_bytes, format_id

_unpack = msgspec.msgpack.Decoder().decode
_MOVED_MAX = 256
_TURNS_MIN, _ROUND, _STRETCH, _MUCH, _TURN = 4, 4, 32, 256, 16
_MANY, _SOME, _STRETCH_MANY = 1000, 64, 320
_GOLDEN = 0.6180339887498949


class Waiting:
    """One organisation in one step."""

    def __init__(self, organisation: bytes, waited: bool, weight: float, paused: bool) -> None:
        self.organisation = organisation
        # Whether it had a turn when the step began, and has one now.
        self.had = self.waited = waited
        self.start: float = -1
        self.served = False
        self.weight = weight
        self.paused = paused


class Line(PutOff):
    """One step's view of a line."""

    def __init__(self, store: Store, keys: Any, bundle_max: int = 1) -> None:
        super().__init__(store, keys, bundle_max)
        kept = store.db.get(self.wait, {})
        self.paused = int(kept.get(b"paused", b"0"))
        self.extra = float(kept.get(b"extra", b"0"))
        self.touched: dict[bytes, Waiting] = {}

    def of(self, organisation: bytes) -> Waiting:
        if organisation not in self.touched:
            waited = organisation in self.store.db.get(self.turns, {})
            limits = self.store.db.get(self.wait, {}).get(b"limits:" + organisation)
            self.touched[organisation] = Waiting(organisation, waited, *self.limits(limits))
        return self.touched[organisation]

    def limits(self, kept: bytes | None) -> tuple[float, bool]:
        """The weight, and whether it is paused."""
        weight, _, paused = (kept or b"1").partition(b" ")
        return float(weight), bool(paused)

    def count(self, field: bytes, by: int) -> None:
        hash_ = self.store.hash(self.wait)
        hash_[field] = b"%d" % (int(hash_.get(field, b"0")) + by)
        if hash_[field] == b"0":
            del hash_[field]

    def wait_more(self, of: Waiting, by: int) -> None:
        """So many messages came to a list, or left it."""
        if of.paused:
            self.count(b"parked", by)
        else:
            self.messages += by

    def enter(self, organisation: bytes, segments: int, payload: bytes) -> None:
        paused = self.paused > 0 and self.of(organisation).paused
        if not paused:
            if self.is_open():
                self.make_ready(segments, payload)
                return
            self.busy = True
        of = self.of(organisation)
        if not self.has_list(organisation) and not paused:
            if of.start < 0:
                of.start = self.begins_at(organisation)
            if of.start <= self.time:
                of.start += segments / of.weight
                self.make_ready(segments, payload)
                return
        self.store.list_push(self.wait, organisation, segments, payload)
        self.wait_more(of, 1)

    def put_back(self, organisation: bytes, payloads: list[bytes]) -> None:
        """Back to the front of a list, behind those there that are older."""
        of = self.of(organisation)
        if not of.paused:
            self.busy = True
            if not self.has_list(organisation) and of.start < 0:
                of.start = self.begins_at(organisation)
        at = 0
        for payload in sorted(payloads, key=lambda p: _unpack(p)[0]):
            message = _unpack(payload)
            there = self.store.lists(self.wait).get(organisation, [])
            while at < len(there) and _unpack(there[at][1])[0] < message[0]:
                at += 1
            self.store.list_push(self.wait, organisation, message[6], payload, at)
            at += 1
            self.wait_more(of, 1)

    def give_back(
        self,
        back: dict[bytes, list[bytes]],
        put_off: list[tuple[str, bytes]],
        emptied: frozenset[bytes] = frozenset(),
    ) -> None:
        """To the front of lists, with what lies unread of the same ones; and what does of `emptied`."""
        wanted = {("", organisation) for organisation in (*back, *emptied)}
        for to, payload in put_off:
            if self.comes_with_the_unread(to):
                wanted.add((to[1:].partition("\0")[0], b"%d" % _unpack(payload)[1]))
        for way, payload in self.take_unread(wanted) if wanted else ():
            if way:
                put_off.append((f"^{way}\0{way}", payload))
            else:
                back.setdefault(b"%d" % _unpack(payload)[1], []).append(payload)
        for organisation, payloads in back.items():
            self.put_back(organisation, payloads)
        if put_off:
            self.put_off(put_off)

    def comes_with_the_unread(self, to: str) -> bool:
        return to[0] == "^"

    def take_unread(self, wanted: set[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Take messages out of the ready stream that nobody was given; (way, payload) of each."""
        stream = self.store.db.get(self.sms)
        group = None if stream is None else stream.groups.get(GROUP)
        if stream is None or group is None:
            return []
        taken: list[tuple[str, bytes]] = []
        left, found = 0, False
        for entry_id in stream.behind(group.last, 1 << 30):
            fields = stream.fields[entry_id]
            way, given = fields[7].decode() if len(fields) > 6 else "", len(fields) > 2 and fields[3] != b"0"
            messages = self.open_messages(format_id(entry_id), fields[1])
            names = [b"%d" % _unpack(message)[1] for message in messages]
            found = found or (not given and any((way, name) in wanted for name in names))
            if not found:
                left += len(messages)
                continue
            self.take_entry(entry_id, len(messages))
            for name, message in zip(names, messages, strict=True):
                if not given and self.goes_back(wanted, way, name):
                    taken.append((way, message))
                    continue
                left += 1
                if way != self.recalled_way:
                    self.close_bundle()
                    self.recalled_way = way
                if given:
                    self.close_bundle()
                    self.add_entry(message, 1, int(fields[3]), fields[5])
                else:
                    self.make_ready(_unpack(message)[6], message)
        self.close_bundle()
        self.recalled_way = ""
        if found:
            self.leave_unread(left)
        return taken

    def goes_back(self, wanted: set[tuple[str, bytes]], way: str, organisation: bytes) -> bool:
        return (way, organisation) in wanted or self.of(organisation).paused

    def take_entry(self, entry_id: tuple[int, int], messages: int) -> None:
        """Take an entry out of the stream that nobody was given."""
        self.store.xdel(self.sms, entry_id)
        self.store.hash(self.wait).pop(note_of(entry_id[1]), None)
        self.bundled, self.changed = self.bundled - messages + 1, True

    def enter_all(self, count: int, index: bytes, records: bytes) -> None:
        """Let messages into the line, one record behind another."""
        of, some = _unpack(index), records_of(records)
        if not self.paused and self.is_open():
            if self.room() < count:
                self.count_in_hand()
            if self.room() >= count:
                self.make_all_ready(some)
                return
        organisations = [
            name.encode() for name, own in zip(of[::4], of[1::4], strict=True) for _ in range(own)
        ]
        for organisation, (segments, payload) in zip(organisations, some, strict=True):
            self.enter(organisation, segments, payload)

    def has_list(self, organisation: bytes) -> bool:
        return organisation in self.store.db.get(self.wait, {})

    def begins_at(self, organisation: bytes) -> float:
        """The start time of the next message of an organisation without a list."""
        return max(self.time, self.store.hash(self.ahead).get(organisation, 0))  # type: ignore[call-overload,no-any-return]

    def serve(self, of: Waiting) -> None:
        """Move the first message of a list to the ready stream."""
        segments, payload = self.store.list_pop(self.wait, of.organisation)
        self.make_ready(segments, payload)
        of.start += self.cost(of, segments)
        of.served = True
        self.messages -= 1

    def cost(self, of: Waiting, segments: int) -> float:
        """By how much a message moves the turn of its organisation on."""
        return segments / of.weight

    def lost(self, organisation: bytes) -> None:
        """A message of a list was taken out, not by its turn."""
        of = self.of(organisation)
        if not of.paused:
            of.start = float(self.store.db[self.turns][organisation])
        self.wait_more(of, -1)

    def next(self, turns: list[Waiting]) -> Waiting:
        """The one whose turn is first; of several, the one that has been first for longer."""
        return min(turns, key=lambda of: of.start)

    def refill(self) -> None:
        left = 0
        if self.messages and not self.lies:
            self.count_in_hand()
            left = min(self.room(), _MOVED_MAX)
        waiting, moment = max(1, len(self.store.db.get(self.turns, {}))), self.moment or self.mark
        stretch = _STRETCH if moment < _MUCH else 2 * _STRETCH
        weight = waiting + self.extra
        many = min((waiting - _MANY) / _SOME, _STRETCH_MANY * moment / weight)
        most = max(1, int(max(stretch * moment / weight, many)))
        turn = min(self.mark / _TURNS_MIN, most, max(_ROUND * moment / waiting, _TURN))
        turns = []
        # One that this step has emptied has its turn until the end of it.
        waits = [
            organisation for organisation in self.store.zrange(self.turns) if self.has_list(organisation)
        ]
        for organisation in waits[: max(0, left)]:
            of = self.of(organisation)
            of.start = float(self.store.db[self.turns][organisation])
            turns.append(of)
        while left > 0 and turns:
            of = self.next(turns)
            self.time = max(self.time, of.start)
            start, of.start = of.start, 0
            backlog = self.store.lists(self.wait)[of.organisation]
            slice_ = (turn if backlog.served else self.first_turn(of, turn)) / of.weight
            backlog.served = True
            while left > 0:
                self.serve(of)
                left -= 1
                if not self.has_list(of.organisation) or of.start >= slice_:
                    break
            of.start += start
            turns.remove(of)
            if self.has_list(of.organisation):
                turns.append(of)

    def first_turn(self, of: Waiting, turn: float) -> float:
        """The segments of the first turn of a list."""
        return 1 + int(int(of.organisation) * _GOLDEN % 1 * turn)

    def finish(self) -> int:
        self.keep_ways()
        if not self.busy:
            self.keep_ready()
            if not self.said:
                self.store.hash(self.wait).pop(b"mark", None)
            return 0
        for of in self.touched.values():
            if self.has_list(of.organisation) and not of.waited and not of.paused:
                self.take_turn(of)
                self.store.hash(self.ahead).pop(of.organisation, None)
                of.waited = True
        self.refill()
        self.keep_ready()
        if self.is_open():
            for key in (self.turns, self.ahead):
                self.store.db.pop(key, None)
            for field in (b"messages", b"time", b"extra", *([] if self.said else [b"mark"])):
                self.store.hash(self.wait).pop(field, None)
            return 0
        turns, ahead = self.store.hash(self.turns), self.store.hash(self.ahead)
        for of in [of for of in self.touched.values() if not of.paused]:
            has = self.has_list(of.organisation)
            self.extra += (has - of.had) * (of.weight - 1)
            if has:
                if of.served:
                    turns[of.organisation] = of.start  # type: ignore[assignment]
            else:
                turns.pop(of.organisation, None)
                if of.start > self.time:
                    ahead[of.organisation] = of.start  # type: ignore[assignment]
        for organisation in [o for o, start in ahead.items() if start <= self.time]:  # type: ignore[operator]
            del ahead[organisation]
        numbers = {b"messages": b"%d" % self.messages, b"time": b"%.17g" % self.time}
        self.store.hash(self.wait).update({**numbers, b"extra": b"%.17g" % self.extra})
        return max(1, int(10 * (len(turns) + self.extra) + 0.5)) if self.messages else 0

    def take_turn(self, of: Waiting) -> None:
        """Begin to wait."""
        self.store.hash(self.turns)[of.organisation] = of.start  # type: ignore[assignment]


class LineFunctions:
    """The functions that only move messages, by name."""

    line = Line
    store: Store

    def promote(self, keys: Any, args: Any) -> list[int]:
        due = self.store.zrange(keys[0], args[0])[: args[1]]
        line = self.line(self.store, keys[1:5], args[4])
        line.aim(args[2], args[3])
        for payload in due:
            message = _unpack(payload)
            if not line.paused and line.is_open():
                line.make_ready(0, payload)
            else:
                line.enter(b"%d" % message[1], message[6], payload)
        for payload in due:
            self.store.zrem(keys[0], payload)
        return [len(due), line.finish()]

    def limit(self, keys: Any, args: Any) -> int:
        known, version, whole, *flat = map(as_bytes, args)
        kept = self.store.hash(keys[0])
        if kept.get(b"version", b"") != known:
            return 0
        rows = {o: (float(w), p == b"1") for o, w, p in zip(*[iter(flat)] * 3, strict=True)}
        if whole:
            for organisation in [o for o in kept if o.isdigit() and o not in rows]:
                rows[organisation] = (1.0, False)
        notes = {note.partition(b":")[0]: note for note in kept.get(b"paused", b"").split()}
        streams = [self.store.db.get(keys[first]) for first in (1, 5)]
        last = b"".join(b":" + (format_id(s.last) if s else b"0-0") for s in streams)
        paused = [note for organisation, note in notes.items() if organisation not in rows]
        for organisation, (weight, is_paused) in rows.items():
            if is_paused:
                paused.append(notes.get(organisation, organisation + last))
            if weight == 1 and not is_paused:
                kept.pop(organisation, None)
            else:
                kept[organisation] = b""
        kept.update({b"version": version, b"paused": b" ".join(paused)})
        for first in (1, 5):
            for organisation, (weight, is_paused) in rows.items():
                self.limit_turns(keys[first : first + 4], organisation, weight, is_paused)
            line = self.line(self.store, keys[first : first + 4])
            line.busy = line.busy or line.messages > 0
            line.finish()
        return 1

    def limit_turns(self, keys: Any, organisation: bytes, weight: float, paused: bool) -> None:
        line = self.line(self.store, keys)
        kept, name = self.store.hash(line.wait), b"limits:" + organisation
        before, paused_before = line.limits(kept.get(name))
        if (weight, paused) == (before, paused_before):
            return
        line.count(b"limited", (weight != 1 or paused) - (name in kept))
        line.count(b"paused", paused - paused_before)
        line.limit_ways(organisation, (before, weight), (paused_before, paused))
        kept.pop(name, None)
        if weight != 1 or paused:
            kept[name] = b"%.17g" % weight + (b" paused" if paused else b"")
        waiting = len(self.store.lists(line.wait).get(organisation, ()))
        if not waiting:
            return
        extra = (0 if paused else weight - 1) - (0 if paused_before else before - 1)
        if extra:
            kept[b"extra"] = b"%.17g" % (line.extra + extra)
        if paused == paused_before:
            return
        turns, ahead = self.store.hash(line.turns), self.store.hash(line.ahead)
        source, target = (turns, ahead) if paused else (ahead, turns)
        target[organisation] = max(line.time, float(source.pop(organisation, 0)))  # type: ignore[assignment]
        line.count(b"parked", waiting if paused else -waiting)
        kept[b"messages"] = b"%d" % (line.messages + (-waiting if paused else waiting))

    def sift(self, keys: Any, args: Any) -> list[Any]:
        line = self.line(self.store, keys, args[2])
        over: list[bytes] = []
        asides = line.lists_aside()
        for organisation, waiting in self.store.lists(keys[1]).items():
            for segments, payload in list(waiting):
                if _unpack(payload)[9] <= self.store.now_us():
                    over.append(record(segments, payload))
                    if organisation in asides:
                        line.take_aside(*asides[organisation], (segments, payload))
                        continue
                    self.store.list_take(keys[1], organisation, (segments, payload))
                    line.lost(organisation)
        for of in sorted(over):
            line.make_all_ready(records_of(of))
        line.finish()
        return [b"0", len(over)]

    def recall(self, keys: Any, args: Any) -> list[Any]:
        number, text, count, segments_max, mark, moment, bundle_max, _ = args
        line = self.line(self.store, keys[:4], bundle_max)
        line.aim(mark, moment)
        moved = segments = 0
        found = [way for way in line.ways if (way.number, way.text) == (number, text)]
        for way in found:
            line.recalled_way = text
            moved, segments = line.serve_aside(way, min(count, _MOVED_MAX), segments_max)
            line.close_bundle()
            line.recalled_way = ""
            of_way = [of for of in line.asides.values() if of.changed and not of.messages]
            if of_way:
                line.give_back({}, [], frozenset(of.organisation for of in of_way))
        weight = line.finish()
        for way in found:
            if not way.messages and not line.turns_aside(way):
                way.over = True
                line.write_ways()
        return [moved, segments, packed_ways(self.store, keys[1]), weight]

    def refill(self, keys: Any, args: Any) -> int:
        line = self.line(self.store, keys, args[2])
        line.aim(args[0], args[1], None if args[3] == "" else args[3])
        return line.finish()
