"""`functions/queue` and `inbox.lua` in Python: the same atomic steps, on the simulated data.

Written from the Lua line by line; `test_model.py` holds both against each other. What a
step decides stands in small methods, so that a mutation can spoil exactly one decision.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from engine.bundle_format import payloads_of
from engine.redis_keys import GROUP
from engine.stores.redis.queue import MARK
from engine.stores.redis.wire import ReplyError
from tests.simulation.canceling import Canceling, Wanted
from tests.simulation.held import Held
from tests.simulation.line import Line, LineFunctions
from tests.simulation.put_off import packed_ways
from tests.simulation.ready import note_of, ready_id
from tests.simulation.redis_notes import Notes
from tests.simulation.redis_store import Group, Store, format_id, parse_id
from tests.simulation.redis_store import as_bytes as _b

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
# inbox.lua
_FIRST = 1 << 44
_MOVED_MAX = 256


def _array_of(blobs: list[bytes], count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + b"".join(blobs)


class Chain:
    """The end of a usage stream."""

    def __init__(self, store: Store, usage: bytes, head_key: bytes) -> None:
        head = store.db.get(head_key, {})
        self.store = store
        self.usage = usage
        self.head = head_key
        self.link: bytes = head.get(b"link", b"")
        self.unseen = b"run" in head and head[b"run"] != store.run
        self.since: bytes | None = head.get(b"since")

    def append(self, kind: bytes, holder: bytes, epoch: bytes, data: bytes) -> None:
        if self.unseen and self.since is None:
            stream = self.store.db.get(self.usage)
            self.since = format_id(stream.last) if stream is not None else b"0-0"
            self.store.hash(self.head)[b"since"] = self.since
        fields = [b"k", kind, b"h", holder, b"e", epoch, b"d", data, b"p", self.link]
        entry_id = self.store.xadd(self.usage, fields)
        self.link = (
            hashlib.sha1(b"\n".join((self.link, entry_id, kind, holder, epoch, data))).hexdigest().encode()
        )

    def keep(self) -> None:
        self.store.hash(self.head)[b"link"] = self.link

    def behind(self, position: bytes) -> list[list[bytes]]:
        stream = self.store.db.get(self.usage)
        return (
            [] if stream is None else [stream.fields[i] for i in stream.behind(parse_id(position), 1 << 30)]
        )

    def link_at(self, position: bytes) -> bytes:
        behind = self.behind(position)
        return behind[0][9] if behind else self.link


class Closing(Held):
    """What closes a lost shard and lets it live again."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def end_epoch(self, key: bytes) -> int:
        holder = self.store.hash(key)
        epoch = int(holder.get(b"epoch", b"0")) + 1
        holder[b"epoch"] = b"%d" % epoch
        return epoch

    def begin(self, keys: Any, args: Any) -> int:
        seen, name = self.store.db.get(keys[0]), _b(args[0])
        if _b(args[1]) != self.store.run or seen not in (None, name, b"closing:" + name):
            return 0
        self.store.db[keys[0]] = name
        head = self.store.hash(keys[1])
        head[b"run"] = self.store.run
        head.pop(b"since", None)
        return 1

    def seal(self, keys: Any, args: Any) -> bytes | int | None:
        seen = self.store.db.get(keys[0]) or b""
        if seen != _b(args[0]):
            return None
        if set(self.store.hash(keys[1])) != set(map(_b, args[5:])):
            return 0
        self.store.db[keys[0]] = b"closing:" + _b(args[1])
        for holder, inbox in zip(keys[4::2], keys[5::2], strict=True):
            self.end_epoch(holder)
            self.store.db.pop(inbox, None)
        self.store.db.pop(keys[1], None)
        head = self.store.hash(keys[3])
        if b"from" not in head:
            head[b"from"] = self.not_in_books(Chain(self.store, *keys[2:4]), seen, *map(_b, args[2:5]))
        return head[b"from"]

    def not_in_books(
        self, chain: Chain, seen: bytes, generation: bytes, position: bytes, link: bytes
    ) -> bytes:
        if chain.link_at(position) == link:
            return b"(" + position
        if seen.startswith(b"closing:") and seen != b"closing:" + generation:
            return b"-"
        if chain.since is not None:
            return b"(" + chain.since
        stream = self.store.db.get(chain.usage)
        return b"(" + (b"0-0" if stream is None else format_id(stream.last))

    def close(self, keys: Any, args: Any) -> list[list[int]] | None:
        if self.store.db.get(keys[0]) != b"closing:" + _b(args[0]):
            return None
        # [held, used, captured, released]
        sums: dict[int, list[int]] = {}

        def add(org: int, *units: int) -> None:
            of = sums.setdefault(org, [0, 0, 0, 0])
            of[:] = [a + b for a, b in zip(of, units, strict=True)]

        for org, *units in zip(*[iter(args[2:])] * 4, strict=True):
            add(org, 0, *units)
        for fields in Chain(self.store, *keys[1:3]).behind(_b(args[1]).lstrip(b"(-") or b"0-0"):
            if fields[1] == b"usage":
                flat = _unpack(fields[7])
                for org, used in zip(flat[::2], flat[1::2], strict=True):
                    add(org, 0, used, 0, 0)
            elif fields[1] == b"settle":
                flat = _unpack(fields[7])
                for org, captured, released in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
                    add(org, 0, 0, captured, released)
        for org, held in self.tally(keys[3:], ()):
            add(org, held, 0, 0, 0)
        settled = [v for org, (_, _, c, r) in sums.items() if c + r for v in (org, c, r)]
        self.store.clear(keys[1])
        head = self.store.db[keys[2]] = {b"link": _b(args[0]), b"run": self.store.run}
        if settled:
            chain = Chain(self.store, *keys[1:3])
            chain.append(b"settle", b"", b"0", _pack(settled))
            head[b"link"] = chain.link
        return [[org, held + c + r, used] for org, (held, used, c, r) in sums.items()]


class Settling(Closing, LineFunctions):
    """What becomes of entries."""

    def unread(self, keys: Any, args: Any) -> list[Any]:
        after = max(parse_id(args[0]), self.store.group(keys[0], GROUP).last)
        stream, notes, found, messages = self.store.stream(keys[0]), self.store.db.get(keys[1], {}), [], 0
        for entry_id in stream.behind(after, 1 << 30):
            if messages >= args[1]:
                return [found, 1]
            fields, name = stream.fields[entry_id], format_id(entry_id)
            found.append([name, fields, notes.get(note_of(entry_id[1]), b"")])
            messages += len(payloads_of(fields[1]))
        # Whether there is more is not looked at, when the last one has filled it up.
        return [found, int(messages >= args[1])]

    def due_in(self, keys: Any, args: Any) -> list[Any]:
        times = [self.due_at(keys[i], keys[i + 1], args[0]) for i in range(0, len(keys), 2)]
        return [times, [packed_ways(self.store, wait) for wait in keys[1::2]]]

    def due_at(self, due: bytes, wait: bytes, mark: int) -> int:
        known = self.store.db.get(wait, {})
        if b"time" in known or int(known.get(b"mark", MARK)) != mark:
            return 0
        return min(self.store.db.get(due, {}).values(), default=-1)

    def unread_in(self, keys: Any, _: Any) -> list[int]:
        return [int(self.is_unread(keys[i], keys[i + 1])) for i in range(0, len(keys), 2)]

    def is_unread(self, sms: bytes, wait: bytes) -> bool:
        waiting = self.store.db.get(wait, {})
        if any(int(waiting.get(field, 0)) for field in (b"messages", b"parked", b"put_off")):
            return True
        try:
            given = self.store.group(sms, GROUP).last
        except ReplyError:
            return True
        return any(entry_id > given for entry_id in self.store.stream(sms).fields)

    def pending_in(self, keys: Any, args: Any) -> list[int]:
        name = _b(args[0])
        return [self.is_pending(keys[i], keys[i + 1], name) for i in range(0, len(keys), 2)]

    def is_pending(self, sms: bytes, holders: bytes, name: bytes) -> int:
        try:
            group = self.store.group(sms, GROUP)
        except ReplyError:
            return 3
        busy = {consumer for consumer, *_ in group.pending.values()}
        others = group.consumers - {name}
        return (name in busy) + 2 * any(c in busy or c not in self.store.db.get(holders, {}) for c in others)

    def settle_unread(self, keys: Any, args: Any) -> list[int]:
        given = self.store.group(keys[0], GROUP).last
        return self.settle(keys, args, given)

    def settle(self, keys: Any, args: Any, given: tuple[int, int] | None = None) -> list[int]:
        name, mark, moment, bundle_max, wholes, _, _, parts, _, dues, _, _, blob, _, details = args[:15]
        line = self.line(self.store, keys[:4], bundle_max)
        ids, rest = list(args[15 : 15 + wholes]), args[15 + wholes :]
        sizes = [0] * wholes + [rest[3 * i + 1] for i in range(parts)]
        ids += [rest[3 * i] for i in range(parts)]
        due, dead = rest[3 * parts :][: 2 * dues], rest[3 * parts + 2 * dues :]
        at, counted = 0, 0
        rows: list[bytes] = []
        sums: dict[int, list[int]] = {}
        back: dict[bytes, list[bytes]] = {}
        put_off: list[tuple[str, bytes]] = []
        puts: list[tuple[int, int]] = []
        # Whole entries count first, as in one step.
        of = [list(zip(*[iter(flat)] * 6, strict=True)) for flat in _unpack(details)]
        counts = [
            self.settle_entry(line, entry_id, size or len(messages), messages, given, whole=not size)
            for entry_id, size, messages in zip(ids, sizes, of, strict=True)
        ]
        for messages, found in zip(of, counts, strict=True):
            for place, org, captured, released, size, put in messages:
                row = blob[at : at + size]
                at += size
                if place not in found:
                    continue
                counted += 1
                rows += [row] if row else []
                if put > 0:
                    puts.append((put, org))
                elif put < 0:
                    self.store.xadd(keys[5], [b"m", dead[-put - 1]])
                else:
                    of_org = sums.setdefault(org, [0, 0])
                    of_org[0] += captured
                    of_org[1] += released
        for put, org in sorted(puts):
            to, payload = due[2 * put - 2 : 2 * put]
            if isinstance(to, str):
                put_off.append((to, payload))
            elif not to:
                back.setdefault(b"%d" % org, []).append(payload)
            else:
                self.store.zadd(keys[4], to, payload)
        if rows:
            self.store.xadd(keys[6], [b"b", _array_of(rows, len(rows))])
        if sums:
            flat = [value for org, pair in sums.items() for value in (org, *pair)]
            chain = Chain(self.store, *keys[7:9])
            chain.append(b"settle", _b(name), b"0", _pack(flat))
            chain.keep()
            self.hold(*keys[9:11], {org: -captured - released for org, (captured, released) in sums.items()})
        line.aim(mark, moment)
        line.give_back(back, put_off)
        return [counted, line.finish()]

    def settle_entry(
        self, line: Line, entry_id: bytes, size: int, messages: Any, given: Any, *, whole: bool
    ) -> set[int]:
        """Settle messages of one entry; the places of those that count."""
        entry, places = parse_id(entry_id), [place for place, *_ in messages]
        if whole and (size == 1 or line.noted(entry_id) is None):
            if given is not None:
                left = entry > given and self.store.xdel(line.sms, entry)
            else:
                left = self.acknowledge(line.sms, entry)
                if left:
                    self.store.xdel(line.sms, entry)
            if left and size > 1:
                line.bundled, line.changed = line.bundled - size + 1, True
            return set(places) if left else set()
        stream = self.store.stream(line.sms)
        if given is not None:
            is_open = entry > given and entry in stream.fields
        else:
            is_open = entry in stream.groups[GROUP].pending if GROUP in stream.groups else False
        return line.settle_part(entry_id, size, places, is_open)

    def acknowledge(self, key: bytes, entry_id: tuple[int, int]) -> int:
        return self.store.xack(key, GROUP, entry_id)

    def take_over(self, keys: Any, args: Any) -> list[Any]:
        name, min_idle_ms, limit, suspects, deliveries_max = _b(args[0]), *args[1:]
        taken: list[list[Any]] = []
        passed = apart = 0
        line = self.line(self.store, keys[:4])
        group = self.store.group(keys[0], GROUP)
        stream = self.store.stream(keys[0])
        alive = self.store.hash(keys[4])
        for consumer in sorted(group.consumers):
            if consumer == name or len(taken) >= limit:
                continue
            pending = self.store.xpending(keys[0], GROUP, 0, b"-", 1 << 30, consumer)
            if not pending:
                if consumer not in alive:
                    group.consumers.discard(consumer)
                continue
            idle_ms = min_idle_ms if consumer in alive else 0
            for entry_id, _, idle, given in pending:
                if idle < idle_ms or len(taken) >= limit or apart >= _MOVED_MAX:
                    continue
                fields = stream.fields[parse_id(entry_id)]
                deliveries = given + (int(fields[3]) if len(fields) > 2 else 0)
                if len(payloads_of(fields[1])) > 1:
                    apart += self.take_apart(line, entry_id, fields, deliveries)
                    continue
                if deliveries == deliveries_max - 1 and suspects == 0:
                    passed += 1
                    continue
                claimed = self.store.xclaim(keys[0], GROUP, name, idle_ms, parse_id(entry_id), None)
                if claimed:
                    taken.append([entry_id, fields, given + 1])
                    suspects -= deliveries == deliveries_max - 1
        line.keep_ready()
        return [taken, passed, apart]

    def take_apart(self, line: Line, entry_id: bytes, fields: list[bytes], deliveries: int) -> int:
        """Make each message of a bundle that is not settled an entry of its own."""
        messages = line.open_messages(entry_id, fields[1])
        # They stay in the stream: for whoever watches, they leave it before they come again.
        self.store.xack(line.sms, GROUP, parse_id(entry_id))
        self.store.xdel(line.sms, parse_id(entry_id))
        self.store.hash(line.wait).pop(note_of(parse_id(entry_id)[1]), None)
        for message in messages:
            line.add_entry(message, 1, deliveries, ready_id(parse_id(entry_id), fields))
        line.bundled -= len(messages) - 1
        return len(messages)


class Letters(Closing):
    """What becomes of dead letters."""

    def replay(self, keys: Any, args: Any) -> int:
        if not self.takes_away(keys[0], args[0]):
            return 0
        self.store.zadd(keys[1], args[1], args[2])
        self.store.xadd(keys[2], [b"b", _array_of([args[3]], 1)])
        return 1

    def drop(self, keys: Any, args: Any) -> int:
        if not self.takes_away(keys[0], args[0]):
            return 0
        _, org, units, row = args
        self.store.xadd(keys[1], [b"b", _array_of([row], 1)])
        chain = Chain(self.store, *keys[2:4])
        chain.append(b"settle", b"", b"0", _pack([org, 0, units]))
        chain.keep()
        self.hold(*keys[4:6], {org: -units})
        return 1

    def takes_away(self, dead: bytes, entry_id: str) -> bool:
        return bool(self.store.xdel(dead, parse_id(_b(entry_id))))


class Cancels(Closing, Canceling):
    """What is taken back."""

    def cancel(self, keys: Any, args: Any) -> list[Any]:
        return self._record_canceled(keys, *self.canceled(keys, args))

    def cancel_campaign(self, keys: Any, args: Any) -> list[Any]:
        return self._record_canceled(keys, *self.canceled_of_campaign(keys, args))

    def _record_canceled(
        self, keys: Any, line: Line, wanted: Wanted, reply: list[Any], rows: list[bytes]
    ) -> list[Any]:
        if wanted.canceled:
            units = sum(message[7] for message in wanted.canceled)
            self.store.xadd(keys[5], [b"b", _array_of(rows, len(rows))])
            chain = Chain(self.store, *keys[6:8])
            chain.append(b"settle", b"", b"0", _pack([wanted.organisation, 0, units]))
            chain.keep()
            self.hold(*keys[8:10], {wanted.organisation: -units})
        line.finish()
        return reply


class Functions(Settling, Letters, Cancels, Notes):
    """The functions by name."""

    # -- holders

    def register(self, keys: Any, args: Any) -> int:
        holder = self.store.hash(keys[0])
        epoch = self.next_epoch(int(holder.get(b"epoch", b"0")))
        holder[b"epoch"] = b"%d" % epoch
        holder[b"seq"] = b"0"
        self.store.hash(keys[1])[_b(args[0])] = b"%d" % self.store.now_ms()
        return epoch

    def next_epoch(self, before: int) -> int:
        return max(before + 1, self.store.now_us())

    def beat(self, keys: Any, args: Any) -> int:
        holders = self.store.hash(keys[0])
        name = _b(args[0])
        if name not in holders or (len(keys) > 1 and self.is_behind(keys[1], _b(args[1]), args[2])):
            return 0
        holders[name] = b"%d" % self.store.now_ms()
        return 1

    def is_behind(self, key: bytes, epoch: bytes, seq: int) -> bool:
        known = self.store.db.get(key, {})
        return known.get(b"epoch") != epoch or int(known[b"seq"]) < seq

    def overdue(self, keys: Any, args: Any) -> list[bytes]:
        before = self.store.now_ms() - int(args[0])
        return [name for name, at_ms in self.store.hash(keys[0]).items() if int(at_ms) < before]

    def fence(self, keys: Any, args: Any) -> int:
        name = _b(args[0])
        if name not in self.store.hash(keys[1]):
            return 0
        chain = Chain(self.store, *keys[2:4])
        epoch = self.end_epoch(keys[0])
        chain.append(b"fence", name, b"%d" % (epoch - 1), b"")
        chain.keep()
        self.store.db.pop(keys[4], None)
        del self.store.hash(keys[1])[name]
        return 1

    # -- admit

    def report(self, keys: Any, args: Any) -> list[Any]:
        return self.admit(keys, args)

    def admit(self, keys: Any, args: Any) -> list[Any]:
        name, epoch, seq = _b(args[0]), _b(args[1]), int(args[2])
        holder = self.store.db.get(keys[0]) or {}
        stored = self.stored_outcome(holder, epoch, seq)
        if stored is not None:
            return [b"applied", stored, int(holder[b"size"])]
        if self.epoch_is_over(holder, epoch) or not self.generation_is_named(keys[16]):
            return [b"fenced", [], 0]
        if not self.is_next(holder, seq):
            return [b"fenced", [], 0]
        chain = Chain(self.store, *keys[12:14])
        if self.is_unseen(chain):
            return [b"unseen", [], 0]

        sums: dict[int, int] = {}
        rows: list[bytes] = []
        hits: list[list[Any]] = []
        lines: dict[bytes, Line] = {}
        row_count, at, key = 0, 8, 17
        for _ in range(args[7]):
            index, kept, units, n_rows, some, pieces, dues = args[at : at + 7]
            first = at + 7
            due = first + 4 * pieces
            at = due + 3 * dues
            key += kept != b""
            hit = self.used_before(keys[key], kept) if kept else None
            if hit:
                hits.append([index, *hit])
                continue
            for queue, count, of, records in zip(*[iter(args[first:due])] * 4, strict=True):
                if queue not in lines:
                    own = keys[1:5] if queue == b"e" else keys[5:9]
                    lines[queue] = self.line(self.store, own, args[6])
                lines[queue].enter_all(count, of, records)
            for queue, due_at_us, payload in zip(*[iter(args[due:at])] * 3, strict=True):
                self.store.zadd(keys[9 if queue == b"e" else 10], due_at_us, payload)
            flat = _unpack(units)
            for org, of in zip(flat[::2], flat[1::2], strict=True):
                sums[org] = sums.get(org, 0) + of
            rows.append(some)
            row_count += n_rows

        for queue in sorted(lines):
            lines[queue].finish()
        if row_count:
            self.store.xadd(keys[11], [b"b", _array_of(rows, row_count)])
        if sums:
            flat = [value for pair in sums.items() for value in pair]
            chain.append(b"usage", name, epoch, _pack(flat))
            self.hold(*keys[14:16], sums)
        for i in range(at, at + 2 * int(args[5]), 2):
            chain.append(_b(args[i]), name, epoch, args[i + 1])
        chain.keep()
        self.remember(keys[0], epoch, seq, hits, int(args[4]))
        return [b"applied", hits, int(args[4])]

    def stored_outcome(self, holder: dict[bytes, bytes], epoch: bytes, seq: int) -> list[Any] | None:
        if holder.get(b"applied") != b"%b:%d" % (epoch, seq):
            return None
        reply = holder.get(b"reply", b"")
        return _unpack(reply) if reply else []

    def epoch_is_over(self, holder: dict[bytes, bytes], epoch: bytes) -> bool:
        return holder.get(b"epoch") != epoch

    def generation_is_named(self, key: bytes) -> bool:
        generation = self.store.db.get(key)
        return generation is not None and not generation.startswith(b"closing:")

    def is_unseen(self, chain: Chain) -> bool:
        return chain.unseen

    def is_next(self, holder: dict[bytes, bytes], seq: int) -> bool:
        return seq == int(holder.get(b"seq", b"0")) + 1

    def used_before(self, key: bytes, kept: bytes) -> list[bytes] | None:
        known = self.store.db.get(key)
        if known is not None:
            size = known[0]
            return [known[1 : size + 1], known[size + 1 :]]
        self.store.db[key] = kept
        return None

    def remember(self, key: bytes, epoch: bytes, seq: int, hits: list[Any], size: int) -> None:
        self.store.hash(key).update(
            {
                b"seq": b"%d" % seq,
                b"reply": _pack(hits) if hits else b"",
                b"applied": b"%b:%d" % (epoch, seq),
                b"size": b"%d" % size,
            }
        )

    def announce(self, keys: Any, args: Any) -> int:
        rows = []
        last = int(self.store.db.get(keys[1], b"0"))
        for number, row in zip(args[::2], args[1::2], strict=True):
            if number > last:
                rows.append(row)
                last = number
        if rows:
            self.store.xadd(keys[0], [b"b", _array_of(rows, len(rows))])
            self.store.db[keys[1]] = b"%d" % last
        return len(rows)

    def make_group(self, keys: Any, _: Any) -> int:
        groups = self.store.stream(keys[0]).groups
        if GROUP in groups:
            return 0
        groups[GROUP] = Group()
        return 1

    # -- answers (inbox.lua)

    def deliver(self, keys: Any, args: Any) -> int:
        head = self.store.hash(keys[0])
        delivered = int(head.get(b"delivered", b"0"))
        if self.is_forgotten(delivered, args[0]):
            return 0
        for row, place, payload in zip(args[3::3], args[4::3], args[5::3], strict=True):
            if row > delivered:
                self.store.xadd(keys[place], [b"d", payload], (_FIRST + row, 0))
                delivered = row
        head[b"delivered"] = b"%d" % delivered
        return 1

    def is_forgotten(self, delivered: int, before: int) -> bool:
        return delivered < before
