"""The data of the simulated Redis, and the primitives that change it.

As far as the engine can see them; keys do not expire (a run is shorter than any time to
live). A `Watch` is told of everything that enters or leaves a queue, a usage stream or an
activity stream, below the functions, so that a wrong function cannot hide from it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from typing import Any, Protocol

from engine.bundle_format import payloads_of
from engine.stores.redis.wire import ReplyError
from tests.simulation.clock import Clock

StreamId = tuple[int, int]


def as_bytes(argument: bytes | str | int) -> bytes:
    if isinstance(argument, bytes):
        return argument
    return (argument if isinstance(argument, str) else str(argument)).encode()


def parse_id(text: bytes, missing: int = 0) -> StreamId:
    ms, _, sequence = text.partition(b"-")
    return int(ms), int(sequence) if sequence else missing


def format_id(entry_id: StreamId) -> bytes:
    return b"%d-%d" % entry_id


def run_id(life: int) -> bytes:
    """What a server process calls itself in this life, as Redis does: 40 digits of hex."""
    return hashlib.sha1(b"run %d" % life).hexdigest().encode()


class Watch(Protocol):
    """Hears of changes as they happen, and of each command's end."""

    def placed(self, shard: int, payload: bytes) -> None: ...
    def left(self, shard: int, payload: bytes) -> None: ...
    def used(self, shard: int, entry_id: StreamId, fields: list[bytes]) -> None: ...
    def cleared(self, shard: int) -> None: ...
    def recorded(self, shard: int, blob: bytes) -> None: ...
    def done(self, command: tuple[Any, ...], reply: Any) -> None: ...
    def fail(self, sentence: str) -> None: ...


class Backlog(list[tuple[int, bytes]]):
    """An organisation's list behind a ready stream."""

    # Whether a turn has moved anything of it.
    served = False


class Group:
    """A consumer group: what was given out and not acknowledged."""

    def __init__(self) -> None:
        self.last: StreamId = (0, 0)
        # id: [consumer, given at ms, how often]; in the order of the ids.
        self.pending: dict[StreamId, list[Any]] = {}
        self.consumers: set[bytes] = set()


class Stream:
    def __init__(self) -> None:
        self.last: StreamId = (0, 0)
        self.ids: list[StreamId] = []
        self.fields: dict[StreamId, list[bytes]] = {}
        # Of bundles: the places of the messages that are settled.
        self.settled: dict[StreamId, list[int]] = {}
        self.groups: dict[bytes, Group] = {}

    def behind(self, position: StreamId, count: int) -> list[StreamId]:
        first = bisect_right(self.ids, position)
        return self.ids[first : first + count]

    def remove(self, entry_id: StreamId) -> list[bytes] | None:
        fields = self.fields.pop(entry_id, None)
        if fields is not None:
            del self.ids[bisect_left(self.ids, entry_id)]
        return fields


class Store:
    """The data, and the primitives that change it."""

    def __init__(self, clock: Clock, watch: Watch) -> None:
        self.clock = clock
        self.watch = watch
        self.db: dict[bytes, Any] = {}
        # Of the server process, and how far its clock is from the one of the world.
        self.run = run_id(0)
        self.skew_ms = 0
        # Every id that an entry of a ready stream ever had, also where the data went back.
        self._names: set[tuple[bytes, StreamId]] = set()
        # Streams that grew during the present command.
        self.grown: set[bytes] = set()
        self._kinds: dict[bytes, tuple[str, int]] = {}

    def kind(self, key: bytes) -> tuple[str, int]:
        """What a key is for, and its shard."""
        known = self._kinds.get(key)
        if known is None:
            text = key.decode()
            head, _, rest = text.partition(":{")
            shard, _, tail = rest.partition("}")
            kind = {
                "sms": "place",
                "due": "place",
                "dead": "place",
                "wait": "place",
                "activity": "activity",
            }.get(head, "")
            if head == "credit" and tail == ":usage":
                kind = "usage"
            known = self._kinds[key] = (kind, int(shard) if shard else -1)
        return known

    def stream(self, key: bytes) -> Stream:
        stream = self.db.get(key)
        if stream is None:
            stream = self.db[key] = Stream()
        return stream

    def hash(self, key: bytes) -> dict[bytes, bytes]:
        return self.db.setdefault(key, {})

    def now_us(self) -> int:
        """By the clock of the server."""
        return self.clock.now_us() + self.skew_ms * 1000

    def now_ms(self) -> int:
        return self.now_us() // 1000

    def clear(self, key: bytes) -> None:
        """DEL of a usage stream."""
        self.db.pop(key, None)
        self.watch.cleared(self.kind(key)[1])

    def xadd(self, key: bytes, fields: list[bytes], entry_id: StreamId | None = None) -> bytes:
        stream = self.stream(key)
        now: StreamId = (self.now_ms(), 0)
        if entry_id is None:
            entry_id = now if now > stream.last else (stream.last[0], stream.last[1] + 1)
        elif entry_id <= stream.last:
            raise ReplyError(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item"
            )
        elif self.kind(key)[0] == "place":
            self._name(key, entry_id)
        stream.last = entry_id
        stream.ids.append(entry_id)
        stream.fields[entry_id] = fields
        self.grown.add(key)
        kind, shard = self.kind(key)
        if kind == "place":
            for payload in payloads_of(fields[1]):
                self.watch.placed(shard, payload)
        elif kind == "usage":
            self.watch.used(shard, entry_id, fields)
        elif kind == "activity":
            self.watch.recorded(shard, fields[1])
        return format_id(entry_id)

    def _name(self, key: bytes, entry_id: StreamId) -> None:
        """An entry of a ready stream is given an id that no other ever had."""
        if (key, entry_id) in self._names:
            self.watch.fail(f"another entry of {key.decode()} had the id {format_id(entry_id).decode()}")
        self._names.add((key, entry_id))

    def xdel(self, key: bytes, entry_id: StreamId) -> int:
        stream = self.stream(key)
        fields = stream.remove(entry_id)
        if fields is None:
            return 0
        kind, shard = self.kind(key)
        settled = stream.settled.pop(entry_id, [])
        if kind == "place":
            for place, payload in enumerate(payloads_of(fields[1])):
                if place not in settled:
                    self.watch.left(shard, payload)
        return 1

    def settle_part(self, key: bytes, entry_id: StreamId, places: list[int]) -> None:
        """Messages of a bundle leave it."""
        stream = self.stream(key)
        payloads = payloads_of(stream.fields[entry_id][1])
        for place in places:
            stream.settled.setdefault(entry_id, []).append(place)
            self.watch.left(self.kind(key)[1], payloads[place])

    def xack(self, key: bytes, group: bytes, entry_id: StreamId) -> int:
        found = self.stream(key).groups.get(group)
        return 0 if found is None or found.pending.pop(entry_id, None) is None else 1

    def list_push(
        self, key: bytes, organisation: bytes, segments: int, payload: bytes, at: int | None = None
    ) -> None:
        """Add to an organisation's list behind a ready stream, [(segments, payload) …]; `at`: where."""
        waiting: Any = self.hash(key).setdefault(organisation, Backlog())  # type: ignore[arg-type]
        waiting.insert(len(waiting) if at is None else at, (segments, payload))
        self.watch.placed(self.kind(key)[1], payload)

    def list_pop(self, key: bytes, organisation: bytes) -> tuple[int, bytes]:
        """Take out the first; an empty list is none."""
        waiting: Any = self.hash(key)[organisation]
        first: tuple[int, bytes] = waiting.pop(0)
        if not waiting:
            del self.hash(key)[organisation]
        self.watch.left(self.kind(key)[1], first[1])
        return first

    def list_take(self, key: bytes, organisation: bytes, item: tuple[int, bytes]) -> None:
        """Take out one that is anywhere in a list."""
        waiting: Any = self.hash(key)[organisation]
        waiting.remove(item)
        if not waiting:
            del self.hash(key)[organisation]
        self.watch.left(self.kind(key)[1], item[1])

    def lists(self, key: bytes) -> dict[bytes, Backlog]:
        """The lists behind a ready stream, by organisation."""
        return {name: value for name, value in self.db.get(key, {}).items() if isinstance(value, Backlog)}

    def zadd(self, key: bytes, score: float, member: bytes) -> None:
        members = self.hash(key)
        if member not in members:
            self.watch.placed(self.kind(key)[1], member)
        members[member] = score  # type: ignore[assignment]

    def zrem(self, key: bytes, member: bytes) -> None:
        if self.hash(key).pop(member, None) is not None:
            self.watch.left(self.kind(key)[1], member)

    def zrange(self, key: bytes, score_max: float | None = None) -> list[bytes]:
        members = sorted((score, member) for member, score in self.db.get(key, {}).items())
        return [member for score, member in members if score_max is None or score <= score_max]

    def xclaim(
        self, key: bytes, group: bytes, consumer: bytes, idle_ms: int, entry_id: StreamId, given: int | None
    ) -> list[Any]:
        """[[id, fields]] when it was idle for so long and is now the consumer's."""
        stream = self.stream(key)
        found = stream.groups[group]
        found.consumers.add(consumer)
        pending = found.pending.get(entry_id)
        now_ms = self.now_ms()
        if pending is None or max(0, now_ms - pending[1]) < idle_ms:
            return []
        if entry_id not in stream.fields:
            del found.pending[entry_id]
            return []
        pending[:] = [consumer, now_ms, pending[2] + 1 if given is None else given]
        return [[format_id(entry_id), stream.fields[entry_id]]]

    def xpending(
        self, key: bytes, group: bytes, idle_ms: int, start: bytes, count: int, consumer: bytes
    ) -> list[Any]:
        """[[id, consumer, idle ms, times given] ...]"""
        first, beyond = (
            ((0, 0), False) if start == b"-" else (parse_id(start.lstrip(b"(")), start[:1] == b"(")
        )
        now_ms = self.now_ms()
        found = []
        for entry_id, (owner, at_ms, given) in self.group(key, group).pending.items():
            if owner != consumer or entry_id < first or (beyond and entry_id == first):
                continue
            idle = max(0, now_ms - at_ms)
            if idle >= idle_ms and len(found) < count:
                found.append([format_id(entry_id), owner, idle, given])
        return found

    def group(self, key: bytes, group: bytes) -> Group:
        found = self.db[key].groups.get(group) if key in self.db else None
        if found is None:
            raise ReplyError("NOGROUP No such key or consumer group")
        return found  # type: ignore[no-any-return]
