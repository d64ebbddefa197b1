"""What must hold at every instant, for whoever sees everything.

`Truth` hears of every change where it happens: in the simulated Redis below its functions,
at each commit of the simulated PostgreSQL, and in each holder's credit map. A step that
changes none of these cannot break a promise, so checking at the change is checking after
every step. Per organisation, in units:

    T topped up   H of the messages in Redis   C captured, by settlements in Redis
    R reserved in maps of living epochs, for a request that is being answered
    M quota left in those maps                 A available in PostgreSQL

1. never overspent      H + C <= T, and what could be spent next: A + M + R <= T - H - C
2. never refused falsely   U = T - H - C - R are the unspent units everywhere. For every
   request the smallest U (plus what the request itself has reserved) during its life is
   kept; a message may be refused only if that was less than what was accepted of the
   request plus its cost.
3. exactly once         a message is in one place, enters once, ends once; with it, in the
   same atomic step, its units enter and leave `held`, and its row is recorded
4. nothing unseen       a shard that has lost what the books have admits nothing until they
   are closed; see `Truth.rewound`
5. one clock            every row has a time of Redis' clock, whatever the machines' clocks show
6. refused for good     what was answered 503 as not accepted never comes into a queue
7. canceled or sent     what is canceled is never given to the carrier, and was not taken by it
8. on two machines      where it takes a replica to accept a message, no message is lost at a failover
   to that replica that was accepted, or given to a provider
9. one id, one entry    no entry of a ready stream has the id of another, wherever Redis went back
10. the books           every commit conserves; its quotas add up; and it says exactly what
   a second, simpler reading of the usage entries up to its position says
"""

from __future__ import annotations

from collections import Counter, deque
from contextvars import ContextVar
from typing import Any, NamedTuple, NoReturn

import msgspec

from engine.credit.ledger_records import StreamMark
from engine.records import ActivityRow, Message
from engine.redis_keys import generation_key, held_key, holder_key, usage_head_key
from engine.shards import shard_of
from tests.simulation.books_back import BooksBack
from tests.simulation.carried import Carried
from tests.simulation.clock import Clock
from tests.simulation.copies import OnTwoMachines
from tests.simulation.held import HeldBy
from tests.simulation.history import History, settled
from tests.simulation.holdings import Holding
from tests.simulation.postgres_server import Change, PostgresServer
from tests.simulation.redis_server import RedisServer

_message = msgspec.msgpack.Decoder(Message).decode
_rows = msgspec.msgpack.Decoder(list[ActivityRow]).decode
_flat = msgspec.msgpack.Decoder(list[int]).decode

# What lies between the time of a row and Redis' clock when it is recorded: freezes, late bytes, a Redis
# whose clock is set. The clocks of the machines are off by much more (see own_clock.py).
_CLOCKS_APART_US = 60_000_000

_ENDS = {
    "sent": "captured",
    "failed": "released",
    "expired": "released",
    "canceled": "released",
    "outcome_unknown": "captured",
    "outcome_unknown_released": "released",
}


class Violation(AssertionError):
    """A promise does not hold."""


class Asking:
    """A request that is being answered."""

    def __init__(self, organisation_id: int, unspent: int) -> None:
        self.organisation_id = organisation_id
        # Units that it has reserved itself.
        self.own = 0
        # The smallest number of unspent units since it came, its own included.
        self.least: float = unspent


# The request for which the running task works.
asking: ContextVar[Asking | None] = ContextVar("asking", default=None)


class Known:
    """One message, from the first time it was seen in Redis."""

    __slots__ = ("attempt", "begun", "ended", "organisation_id", "places", "shard", "state", "units")

    def __init__(self, shard: int, message: Message) -> None:
        self.shard = shard
        self.organisation_id = message.organisation_id
        self.units = message.units
        self.attempt = message.reference
        self.places = 0
        self.state = "new"
        # Rows of its acceptance, and of its end.
        self.begun = 0
        self.ended = ""


class Sums:
    """Units of one organisation, everywhere."""

    __slots__ = ("a", "asking", "c", "h", "m", "r", "shard", "t")

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.t = self.h = self.c = self.r = self.m = self.a = 0
        self.asking: list[Asking] = []


class Past(NamedTuple):
    """What was true of Redis at a moment."""

    # By message: state, rows of its acceptance and its end.
    messages: dict[str, tuple[str, int, str]]
    keys: dict[tuple[int, str], str]
    activity: dict[int, dict[str, int]]
    announced: Counter[tuple[int, int]]
    # By shard, see `History.fork`.
    forks: list[str | None]


class Truth:
    def __init__(self, clock: Clock, shards: int, accepted_on: int) -> None:
        self.clock = clock
        self.on_two = OnTwoMachines(accepted_on)
        self.carried = Carried()
        # References of requests that nobody may find again.
        self.never: set[str] = set()
        self.shards = shards
        self.redis: RedisServer
        self.postgres: PostgresServer
        self.sums: dict[int, Sums] = {}
        self.messages: dict[str, Known] = {}
        self.holdings: dict[str, Holding] = {}
        # What an idempotency key has been admitted for.
        self.keys: dict[tuple[int, str], str] = {}
        # {organisation: {event: units}} of all rows ever recorded.
        self.activity: dict[int, dict[str, int]] = {}
        # Shards whose data was lost and whose books are not closed yet; and all that ever were.
        self.broken: set[int] = set()
        self.lost: set[int] = set()
        # Events of organisations, by (organisation, time of its commit), and how often recorded.
        self.announced: Counter[tuple[int, int]] = Counter()
        self._queued_units = [0] * shards
        self.held_by = HeldBy(self)
        # The generation for which each shard was last closed in Redis.
        self._closed_before: list[str | None] = [None] * shards
        # While the data of Redis is exchanged for other.
        self._exchanging = False
        self.books = BooksBack(self)
        # Of the usage streams.
        self.histories = [History() for _ in range(shards)]
        # Of the books, by the second reading: [held, captured] by organisation.
        self.shadow: dict[int, list[int]] = {}
        # Of the command that runs.
        self._touched: dict[str, Known] = {}
        self._used: list[tuple[str, str, dict[int, list[int]]]] = []
        self._recorded: list[ActivityRow] = []

    def fail(self, sentence: str) -> NoReturn:
        """Halt the world, whoever may catch the error."""
        self.clock.halted = self.clock.halted or sentence
        raise Violation(sentence)

    def organisation(self, organisation_id: int) -> None:
        self.sums[organisation_id] = Sums(shard_of(organisation_id, self.shards))
        self.shadow[organisation_id] = [0, 0]

    def unspent(self, organisation_id: int) -> int:
        s = self.sums[organisation_id]
        unbooked = self.books.unbooked(organisation_id)
        return s.t + unbooked.held - unbooked.released - s.h - s.c - s.r

    def changed(self, organisation_id: int) -> None:
        """After any change: what could be spent, and what every request has seen."""
        if self._exchanging:
            return
        s = self.sums[organisation_id]
        uncertain = s.shard in self.broken or s.shard in self.books.back
        if uncertain or any(self.books.unbooked(organisation_id)):
            for request in s.asking:
                request.least = float("-inf")
        if uncertain:
            return
        unspent = self.unspent(organisation_id)
        if unspent < 0 or s.a + s.m > unspent:
            self.fail(
                f"organisation {organisation_id} can overspend: topped up {s.t}, held {s.h}, captured {s.c}, "
                f"reserved {s.r}, in maps {s.m}, available {s.a}"
            )
        for request in s.asking:
            if unspent + request.own < request.least:
                request.least = unspent + request.own

    # -- requests

    def begin(self, organisation_id: int) -> Asking:
        request = Asking(organisation_id, self.unspent(organisation_id))
        self.sums[organisation_id].asking.append(request)
        self.changed(organisation_id)
        return request

    def end(self, request: Asking) -> None:
        self.sums[request.organisation_id].asking.remove(request)

    def accepted(self, message_ids: list[str]) -> None:
        """Somebody was told that these are accepted."""
        for message_id in message_ids:
            if message_id not in self.messages:
                self.fail(f"message {message_id} was accepted, but has never been in Redis")
        self.on_two.accepted(message_ids)

    def refused(self, request: Asking, accepted: int, cost: int) -> None:
        if request.least >= accepted + cost:
            self.fail(
                f"organisation {request.organisation_id} was refused a message of {cost} units beside "
                f"{accepted} accepted, though it never had fewer than {request.least} unspent"
            )

    # -- Redis

    def placed(self, shard: int, payload: bytes) -> None:
        message = _message(payload)
        if message.reference in self.never:
            self.fail(
                f"message {message.id} comes into a queue, though its client was told that it never does"
            )
        known = self.messages.get(message.id)
        if known is None:
            known = self.messages[message.id] = Known(shard, message)
        if known.state == "lost":
            # Redis had lost it, and its flush came again.
            known.state = "new"
        known.places += 1
        self._queued_units[shard] += known.units
        self._touched[message.id] = known

    def left(self, shard: int, payload: bytes) -> None:
        message_id = _message(payload).id
        known = self.messages[message_id]
        known.places -= 1
        self._queued_units[shard] -= known.units
        self._touched[message_id] = known

    def used(self, shard: int, entry_id: Any, fields: list[bytes]) -> None:
        kind, holder = fields[1].decode(), fields[3].decode()
        deltas: dict[int, list[int]] = {}
        if kind == "usage":
            flat = _flat(fields[7])
            deltas = {o: [held, 0, 0] for o, held in zip(flat[::2], flat[1::2], strict=True)}
        elif kind == "settle":
            flat = _flat(fields[7])
            deltas = {o: [0, c, r] for o, c, r in zip(flat[::3], flat[1::3], flat[2::3], strict=True)}
        if wrong := self.histories[shard].append(b"%d-%d" % entry_id, fields, deltas):
            self.fail(wrong)
        if deltas:
            self._used.append((kind, holder, deltas))

    def cleared(self, shard: int) -> None:
        """The usage stream of a shard begins anew."""
        tables = self.postgres.tables
        # Whether an earlier close has begun this stream, of which the books know nothing.
        unheard = self._closed_before[shard] not in (None, tables.generations.get(shard))
        self.histories[shard].cleared(self.link(shard), tables.marks.get(shard, StreamMark()).link, unheard)

    def recorded(self, shard: int, blob: bytes) -> None:
        self._recorded += _rows(blob)

    def done(self, command: tuple[Any, ...], reply: Any) -> None:
        if command[0] != "FCALL" or isinstance(reply, Exception):
            return
        name = command[1]
        if name in ("register", "fence", "seal", "close", "begin"):
            self._epochs(name, command, reply)
        if name in ("tally", "close") and reply is not None:
            self.held_by.counted(command)
        if self._touched or self._used or self._recorded:
            self._step(command)

    def _epochs(self, name: str, command: tuple[Any, ...], reply: Any) -> None:
        key: bytes = command[3]
        shard = int(key[key.index(b"{") + 1 : key.index(b"}")])
        if name in ("seal", "close") and reply is None:
            return
        if name == "begin":
            if reply:
                self._closed_before[shard] = self.histories[shard].fork = None
            return
        if name == "seal":
            self.lose({shard})
            history = self.histories[shard]
            # From here on at least the books must hear of everything.
            history.fork = self.link(shard) if history.fork is None else history.fork
            for holding in self.holdings.values():
                holding.void(shard, -1)
        elif name == "close":
            self._closed_before[shard] = command[3 + command[2] :][0]
            # Nothing moved: it only sums up settlements that the books have not heard of.
            self._used = []
        elif reply and (held := self.holdings.get(command[3 + command[2]])) is not None:
            epoch = int(self.redis.store.hash(key)[b"epoch"])
            self.clock.trace("epoch", held.name, "shard", shard, name, epoch)
            held.void(shard, epoch)

    def _step(self, command: tuple[Any, ...]) -> None:
        """One atomic step of a shard has ended: does it add up?"""
        wanted: dict[int, list[int]] = {}
        shards = set()
        for message_id, known in self._touched.items():
            shards.add(known.shard)
            delta = self._moved(message_id, known)
            if delta is not None:
                sums = wanted.setdefault(known.organisation_id, [0, 0])
                sums[0] += delta[0]
                sums[1] += delta[1]
        for kind, holder, deltas in self._used:
            for o, (held, captured, released) in deltas.items():
                sums = wanted.setdefault(o, [0, 0])
                sums[0] -= held
                sums[1] -= captured + released
                self.sums[o].c += captured
            if kind == "usage":
                self._admitted(command, holder, {o: held for o, (held, _, _) in deltas.items()})
        if any(map(any, wanted.values())):
            self.fail(f"{command[1]} booked other units than it moved: {wanted}")
        self._check_rows()
        for shard in shards:
            held_units = int(self.redis.store.db.get(held_key(shard), b"0"))
            if held_units != self._queued_units[shard]:
                self.fail(f"held says {held_units}, queues have {self._queued_units[shard]} units")
        for o in wanted:
            self.held_by.check(o)
            self.changed(o)
        self._touched, self._used, self._recorded = {}, [], []

    def _admitted(self, command: tuple[Any, ...], holder: str, held: dict[int, int]) -> None:
        shard = self.sums[next(iter(held))].shard
        if shard in self.broken:
            self.fail(f"shard {shard} admits, though it has lost what the books have")
        if (holding := self.holdings.get(holder)) is not None:
            _, epoch, sequence = command[3 + command[2] :][:3]
            holding.admitted((shard, epoch, sequence), held)

    def _moved(self, message_id: str, known: Known) -> tuple[int, int] | None:
        """(units that entered, units that left) with this message in this step."""
        if known.places not in (0, 1):
            self.fail(f"message {message_id} is in {known.places} places")
        if known.state == "new" and known.places:
            known.state = "queued"
            self.sums[known.organisation_id].h += known.units
            key, _, attempt = known.attempt.partition("#")
            if key and self.keys.setdefault((known.organisation_id, key), attempt) != attempt:
                self.fail(f"idempotency key {key} was admitted twice")
            return known.units, 0
        if known.state == "queued" and not known.places:
            known.state = "ended"
            self.sums[known.organisation_id].h -= known.units
            return 0, known.units
        if known.state == "ended" and known.places:
            self.fail(f"message {message_id} is in a queue again after its end")
        return None

    def _check_rows(self) -> None:
        captured: dict[int, int] = {}
        now_us = self.redis.store.now_us()
        for row in self._recorded:
            if abs(row.at_us - now_us) > _CLOCKS_APART_US:
                self.fail(f"{row.event} of message {row.message_id} has the time of another clock")
            events = self.activity.setdefault(row.organisation_id, {})
            events[row.event] = events.get(row.event, 0) + row.units
            if not row.message_id:
                self.announced[row.organisation_id, row.at_us] += 1
                continue
            known = self.messages[row.message_id]
            if row.event in ("accepted", "scheduled"):
                known.begun += 1
            elif row.event in _ENDS:
                if known.ended:
                    self.fail(f"message {row.message_id} ended twice: {known.ended}, {row.event}")
                known.ended = row.event
                if row.event == "canceled" and (wrong := self.carried.canceled(row.message_id)):
                    self.fail(wrong)
                if _ENDS.get(row.event) == "captured":
                    captured[row.organisation_id] = captured.get(row.organisation_id, 0) + row.units
            if known.begun != 1 or (known.state == "ended") != bool(known.ended):
                self.fail(f"message {row.message_id} is {known.state} after {row.event}")
        for _, _, deltas in self._used:
            for o, (_, units, _) in deltas.items():
                if units != captured.get(o, 0):
                    self.fail(f"organisation {o} was charged {units}, sent {captured.get(o, 0)} units")

    def lose(self, shards: set[int]) -> None:
        """From now on, until its books are closed, nothing can be said of these shards."""
        self.broken |= shards
        for o, s in self.sums.items():
            if s.shard in shards:
                self.changed(o)

    def past(self) -> Past:
        """What is true now, for `rewound`."""
        return Past(
            {message_id: (k.state, k.begun, k.ended) for message_id, k in self.messages.items()},
            dict(self.keys),
            {o: dict(events) for o, events in self.activity.items()},
            Counter(self.announced),
            [history.fork for history in self.histories],
        )

    def emptied(self) -> None:
        """Redis has lost everything."""
        self.on_two.emptied()
        self.rewound(Past({}, {}, {}, Counter(), [None] * self.shards))

    def rewound(self, past: Past) -> None:
        """Redis has the data of an earlier moment, perhaps one that it went back behind since.

        Where the books are not ahead of it, nothing is uncertain: what was lost has never been.
        """
        self.carried.rewound(set(self.messages))
        kept = {message_id for message_id, (state, _, _) in past.messages.items() if state != "lost"}
        if wrong := self.on_two.rewound(kept):
            self.fail(wrong)
        self.keys, self.activity = dict(past.keys), {o: dict(e) for o, e in past.activity.items()}
        self.announced = Counter(past.announced)
        self._queued_units = [0] * self.shards
        for s in self.sums.values():
            s.h = 0
        for message_id, known in self.messages.items():
            known.state, known.begun, known.ended = past.messages.get(message_id, ("lost", 0, ""))
            known.places = int(known.state == "queued")
            if known.places:
                self.sums[known.organisation_id].h += known.units
                self._queued_units[known.shard] += known.units
        self._exchanging = True
        for shard in range(self.shards):
            self._look_at(shard, past.forks[shard])
        self._exchanging = False
        for o in self.sums:
            self.changed(o)

    def _look_at(self, shard: int, fork: str | None) -> None:
        """What is true of a shard whose data was exchanged."""
        db, tables = self.redis.store.db, self.postgres.tables
        history = self.histories[shard]
        history.went_to(self.link(shard), fork)
        self.broken.discard(shard)
        generation = tables.generations.get(shard)
        named = db.get(generation_key(shard), b"").decode()
        self._closed_before[shard] = named[len("closing:") :] if named.startswith("closing:") else None
        sealed = db.get(usage_head_key(shard), {}).get(b"from")
        if sealed is not None and sealed != b"-":
            # It was not closed before it was sealed.
            self._closed_before[shard] = None
        if generation is not None:
            behind = history.between(tables.marks[shard].link, self.link(shard))
            # What a fence has ended that Redis lacks now, others may spend.
            begun = tables.begun_after(shard)
            fenced = begun is None or history.between(begun.link, self.link(shard)) is not None
            lost = behind is None or not fenced
            if lost or named not in (generation, f"closing:{generation}"):
                self.broken.add(shard)
            else:
                history.behind = behind or deque()
                self._recount(shard)
        for holding in self.holdings.values():
            known = db.get(holder_key(shard, holding.name), {})
            holding.went_back(shard, int(known.get(b"epoch", b"-1")), known.get(b"applied", b"").decode())

    def link(self, shard: int) -> str:
        """Of the last usage entry, as Redis says."""
        head: dict[bytes, bytes] = self.redis.store.db.get(usage_head_key(shard), {})
        return head.get(b"link", b"").decode()

    def _recount(self, shard: int) -> None:
        """What was captured, by the books and by what they have not applied yet."""
        behind = self.histories[shard].behind
        for o, s in self.sums.items():
            if s.shard == shard:
                s.c = self.shadow[o][1] + sum(u.deltas[o][1] for u in behind if o in u.deltas)

    # -- PostgreSQL

    def topped_up(self, organisation_id: int, units: int) -> None:
        s = self.sums[organisation_id]
        s.t += units
        s.a += units
        self.changed(organisation_id)

    def committed(self, change: Change) -> None:
        tables = self.postgres.tables
        self.books.committed(change)
        for o, (available, granted, _, _) in change.accounts.items():
            self.sums[o].a = available
            quotas = sum(tables.quotas.get(o, {}).values())
            if quotas != granted:
                self.fail(f"organisation {o}: granted {granted}, quotas {quotas}")
        if change.generation is not None:
            self._closed(*change.generation)
            return
        touched = set(change.accounts)
        for shard, mark in change.marks.items():
            behind = self.histories[shard].between(mark.link, self.link(shard))
            if behind is None:
                # It was read before Redis went back.
                self.lose({shard})
            else:
                touched |= self._read_again(shard, len(behind))
        for shard, mark in change.begun.items():
            if self.histories[shard].between(mark.link, self.link(shard)) is None:
                self.lose({shard})
        for o in sorted(touched):
            row = tables.accounts[o]
            unbooked = self.books.unbooked(o)
            booked = [
                row.held + unbooked.held - unbooked.captured - unbooked.released,
                row.captured + unbooked.captured,
            ]
            if booked != self.shadow[o] and self.sums[o].shard not in self.broken:
                self.fail(
                    f"organisation {o}: the books say held {booked[0]}, captured {booked[1]}; "
                    f"the entries up to their position {self.shadow[o]}"
                )
            self.changed(o)
        self.books.come_right(change.marks)

    def _read_again(self, shard: int, left: int) -> set[int]:
        """Up to the last `left` entries."""
        behind, touched = self.histories[shard].behind, set()
        while len(behind) > left:
            for o, (held, captured, released) in behind.popleft().deltas.items():
                shadow = self.shadow[o]
                shadow[0] += held - captured - released
                shadow[1] += captured
                touched.add(o)
        return touched

    def _closed(self, shard: int, generation: str) -> None:
        """The books of a lost shard are closed: from here on everything is certain again, unless
        Redis has lost that too meanwhile."""
        if self.books.went_back:
            self.fail(f"shard {shard} is closed, and its charges with it, though Redis has all its usage")
        self.lost.add(shard)
        named = self.redis.store.db.get(generation_key(shard), b"").decode()
        history = self.histories[shard]
        behind = history.between(generation, self.link(shard))
        if behind is None or named != f"closing:{generation}":
            self.lose({shard})
            return
        self.broken.discard(shard)
        history.behind = behind
        settling = settled(behind)
        for o, units in history.settling.items():
            if settling.get(o, 0) < units:
                self.fail(f"organisation {o}: {units} units were settled, closed with {settling.get(o, 0)}")
        for o, s in self.sums.items():
            if s.shard == shard:
                row = self.postgres.tables.accounts[o]
                if row.held != s.h + settling.get(o, 0):
                    self.fail(f"organisation {o}: closed with {row.held} held, Redis has {s.h}")
                self.shadow[o] = [row.held, row.captured]
        self._recount(shard)
        for o, s in self.sums.items():
            if s.shard == shard:
                self.changed(o)
