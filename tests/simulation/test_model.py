"""The simulated servers behave as the real ones, on random sequences of what the engine asks."""

from __future__ import annotations

import re
from asyncio import events
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from random import Random
from typing import Any, cast

import asyncpg
import msgspec
import pytest

from engine import redis_keys as keys
from engine.activity.row import row_of
from engine.credit.flush import Flush, Note
from engine.credit.ledger_records import UsageEntry
from engine.credit.posting import decide
from engine.credit.records import QuotaRequest, QuotaReturn
from engine.lifecycle import MessageEvent
from engine.limits.records import LimitRow, ShardLimits
from engine.organisations import Limits
from engine.records import Addressed, Entry, Message, Settlement, Submission
from engine.shards import shard_of
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.redis import admit_wire, settle_wire
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.admission import fence_command
from engine.stores.redis.limits import limit
from engine.stores.redis.link import RedisLink
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.settle_wire import settled
from engine.stores.redis.usage import usage_entry
from engine.stores.redis.wire import ReplyError
from engine.stream_id import StreamId
from tests.conftest import books_url, own_database  # noqa: F401 - a fixture
from tests.simulation import canceling, letters, recalls, sweeping
from tests.simulation.clock import Clock, Process
from tests.simulation.ledger_store import LedgerBooks
from tests.simulation.line_dump import real_line, simulated_line, write_elsewhere
from tests.simulation.postgres_server import PostgresServer
from tests.simulation.redis_server import RedisServer
from tests.simulation.redis_store import format_id
from tests.simulation.wires import Network, Weather
from tests.simulation.without_chunks import without_chunks

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_HOLDERS = ("h1", "h2", "h3")
_WORKERS = ("w1", "w2")
_SHARD = 0
_ORGANISATIONS = (1, 2, 300, 70_000)
# No entry is idle for so long.
_LONG_MS = 1 << 40
# Numbers above are microseconds since 1970 and what counts up from them.
_BY_THE_CLOCK = 10**12


class Nobody:
    """Watches nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Sequence:
    """Random commands, the same for both servers but for the ids of entries."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.letters = Random(7)  # for what is done about dead letters
        self.questions = Random(8)  # for what is asked about all shards at once
        self.cancels = Random(9)  # for what is taken back
        self.campaigns = Random(10)  # for the campaigns of messages, and what is taken back of them
        self.recalls = Random(11)  # for what is recalled
        self.moments = Random(12)  # for how much is sent in 20 ms
        self.takes = Random(13)  # for workers that take what waits
        self.sequences = dict.fromkeys(_HOLDERS, 0)
        self.messages = 0
        self.announced = 0
        self.delivered = 0
        # The version of the limits in force.
        self.limits = ""

    def next(self, entries: list[Entry]) -> tuple[Any, ...]:
        """(what, arguments) of the next command; `entries` were given out."""
        rng = self.rng
        if self.letters.random() < 0.1:
            return self.letters.choice(("dead", "replay", "drop")), self.letters.randrange(1 << 30)
        if self.questions.random() < 0.1:
            return sweeping.drawn(self.questions)
        if self.cancels.random() < 0.1:
            return "cancel", *canceling.drawn(self.cancels, self.messages)
        if self.campaigns.random() < 0.06:
            return "cancel_campaign", *canceling.drawn_campaign(self.campaigns, self.messages)
        if self.recalls.random() < 0.1:
            return "recall", recalls.drawn(self.recalls), self._room()
        name = rng.choice(_HOLDERS)
        what = rng.choices(
            ("register", "fence", "beat", "overdue", "admit", "read", "settle", "promote", "take_over",
             "pending", "generation", "seal", "close", "begin",
             "announce", "deliver", "unread", "settle_unread", "refill", "sift", "limit"),
            (3, 1, 2, 1, 20, 8, 8, 3, 2, 1, 1, 1, 2, 4, 1, 1, 3, 3, 2, 1, 2),
        )[0]  # fmt: skip
        if what == "beat":
            return what, name, self.sequences[name] + rng.randrange(-1, 2), rng.random() < 0.5
        if what in ("register", "fence"):
            return what, rng.choice((name, *_WORKERS))
        if what == "deliver":
            self.delivered += rng.randrange(-1, 3)
            return what, name, max(0, self.delivered), rng.randrange(1, 4)
        if what == "admit":
            return what, name, self._flush(name)
        if what == "settle":
            some = [n for n in range(len(entries)) if rng.random() < 0.02] if rng.random() < 0.5 else []
            for n in rng.sample(range(len(entries)), min(len(entries), rng.randrange(4))):
                first = n - entries[n].place
                some += range(first, first + entries[n].bundle) if rng.random() < 0.6 else [n]
            events = [
                rng.choice(("sent", "failed", "retrying", "dead", None, "back", *recalls.WAYS)) for _ in some
            ]
            return what, rng.choice(_WORKERS), list(zip(some, events, strict=True)), self._room()
        if what in ("refill", "sift"):
            return what, self._room(), *recalls.taken(self.takes, what)
        if what == "promote":
            return what, rng.choice((100, 200)), rng.randrange(1, 12), self._room()
        if what == "limit":
            return what, self._limits()
        if what == "settle_unread":
            some = [rng.randrange(1 << 30) for _ in range(rng.randrange(4))]
            some = [n + more for n in some for more in range(rng.choice((1, 1, 10)))]
            return what, rng.choice(_WORKERS), [(n, rng.choice(("expired", "failed"))) for n in some]
        if what == "generation":
            return what, rng.choice(("g1", "g1", "closing:g2", None))
        if what == "announce":
            self.announced += rng.randrange(-1, 3)
            return what, [max(1, self.announced), self.announced + 2]
        return what, rng.choice(_WORKERS), rng.choice((0, _LONG_MS)), rng.randrange(1, 6), rng.randrange(2)

    def _flush(self, name: str) -> Flush:
        rng = self.rng
        # As far from the holder's own; the servers' clocks differ, and so do their epochs.
        epoch = -1 if rng.random() < 0.1 else 0
        sequence = max(1, self.sequences[name] + rng.choice((1, 1, 1, 1, 0, 2)))
        submissions = [(i, self._submission()) for i in range(rng.randrange(4))]
        notes = [Note(rng.choice(("request", "return")), b"note") for _ in range(rng.randrange(3))]
        return Flush(_SHARD, epoch, sequence, submissions, notes)

    def _limits(self) -> ShardLimits:
        rng = self.rng
        known = self.limits
        if rng.random() < 0.8:
            self.limits = f"{self.messages}"
        rows = [
            LimitRow(o, Limits(weight=rng.choice((None, 0.5, 2.0, 4.0))), rng.random() < 0.4)
            for o in rng.sample(_ORGANISATIONS, rng.randrange(4))
        ]
        # One that was not put in force is the same as one that comes too late.
        put = known if self.limits != known else "other"
        return ShardLimits(_SHARD, put, self.limits, rng.random() < 0.3, rows)

    def _room(self) -> wire.Room:
        return recalls.room(self.rng, self.moments, self.takes)

    def _submission(self) -> Submission:
        rng = self.rng
        organisation_id = rng.choice(_ORGANISATIONS)
        messages = [self._addressed(organisation_id) for _ in range(rng.choice((1, 3, 8, 60)))]
        return Submission(
            organisation_id=organisation_id,
            messages=messages,
            units=sum(m.message.units for m in messages),
            idempotency_key=rng.choice(("", "", "k1", "k2", "k3")),
            fingerprint=rng.choice((b"f1", b"f2")),
            answer=b"answer %d" % self.messages,
            rate_max=rng.choice((0.0, 5.0)),
        )

    def _addressed(self, organisation_id: int) -> Addressed:
        self.messages += 1
        message = Message(
            id=f"m{self.messages:07}", organisation_id=organisation_id, to="+1", text="x", sender="",
            encoding="GSM-7", segments=self.rng.choice((1, 1, 2, 7)),
            units=self.rng.randrange(1, 9), accepted_at_us=1,
            expires_at_us=self.rng.choice((2, 1 << 60, 1 << 60)),
            reference=self.campaigns.choice(canceling.CAMPAIGNS),
        )  # fmt: skip
        queue = self.rng.choice(("express", "normal", "normal"))
        return Addressed(queue=queue, message=message, due_at_us=self.rng.choice((0, 0, 100, 200)))


class Side:
    """One of the two servers, with the entries and epochs that it gave out, in its own run."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.entries: list[Entry] = []
        # What the last look at unread messages found, and where it ended.
        self.unread: list[Entry] = []
        self.looked = b"0-0"
        # Every dead letter that a look has found; some are gone.
        self.dead: list[letters.Letter] = []
        self.epochs = dict.fromkeys(_HOLDERS, 1)
        self.registered: set[str] = set()

    def command(self, what: str, *given: Any) -> Any:
        """The command as the engine's own adapters write it."""
        holders = keys.holders_key(_SHARD)
        if what == "register":
            return wire.register(given[0], _SHARD)
        if what == "fence":
            return fence_command(_SHARD, given[0])
        if what == "beat":
            name, sequence, far = given
            if not far:
                return wire.beat(name, _SHARD)
            holder = keys.holder_key(_SHARD, name)
            return ("FCALL", versioned("beat"), 2, holders, holder, name, self.epochs[name], sequence)
        if what == "deliver":
            head, inbox = keys.usage_head_key(_SHARD), keys.inbox_key(_SHARD, given[0])
            told = [x for row in range(given[1] + 1, given[1] + 1 + given[2]) for x in (row, 1, b"told")]
            return ("FCALL", versioned("deliver"), 2, head, inbox, given[1], 100, 1000, *told)
        if what == "overdue":
            # Everybody is overdue when the limit lies in the future.
            return ("FCALL", versioned("overdue"), 1, holders, -1000 if given[1] else _LONG_MS)
        if what == "admit":
            own = msgspec.structs.replace(given[1], epoch=self.epochs[given[0]] + given[1].epoch)
            return admit_wire.admit(given[0], own)
        if what == "settle":
            some = [settled(self._settlement(*s)) for s in given[1]]
            return settle_wire.settle("normal", given[0], _SHARD, given[2], some)
        if what in ("refill", "recall"):
            return recalls.command(what, *given)
        if what == "limit":
            return limit(given[0])
        if what == "sift":
            # All of it at once.
            return wire.sift("normal", _SHARD, b"0", 10_000, given[0])
        if what == "promote":
            return wire.promote("normal", _SHARD, *given)
        if what in sweeping.QUESTIONS:
            return sweeping.command(_SHARD, what, *given)
        if what in canceling.COMMANDS:
            return canceling.COMMANDS[what](_SHARD, *given)
        if what in ("dead", "replay", "drop"):
            return letters.command(_SHARD, what, self.dead, *given)
        if what == "settle_unread":
            pool = self.unread + self.entries
            some = [settled(self._settled(pool[n % len(pool)], event)) for n, event in given[1] if pool]
            return settle_wire.settle("normal", given[0], _SHARD, wire.Room(4), some, unread=True)
        if what == "generation":
            key = keys.generation_key(_SHARD)
            return ("DEL", key) if given[0] is None else ("SET", key, given[0])
        if what == "announce":
            numbered = [x for n in given[0] for x in (n, _encode([n]))]
            touched = (keys.activity_key(_SHARD), keys.announced_key(_SHARD))
            return ("FCALL", versioned("announce"), 2, *touched, *numbered)
        worker, idle_ms, count, suspects = given
        if what == "read":
            return wire.read("normal", worker, [_SHARD], count, None)
        if what == "unread":
            after = self.looked if suspects else b"0-0"
            return wire.unread("normal", _SHARD, after, count)
        if what == "take_over":
            return wire.take_over("normal", worker, _SHARD, idle_ms, count, suspects)
        if what == "pending":
            return wire.own_pending("normal", worker, _SHARD, idle_ms, b"-", count)
        if what == "begin":
            run = "another run" if count == 1 else self.run
            generation, head = keys.generation_key(_SHARD), keys.usage_head_key(_SHARD)
            return ("FCALL", versioned("begin"), 2, generation, head, ("g1", "g9")[suspects], run)
        if what == "seal":
            return self._seal(("g1", "closing:g9", "closing:g2", "g9", "")[count - 1], forget=suspects == 1)
        return self._close()

    def _settlement(self, index: int, event: str | None) -> Settlement:
        return self._settled(self.entries[index], event)

    def _settled(self, entry: Entry, event: str | None) -> Settlement:
        message = entry.message
        again = msgspec.structs.replace(message, attempts=message.attempts + 1)
        if event in recalls.WAYS:
            entry = msgspec.structs.replace(entry, way=recalls.WAYS[event])
            return Settlement(entry=entry, row=None, message=again, way=event[1:])
        if event in (None, "back"):
            return Settlement(entry=entry, row=None, due_at_us=150 if event is None else 0, message=again)
        row = row_of(message, message.id, "normal", cast(MessageEvent, event), 150)
        return Settlement(entry=entry, row=row, due_at_us=150, message=again)

    def _seal(self, seen: str, forget: bool) -> Any:
        names = sorted(self.registered)[int(forget) :]
        touched = [keys.generation_key(_SHARD), keys.holders_key(_SHARD)]
        touched += [keys.usage_key(_SHARD), keys.usage_head_key(_SHARD)]
        for name in names:
            touched += [keys.holder_key(_SHARD, name), keys.inbox_key(_SHARD, name)]
        return ("FCALL", versioned("seal"), len(touched), *touched, seen, "g9", "g1", "0-0", "", *names)

    def _close(self) -> Any:
        queues = ("express", "normal")
        touched = [keys.generation_key(_SHARD), keys.usage_key(_SHARD), keys.usage_head_key(_SHARD)]
        touched += [keys.held_key(_SHARD), keys.held_by_key(_SHARD)]
        places = (keys.queue_key, keys.due_key, keys.dead_key, keys.wait_key)
        touched += [of(_SHARD, q) for of in places for q in queues]
        return ("FCALL", versioned("close"), len(touched), *touched, "g9", "-", 300, 1, 2, 3)

    def remember(self, what: str, given: list[Any], reply: Any) -> None:
        """Entries and epochs that were given out."""
        if what == "register":
            self.epochs[given[0]] = reply
            self.registered.add(given[0])
        if what == "fence":
            self.registered.discard(given[0])
        if what == "seal" and isinstance(reply, bytes):
            self.registered.clear()
        if what == "unread" and not isinstance(reply, Exception):
            raw = [wire.raw_entry(i, fields) for i, fields, _ in reply[0]]
            self.unread = wire.decoded(_SHARD, "normal", raw)[0]
            self.looked = raw[-1][0] if raw else b"0-0"
        if what == "dead" and not isinstance(reply, Exception):
            self.dead = letters.found(self.dead, reply)
        if what == "read" and reply and not isinstance(reply, Exception):
            for _, entries in reply:
                self.entries += wire.decoded(_SHARD, "normal", wire.fields_of(entries))[0]


def plain(reply: Any) -> Any:
    """A reply without what differs by nature: ids, idle times."""
    if isinstance(reply, ReplyError):
        return reply.code
    if isinstance(reply, list):
        if reply[:1] == [b"applied"]:
            # What is told of backlogs and buckets is for the gate alone.
            reply = reply[:3]
        if len(reply) == 8 and isinstance(reply[0], list):
            # The simulated lists have no chunks.
            reply = reply[:3]
        if len(reply) == 4 and isinstance(reply[2], int) and isinstance(reply[0], bytes):
            reply = [reply[0], reply[1], 0, reply[3]]
        return [plain(r) for r in reply]
    if isinstance(reply, bytes) and reply[:1] in (b"\x9a", b"\xdc"):
        # The ways of a line: the simulation counts no moves.
        flat = _decode(reply)
        return [flat[n : n + 5] for n in range(0, len(flat), 10)]
    if isinstance(reply, int) and reply > _BY_THE_CLOCK:
        return "EPOCH"
    return b"ID" if isinstance(reply, bytes) and re.fullmatch(rb"\(?\d+-\d+", reply) else reply


def stream_rows(entries: Any, side: Side) -> list[Any]:
    """Fields of a stream's entries; packed sums as values, since both pack in their own way.

    Of usage, epochs as their distance from the holder's; links only as there or not, for
    they digest ids. That they are a chain is looked at here.
    """
    rows, link = [], None
    for entry_id, fields in entries:
        if fields[0] == b"k":
            entry = usage_entry(_SHARD, entry_id, list(fields))
            assert link is None or entry.follows == link
            link = entry.link
            base = side.epochs.get(entry.holder, 0)
            told = _decode(entry.data) if entry.kind in ("usage", "settle") else entry.data
            distance = entry.epoch - base if entry.epoch > _BY_THE_CLOCK else entry.epoch
            # One that was registered again since: how far back is the clocks' affair.
            since = "earlier" if distance < -1000 else distance
            rows.append([entry.kind, entry.holder, since, told, bool(entry.follows)])
        else:
            rows.append(plain(list(fields)))
    return rows


def holder_rows(side: Side, found: list[list[Any]]) -> list[Any]:
    """Epochs as their distance from what the holder was given."""
    rows = []
    for name, (epoch, sequence) in zip(_HOLDERS, found, strict=True):
        number = None if epoch is None else int(epoch)
        rows.append((number - side.epochs[name] if number and number > _BY_THE_CLOCK else number, sequence))
    return rows


_STREAMS = [keys.usage_key(_SHARD), keys.activity_key(_SHARD)] + [
    of(_SHARD, q) for of in (keys.queue_key, keys.dead_key) for q in ("express", "normal")
]  # fmt: skip
_DUE = [keys.due_key(_SHARD, q) for q in ("express", "normal")]
_INBOXES = [keys.inbox_key(_SHARD, h) for h in _HOLDERS]


async def real_dump(link: RedisLink, side: Side) -> Any:
    streams = [stream_rows(await link.call("XRANGE", key, "-", "+"), side) for key in _STREAMS]
    due = [await link.call("ZRANGE", key, 0, -1) for key in _DUE]
    holders = [await link.call("HMGET", keys.holder_key(_SHARD, h), "epoch", "seq") for h in _HOLDERS]
    alive = sorted(await link.call("HKEYS", keys.holders_key(_SHARD)))
    held = int(await link.call("GET", keys.held_key(_SHARD)) or 0)
    inboxes = [await link.call("XRANGE", key, "-", "+") for key in _INBOXES]
    flat = await link.call("HGETALL", keys.held_key(_SHARD) + b":by")
    by = dict(zip(flat[::2], flat[1::2], strict=True))
    lines = [await real_line(link, _SHARD, queue) for queue in ("express", "normal")]
    flat = await link.call("HGETALL", keys.limits_key(_SHARD))
    limits = dict(zip(flat[::2], flat[1::2], strict=True))
    return streams, due, holder_rows(side, holders), alive, held, by, inboxes, _alike(limits), lines


def _alike(limits: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Without buckets, and without the ids of streams."""
    found = {field: value for field, value in limits.items() if not field.startswith((b"rate:", b"rated:"))}
    paused = [note.split(b":") for note in found.get(b"paused", b"").split()]
    assert all(len(note) == 3 for note in paused)
    return found | {b"paused": b" ".join(note[0] for note in paused)}


def simulated_dump(server: RedisServer, side: Side) -> Any:
    store, db = server.store, server.store.db
    streams = [
        stream_rows([(format_id(i), db[key].fields[i]) for i in db[key].ids], side) if key in db else []
        for key in _STREAMS
    ]
    due = [store.zrange(key) for key in _DUE]
    of = [db.get(keys.holder_key(_SHARD, h), {}) for h in _HOLDERS]
    holders = [[h.get(b"epoch"), h.get(b"seq")] for h in of]
    alive = sorted(db.get(keys.holders_key(_SHARD), {}))
    inboxes = [
        [[format_id(i), list(db[key].fields[i])] for i in db[key].ids] if key in db else []
        for key in _INBOXES
    ]
    held = int(db.get(keys.held_key(_SHARD), b"0"))
    by = db.get(keys.held_key(_SHARD) + b":by", {})
    lines = [simulated_line(store, _SHARD, queue) for queue in ("express", "normal")]
    limits = _alike(db.get(keys.limits_key(_SHARD), {}))
    return streams, due, holder_rows(side, holders), alive, held, by, inboxes, limits, lines


@pytest.fixture
async def database(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, 9) as link, without_chunks(link):
        yield link


# Their sequences come to all states that are looked for at the end.
@pytest.mark.parametrize("seed", [1, 3, 4, 5, 6, 10, 11, 13, 15, 16])
async def test_the_simulated_redis_answers_as_the_real_one(database: RedisLink, seed: int) -> None:
    clock = Clock(seed)
    server = RedisServer(clock, Nobody())
    run = re.search(r"run_id:(\w+)", (await database.call("INFO", "server")).decode())
    assert run
    server.store.run = run[1].encode()
    sequence, real, simulated = Sequence(Random(seed)), Side(run[1]), Side(server.store.run.decode())
    groups = [wire.make_group("normal", _SHARD), ("SET", keys.generation_key(_SHARD), "g1")]
    for command in groups:
        await database.call(*command)
        server.execute(None, None, command)
    behind: set[str] = set()
    for step in range(550):
        clock.now += 0.002
        what, *given = sequence.next(real.entries)  # type: ignore[arg-type]
        theirs = (await database.batch([real.command(what, *given)]))[0]
        command = simulated.command(what, *given)
        ours = server.execute(None, None, command)
        assert plain(ours) == plain(theirs), (seed, step, what, given)
        real.remember(what, given, theirs)
        simulated.remember(what, given, ours)
        behind.update([what] if what in ("replay", "drop") and theirs else [])
        behind.update(canceling.found(theirs) if what == "cancel" else [])
        behind.update([given[2]] if what == "cancel_campaign" and theirs[0] else [])
        if step % 60 == 50:
            await write_elsewhere(database, server, _SHARD, step)
        if what == "register" and given[0] in _HOLDERS:
            sequence.sequences[given[0]] = 0
        if what == "admit" and theirs[0] == b"applied":
            sequence.sequences[given[0]] = given[1].sequence
        if step % 20 == 19:
            dump = simulated_dump(server, simulated)
            assert dump == await real_dump(database, real), (seed, step)
            lists, (_, ahead), (fields, notes), _ = dump[-1][1]
            put_off = {name for name in lists if b"@" in name}
            behind.update(["put off"] if put_off else [], ["ways"] if len(put_off) > 2 else [])
            behind.update(["parked"] if b"parked" in fields else [])
            behind.update(
                ["lists"] if lists else [],
                ["ahead"] if ahead else [],
                ["open"] * (b"time" not in fields),
                ["parts"] if notes else [],
            )
    assert max(entry.bundle for entry in real.entries) > 1
    assert behind >= {"lists", "ahead", "open", "parked", "parts", "put off"}
    assert behind & {"replay", "drop"}
    assert behind & {"canceled", "in hand", "due", "list", "ready"}


class Books:
    """The simulated PostgreSQL with one ledger on it, run from outside."""

    def __init__(self) -> None:
        self.clock = Clock(0)
        self.server = PostgresServer(self.clock, Nobody())
        self.process = Process(self.clock, "ledger", "ledger")
        self.store = LedgerBooks(Network(self.clock, Weather(slow=0.0)), self.process, self.server, 5.0)

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        outside = events._get_running_loop()
        try:
            task = self.process.create_task(call)
            self.clock.run(self.clock.now + 10, 1 << 60)
            return task.result()
        finally:
            events._set_running_loop(outside)


def random_entry(rng: Random, server: PostgresServer, position: int, shards: int) -> UsageEntry:
    """One that these books can bear."""
    tables = server.tables
    organisation_id = rng.choice(list(tables.accounts))
    row = tables.accounts[organisation_id]
    holder = rng.choice(_HOLDERS)
    quota = tables.quotas.get(organisation_id, {}).get(holder, 0)
    kind = rng.choice(("usage", "settle", "request", "request", "return", "fence"))
    if kind == "usage" and quota:
        data = _encode([organisation_id, rng.randrange(1, quota + 1)])
    elif kind == "settle" and row.held:
        captured = rng.randrange(row.held + 1)
        data = _encode([organisation_id, captured, rng.randrange(row.held - captured + 1)])
    elif kind == "fence":
        data = b""
    elif kind == "return":
        units = rng.randrange(quota + 1)
        data = _encode(QuotaReturn(organisation_id=organisation_id, units=units, recall=rng.choice((0, 1))))
    else:
        kind = "request"
        needed, waiting, wanted = sorted(rng.randrange(1, 200) for _ in range(3))
        request = QuotaRequest(
            number=position, organisation_id=organisation_id, wanted=wanted, needed=needed, waiting=waiting
        )
        data = _encode(request)
    return UsageEntry(shard_of(organisation_id, shards), StreamId(position, 0), kind, holder, 1, data)  # type: ignore[arg-type]


async def real_tables(url: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        accounts = await connection.fetch(
            "SELECT organisation_id, topped_up, available, granted, held, captured FROM accounts ORDER BY 1"
        )
        quotas = await connection.fetch("SELECT organisation_id, holder, units FROM quotas ORDER BY 1, 2")
        journal = await connection.fetch(
            "SELECT organisation_id, movement, sum(units)::bigint FROM journal GROUP BY 1, 2 ORDER BY 1, 2"
        )
        return [[tuple(row) for row in rows] for rows in (accounts, quotas, journal)]
    finally:
        await connection.close()


def simulated_tables(server: PostgresServer) -> Any:
    t = server.tables
    return [
        [(o, r.topped_up, r.available, r.granted, r.held, r.captured) for o, r in sorted(t.accounts.items())],
        sorted((o, h, units) for o, by_holder in t.quotas.items() for h, units in by_holder.items()),
        sorted((o, movement, units) for o, sums in t.journal.items() for movement, units in sums.items()),
    ]


def told(answers: Any) -> list[Any]:
    return [(a.shard, a.holder, a.payload) for a in answers]


@pytest.mark.parametrize("seed", range(3))
async def test_the_simulated_books_are_kept_as_the_real_ones(books_url: str, seed: int) -> None:  # noqa: F811
    rng, shards = Random(seed), 2
    books = Books()
    real = PostgresLedger(books_url, timeout_s=10)
    directory = await Directory.connect(books_url, shards=shards)
    for units in (1000, 100, 30):
        organisation_id = (await directory.create_organisation("model")).id
        books.server.create(organisation_id, shard_of(organisation_id, shards))
        await directory.top_up(organisation_id, units, "first")
        books.server._top_up(None, organisation_id, units, "first")  # type: ignore[arg-type]
    stores = (real, books.store)
    for store in stores:
        for call in (store.lead, store.recover, partial(store.open_shards, "g", range(shards))):
            await call() if store is real else books.run(call())
    for position in range(1, 120):
        entries = [random_entry(rng, books.server, position, shards)]
        theirs = await real.apply(entries, decide, 0)
        ours = books.run(books.store.apply(entries, decide, 0))
        assert told(ours.answers) == told(theirs.answers), (seed, position, entries)
        assert ours.marks == theirs.marks
        if rng.random() < 0.1:
            recovered, again = await real.recover(), books.run(books.store.recover())
            assert recovered.marks == again.marks
            assert recovered.delivered == again.delivered
            assert told(recovered.answers) == told(again.answers)
            lines = [{o: [(w.holder, w.request) for w in line] for o, line in r.waiting.items()}
                     for r in (recovered, again)]  # fmt: skip
            assert lines[0] == lines[1]
    assert simulated_tables(books.server) == await real_tables(books_url)
    await real.resign()
    await directory.close()
