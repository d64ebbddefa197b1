"""`cancel` of queue.lua in Python, and random calls of it."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from engine.bundle_format import payloads_of, records_of
from engine.redis_keys import GROUP
from engine.stores.redis.cancels import IdRange, cancel
from tests.simulation.line import Line, LineFunctions
from tests.simulation.redis_store import format_id

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class Wanted:
    """What a call is to cancel, and what it has."""

    def __init__(self, organisation: int, first: str, last: str) -> None:
        self.organisation = organisation
        self.first, self.last = first, last
        self.canceled: list[Any] = []
        self.before: list[bytes] = []

    def read(self, payload: bytes) -> Any:
        message = _unpack(payload)
        if self.first <= message[0] <= self.last and message[1] == self.organisation:
            return message
        return None

    def take(self, payload: bytes) -> bool:
        message = self.read(payload)
        if message is None:
            return False
        if message[13]:
            self.before.append(message[0].encode())
            return False
        self.canceled.append(message)
        return True


class Canceling(LineFunctions):
    """The function, without where it looks first: it looks everywhere."""

    def canceled(self, keys: Any, args: Any) -> tuple[Line, Wanted, list[Any], list[bytes]]:
        """Take what is wanted from where it waits; the line, what was taken, the reply, and the rows."""
        queue, organisation, first, last, now_us, bundle_max = args[:6]
        line = self.line(self.store, keys[:4], bundle_max)
        wanted = Wanted(organisation, first, last)
        place, places, *times = args[9:]
        due = dict(self.store.db.get(keys[4], {}))
        self.cancel_due(keys[4], [p for p in self.store.zrange(keys[4]) if due[p] in times], wanted)
        self.cancel_due(keys[4], self.store.zrange(keys[4])[place : place + places], wanted)
        in_hand = self.cancel_ready(line, wanted)
        name = b"%d" % organisation
        waits = name in self.store.lists(line.wait)
        for item in list(self.store.lists(line.wait).get(name, [])):
            if wanted.take(item[1]):
                self.store.list_take(line.wait, name, item)
                self.taken(line, name)
        ids = [message[0].encode() for message in wanted.canceled]
        rows = [
            _pack(
                (max(now_us, m[8]), m[1], m[0], m[8], "canceled", queue, m[2], m[4], m[5], m[6], m[7], m[10],
                 "", "", "", 0, m[11], 0, 0, False, 0, "", m[14])
            )
            for m in wanted.canceled
        ]  # fmt: skip
        return line, wanted, [ids, in_hand, wanted.before, *([1, 1, 1, 1] if waits else [0, 0, 0, 0])], rows

    def cancel_due(self, key: bytes, payloads: list[bytes], wanted: Wanted) -> None:
        for payload in payloads:
            if wanted.take(payload):
                self.store.zrem(key, payload)

    def taken(self, line: Line, name: bytes) -> None:
        """A message was taken out of a list."""
        of = line.of(name)
        if not line.has_list(name) and not of.paused:
            of.start = float(self.store.db[line.turns][name])
        line.wait_more(of, -1)

    def cancel_ready(self, line: Line, wanted: Wanted) -> list[bytes]:
        stream = self.store.db.get(line.sms)
        in_hand: list[bytes] = []
        if stream is None:
            return in_hand
        given = stream.groups[GROUP].last if GROUP in stream.groups else (0, 0)
        for entry_id in list(stream.ids):
            fields = stream.fields[entry_id]
            messages = line.open_messages(format_id(entry_id), fields[1])
            ids = [m[0].encode() for m in map(wanted.read, messages) if m is not None]
            if not ids:
                continue
            if self.is_given(entry_id, given):
                in_hand += ids
            elif self.was_given(fields):
                wanted.before += ids
            else:
                self.cancel_unread(line, entry_id, fields[1], messages, wanted)
        return in_hand

    def is_given(self, entry_id: tuple[int, int], given: tuple[int, int]) -> bool:
        """Whether a worker has the entry in hand."""
        return entry_id <= given

    def was_given(self, fields: list[bytes]) -> bool:
        """Whether a worker had its message in hand before, in another entry."""
        return len(fields) > 2

    def cancel_unread(
        self, line: Line, entry_id: tuple[int, int], payload: bytes, messages: list[bytes], wanted: Wanted
    ) -> None:
        before = len(wanted.canceled)
        kept = [message for message in messages if not wanted.take(message)]
        is_bundle = len(payloads_of(payload)) > 1
        if len(wanted.canceled) == before:
            return
        self.store.xdel(line.sms, entry_id)
        if not is_bundle:
            return
        self.store.hash(line.wait).pop(b"part:%d" % entry_id[1], None)
        line.bundled -= len(messages) - 1
        line.changed = True
        segments = dict(zip(messages, [_unpack(m)[6] for m in messages], strict=True))
        if kept:
            line.make_all_ready([(self.segments_of(payload, m, segments[m]), m) for m in kept])

    def segments_of(self, payload: bytes, message: bytes, segments: int) -> int:
        """As its record in the bundle says: one whose place was not asked has 0."""
        return {m: of for of, m in records_of(payload, 12)}.get(message, segments)


def drawn(rng: Random, messages: int) -> tuple[Any, ...]:
    """(organisation, first and last number of a message, places of the due set) of one call."""
    first = max(1, messages - rng.randrange(80))
    return rng.choice((1, 2, 300, 70_000)), first, first + rng.choice((0, 0, 5, 40)), rng.choice((0, 0, 5))


def command(shard: int, organisation_id: int, first: int, last: int, places: int) -> Any:
    """The call as the engine's own adapter writes it: all of the list, and some of the due set."""
    range_ = IdRange("normal", organisation_id, f"m{first:07}", f"m{last:07}", f"m{first:07}")
    return cancel(shard, range_, 150, chunk=1, chunks=1 << 20, place=3, places=places, due_at_us=(100, 150))


def found(reply: Any) -> list[str]:
    """What a call has come upon."""
    return [what for what, ids in zip(("canceled", "in hand", "given before"), reply, strict=False) if ids]
