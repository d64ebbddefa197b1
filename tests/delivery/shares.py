"""How exactly organisations with a backlog share a queue: workers on virtual time, and a real Redis.

The steps in Redis, the reads and all of the worker are real. The provider takes messages at one rate, and a
call to Redis takes one time. So what is measured does not depend on what the machine has to do.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import hiredis
import structlog

from engine import redis_keys as keys
from engine.credit.flush import Flush
from engine.limits.records import LimitRow, ShardLimits
from engine.organisations import Limits
from engine.providers.ports import Verdicts
from engine.records import Addressed, Message, Submission
from engine.shards import shard_of
from engine.stores.redis import admit_wire
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.limits import limit
from engine.stores.redis.link import Command, pack
from engine.stores.redis.lua_libraries import libraries
from engine.stores.redis.queue import QueueStreams
from engine.stores.redis.wire import ReplyError
from tests.delivery.carrier import Carrier
from tests.delivery.test_turns_of_delivery import PaceInMemory, started
from tests.delivery.turns import VirtualTime
from tests.stores.redis.kit import FAR_FUTURE_US

# A call to Redis, there and back, seconds.
_TRIP_S = 0.002
# How often a provider with a rate of its own answers, seconds.
_TICK_S = 0.004
_WINDOW_S = 10
_ADMITTED = 2000


class DirectLink:
    """A connection to a real Redis (as `RedisLink.batch`), whose calls take a virtual time.

    It differs from call to call, and is `trip_s` in the mean.
    """

    def __init__(self, url: str, database: int, trip_s: float = _TRIP_S) -> None:
        to = urlsplit(url)
        self._trip_s, self._rng = trip_s, Random(3)
        # When Redis has carried out what came before.
        self._done_s = 0.0
        if to.path and to.scheme == "unix":
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(to.path)
        else:
            self._socket = socket.create_connection((to.hostname, to.port))
        self._reader = hiredis.Reader(replyError=ReplyError)
        if to.password:
            self.call(("AUTH", to.password))
        self.call(("SELECT", database))

    def close(self) -> None:
        self._socket.close()

    def call(self, *commands: Command) -> list[Any]:
        """The replies, at once."""
        self._socket.sendall(pack(commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(1 << 20))
            else:
                replies.append(reply)
        return replies

    async def batch(self, commands: Sequence[Command], *, timeout_s: float | None = None) -> list[Any]:
        if not commands:
            return []
        now_s = asyncio.get_running_loop().time()
        self._done_s = max(self._done_s, now_s + self._trip_s * self._rng.uniform(0.1, 0.9))
        await asyncio.sleep(self._done_s - now_s)
        replies = self.call(*map(_unblocked, commands))
        await asyncio.sleep(self._trip_s / 2)
        return replies


def _unblocked(command: Command) -> Command:
    """A read that does not wait: the virtual time would stand still meanwhile."""
    if "BLOCK" not in command:
        return command
    at = command.index("BLOCK")
    return command[:at] + command[at + 2 :]


class Send(NamedTuple):
    """When a message was sent, seconds, and whose it was."""

    at_s: float
    organisation: int


class SteadyCarrier(Carrier):
    """A provider that takes so many messages a second, one after another, and answers several at once."""

    def __init__(self, virtual: VirtualTime, rate: float | None, busy_s: float = 0.0) -> None:
        """`rate`: None: it answers all at the next tick. `busy_s`: each send takes so long of the process,
        seconds."""
        super().__init__()
        self._virtual, self._rate, self._busy_s = virtual, rate, busy_s
        self._taken: deque[tuple[int, Verdicts]] = deque()
        self._credit = 0.0
        self._ticks = False
        self.sends: list[Send] = []

    def submit_all(self, messages: Sequence[Message], first: int, verdicts: Verdicts) -> None:
        clock = self._virtual.clock
        for token, message in enumerate(messages, first):
            clock.now += self._busy_s
            self.sends.append(Send(clock.now, message.organisation_id))
            self._taken.append((token, verdicts))
        if not self._ticks:
            self._ticks = True
            asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        count = len(self._taken)
        if self._rate is not None:
            self._credit = min(self._credit + self._rate * _TICK_S, count)
            count = int(self._credit)
            self._credit -= count
        ended: dict[int, tuple[Verdicts, list[int]]] = {}
        for _ in range(count):
            token, verdicts = self._taken.popleft()
            ended.setdefault(id(verdicts), (verdicts, []))[1].append(token)
        for verdicts, tokens in ended.values():
            verdicts.accepted(tokens, [f"c{token}" for token in tokens], [1] * len(tokens), "")
        self._ticks = bool(self._taken)
        if self._ticks:
            asyncio.get_running_loop().call_later(_TICK_S, self._tick)


class Deviation(NamedTuple):
    """How far organisations of one weight were off their share in ten seconds."""

    weight: int
    # Messages of one organisation in ten seconds.
    share: float
    # In messages: the most, and by the shard as a whole and within the shard the most.
    most: float
    by_shard: float
    within_shard: float
    # The part of all stretches within a tenth, and within a tenth or one message; and within a tenth if only
    # the shards, or only the turns within each, were off.
    tenth: float
    tenth_or_one: float
    tenth_by_shard: float
    tenth_within: float


class SharedQueue:
    """Organisations of weights 1 to 4 with a backlog, in shards, and workers that send it.

    `trip_s`: how long a call of a worker to Redis takes in the mean, seconds.
    """

    def __init__(
        self, url: str, database: int, *, organisations: int = 1000, shards: int = 16, trip_s: float = _TRIP_S
    ) -> None:
        self._url, self._database, self.trip_s = url, database, trip_s
        self._shards = shards
        self.weights = {organisation: 1 + organisation % 4 for organisation in range(2, 2 + organisations)}
        self._link = DirectLink(url, database)
        self._links = [self._link]
        self._sequence = dict.fromkeys(range(shards), 0)

    def close(self) -> None:
        self._link.call(("FLUSHDB",))
        for link in self._links:
            link.close()

    def fill(self, messages: int) -> None:
        """Give the organisations a backlog of so many messages, by their weights."""
        of = range(self._shards)
        for _, code in libraries():
            self._link.call(("FUNCTION", "LOAD", "REPLACE", code))
        self._call(("FLUSHDB",))
        self._call(*(wire.make_group("normal", s) for s in of))
        self._call(*(("SET", keys.generation_key(s), "g1") for s in of))
        epochs = self._call(*(wire.register("h", s) for s in of))
        whole, rng = sum(self.weights.values()), Random(1)
        for shard in of:
            here = [o for o in self.weights if shard_of(o, self._shards) == shard]
            rows = [LimitRow(o, Limits(weight=self.weights[o]), False) for o in here]
            assert self._call(limit(ShardLimits(shard, "", "1", False, rows))) == [1]
            self._call(wire.refill("normal", shard, wire.Room(4)))
            rng.shuffle(here)
            submissions = [
                self._submission(organisation, -(-messages * self.weights[organisation] // whole))
                for organisation in here
            ]
            while submissions:
                some: list[Submission] = []
                while submissions and sum(len(one.messages) for one in some) < _ADMITTED:
                    some.append(submissions.pop())
                self._sequence[shard] += 1
                flush = Flush(shard, epochs[shard], self._sequence[shard], list(enumerate(some)), [])
                assert self._call(admit_wire.admit("h", flush))[0][0] == b"applied"

    def _submission(self, organisation: int, count: int) -> Submission:
        addressed = [
            Addressed(
                queue="normal", due_at_us=0,
                message=Message(
                    id=f"{organisation}-{n}", organisation_id=organisation, to="+4915112345678", text="hello",
                    sender="", units=1, encoding="GSM-7", segments=1, accepted_at_us=1,
                    expires_at_us=FAR_FUTURE_US,
                ),
            )
            for n in range(count)
        ]  # fmt: skip
        return Submission(organisation_id=organisation, messages=addressed, units=count, answer=b"")

    def _call(self, *commands: Command) -> list[Any]:
        replies = self._link.call(*commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        return replies

    def reader(self, name: str) -> QueueStreams:
        links = [DirectLink(self._url, self._database, self.trip_s) for _ in range(2)]
        self._links += links
        return QueueStreams(
            links[0], links[1],  # type: ignore[arg-type]
            queue="normal", shards=self._shards, worker_name=name, timeout_s=60, log=structlog.get_logger(),
        )  # fmt: skip

    def sent(
        self, seconds: float, *, rate: float | None = None, limit: float | None = None, busy_s: float = 0.0,
        workers: int = 1, stalls: float = 0.0, concurrency: int = 200, settle_s: float = 3.0,
    ) -> list[Send]:  # fmt: skip
        """What is sent in so many seconds, behind the first few. `stalls`: in such a part of its turns the
        process of the workers is held up, for 50 ms in the mean."""
        with VirtualTime() as virtual:
            virtual.clock.stall, virtual.clock.stall_s = stalls, 0.05
            carriers = [SteadyCarrier(virtual, rate and rate / workers, busy_s) for _ in range(workers)]
            pace = PaceInMemory(virtual)
            for number, carrier in enumerate(carriers):
                reader = self.reader(f"w{number}")
                virtual.start(reader.join())
                virtual.pass_s(0.01 + 0.0137 * number)
                limits = {} if limit is None else {"carrier": limit}
                started(virtual, reader, [carrier], pace, limits=limits, concurrency=concurrency)
            virtual.pass_s(settle_s)
            before = [len(carrier.sends) for carrier in carriers]
            virtual.pass_s(seconds)
            return sorted(
                send
                for carrier, first in zip(carriers, before, strict=True)
                for send in carrier.sends[first:]
            )

    def deviations(self, sends: Sequence[Send], step_s: float = 1.0) -> list[Deviation]:
        """By weight, over all stretches of ten seconds that begin `step_s` apart."""
        begin_s, end_s = sends[0].at_s, sends[-1].at_s
        steps = int((end_s - begin_s) / step_s)
        counts = [dict.fromkeys(self.weights, 0) for _ in range(steps + 1)]
        for send in sends:
            counts[int((send.at_s - begin_s) / step_s)][send.organisation] += 1
        return self._deviations(counts[:steps], int(_WINDOW_S / step_s))

    def _deviations(self, counts: Sequence[Mapping[int, int]], window: int) -> list[Deviation]:
        whole = sum(self.weights.values())
        of_shard: dict[int, list[int]] = {}
        for organisation in self.weights:
            of_shard.setdefault(shard_of(organisation, self._shards), []).append(organisation)
        weight_of_shard = {s: sum(self.weights[o] for o in of) for s, of in of_shard.items()}
        found: dict[int, list[tuple[float, float, float, float]]] = {
            w: [] for w in set(self.weights.values())
        }
        got = dict.fromkeys(self.weights, 0)
        for at, count in enumerate(counts):
            for organisation, n in count.items():
                got[organisation] += n
            if at >= window:
                for organisation, n in counts[at - window].items():
                    got[organisation] -= n
            if at < window - 1:
                continue
            unit = sum(got.values()) / whole
            for shard, of in of_shard.items():
                unit_here = sum(got[o] for o in of) / weight_of_shard[shard]
                for o in of:
                    weight = self.weights[o]
                    found[weight].append(
                        (
                            unit * weight,
                            got[o] - unit * weight,
                            (unit_here - unit) * weight,
                            got[o] - unit_here * weight,
                        )
                    )
        return [_deviation(weight, found[weight]) for weight in sorted(found)]


def _deviation(weight: int, of: Sequence[tuple[float, float, float, float]]) -> Deviation:
    def part(holds: Iterable[bool]) -> float:
        return sum(holds) / len(of)

    return Deviation(
        weight,
        sum(fair for fair, *_ in of) / len(of),
        max(abs(off) for _, off, _, _ in of),
        max(abs(off) for _, _, off, _ in of),
        max(abs(off) for _, _, _, off in of),
        part(abs(off) <= 0.1 * fair for fair, off, _, _ in of),
        part(abs(off) <= max(0.1 * fair, 1.0) for fair, off, _, _ in of),
        part(abs(off) <= 0.1 * fair for fair, _, off, _ in of),
        part(abs(off) <= 0.1 * fair for fair, _, _, off in of),
    )
