"""One world: servers, processes, supervisor, clients, faults; from a seed to a verdict."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Collection, Coroutine
from random import Random
from typing import Any

import msgspec

from engine.errors import Unavailable
from engine.records import VerdictKind
from engine.routing.records import RoutingPlan
from tests.routing.throughput_model import Timeline
from tests.simulation.checkers import Truth, Violation
from tests.simulation.clock import Clock, Process
from tests.simulation.ledger_store import LedgerBooks
from tests.simulation.postgres_server import PostgresServer
from tests.simulation.redis_functions import Functions
from tests.simulation.redis_server import RedisServer
from tests.simulation.throughput_check import ThroughputCheck
from tests.simulation.wires import Link, Network, Weather


class Settings(msgspec.Struct, kw_only=True):
    """The engine's settings in this world, and how much of it there is."""

    shards: int
    ingest: int
    workers: int
    ledgers: int
    # False: the lock that chooses one ledger does not hold, and all of them lead.
    lock_holds: bool
    # Messages count as accepted when the master has them, or when its replica has them too.
    accepted_on: int = 1
    quota_s: float = 2.0
    quota_min: int
    validity_s: float
    timeout_s: float
    link_timeout_s: float
    take_over_s: float = 4.0
    overdue_s: float = 6.0
    gather_s: float
    # Organisations that every holder asks for when it starts.
    spenders: list[int]
    # Virtual seconds of faults, and then of calm before the end.
    chaos_s: float
    # At most so many messages of a shard lie ready; the others wait in their organisation's turn.
    ready_max: int = 8
    calm_s: float = 11.0

    @staticmethod
    def drawn(rng: Random, organisations: list[int]) -> Settings:
        return Settings(
            shards=rng.choice((1, 2, 3, 8)),
            ingest=rng.choice((2, 3, 4)),
            workers=rng.choice((1, 2)),
            ledgers=rng.choice((1, 2, 3)),
            quota_min=rng.choice((1, 20, 100)),
            validity_s=rng.choice((1.0, 3.0)),
            timeout_s=rng.choice((1.5, 4.0)),
            link_timeout_s=rng.choice((0.5, 2.0)),
            gather_s=rng.choice((0.02, 0.1, 0.4)),
            spenders=organisations if rng.random() < 0.3 else [],
            chaos_s=rng.choice((3.0, 6.0, 12.0)),
            lock_holds=rng.random() < 0.75,
            ready_max=rng.choice((1, 2, 8, 16, 40)),
        )


class Log:
    """Takes the engine's log lines into the trace."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def _line(self, event: str, **fields: object) -> None:
        if self._clock.lines is not None:
            loop = events._get_running_loop()
            name = loop.name if isinstance(loop, Process) else "-"
            self._clock.trace(name, event, *(f"{k}={v}" for k, v in fields.items()))

    info = warning = error = debug = _line


class Role:
    """One process at work, and how it is told to drain."""

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.draining = asyncio.Event()
        self.ready = False
        self.ingest: Any = None
        # It has ended by itself.
        self.over = False

    def start(self, main: Callable[[World, Role], Coroutine[Any, Any, None]]) -> None:
        self.process.create_task(self._run(main))

    async def _run(self, main: Callable[[World, Role], Coroutine[Any, Any, None]]) -> None:
        try:
            await main(self.world, self)
        except BaseExceptionGroup as group:
            rest = group.split(Unavailable)[1]
            if rest is not None:
                self.world.broken(self.process, rest)
        except Unavailable:
            # As engine/boot/__init__.py: the process ends, another takes its place.
            pass
        except Exception as e:  # everything else is an error of the engine, and a finding
            self.world.broken(self.process, e)
        self.world.clock.trace(self.process.name, "ends")
        self.over = True


def _with_few_shards(settings: Settings, seed: int) -> Settings:
    """A world in which a fence that is booked in part is lost sooner."""
    return msgspec.structs.replace(settings, shards=1 + seed % 2, ledgers=2 + seed % 2, chaos_s=6.0)


class World:
    """Everything there is. `servers` first, then processes by `spawn`."""

    def __init__(
        self,
        seed: int,
        settings: Settings,
        weather: Weather,
        *,
        functions: type[Functions] = Functions,
        ledger_books: type[LedgerBooks] = LedgerBooks,
        postgres: type[PostgresServer] = PostgresServer,
        rewinds: bool = True,
        books_go_back: bool = False,
        older_sums: bool = False,
        half_fences: bool = False,
        clock_behind: bool = False,
        operators: int = 0,
        cancelers: int = 0,
        throughput: float = 200.0,
        plans: list[RoutingPlan] | None = None,
        faults: Collection[str] = (),
    ) -> None:
        """`rewinds`: Redis loses the last moments of its data, not all of it. `books_go_back`: PostgreSQL
        does, and Redis loses nothing. `older_sums`: a version wrote last that kept of what messages hold the
        sum alone, and ledgers begin; again and again, and Redis does not go back. `half_fences`: the faults
        are those by which a fence is lost that is booked in part. `clock_behind`: Redis goes back often, and
        its clock does. `operators`: so many replay and drop dead letters, of which there are many then.
        `cancelers`: so many cancel messages, waiting or not. `throughput`: of the provider `other`, segments
        a second; with the usual one it is hardly ever reached. `plans`: routing plans that are in force one
        after another, a second each, all with the same throughput; in the end the first of them. `faults`:
        the only ones, by their names, and often (see faults.py)."""
        self.operators, self.cancelers = operators, cancelers
        self.half_fences, self.clock_behind = half_fences, clock_behind
        self.faults = faults
        if half_fences:
            settings = _with_few_shards(settings, seed)
        self.rewinds = rewinds and not books_go_back and not older_sums
        self.older_sums = older_sums
        self.books_go_back = books_go_back
        self.settings = settings
        self.clock = Clock(seed)
        self.weather = weather
        self.network = Network(self.clock, weather)
        self.log = Log(self.clock)
        self.truth = Truth(self.clock, settings.shards, settings.accepted_on)
        self.redis = self.truth.redis = RedisServer(self.clock, self.truth, functions)
        self.postgres = self.truth.postgres = postgres(self.clock, self.truth)
        self.postgres.lock_holds = settings.lock_holds
        self.ledger_books = ledger_books
        # What a process of each role does (see roles.py).
        self.mains: dict[str, Callable[[World, Role], Coroutine[Any, Any, None]]] = {}
        self.roles: list[Role] = []
        # Processes that are gone for good; kept, so that nothing of theirs is finalized early.
        self.graves: list[Process] = []
        # Requests under way, by process name.
        self.requests: dict[str, int] = {}
        # How often the carrier has accepted each message.
        self.sent: dict[str, int] = {}
        # What became of calls about dead letters, and what calls that cancel came upon.
        self.letters = {"replay": 0, "drop": 0, "gone": 0}
        self.cancels = {"canceled": 0, "in_hand": 0, "given_before": 0, "none": 0}
        # The slots of limited providers, as Redis keeps them.
        self.timelines: dict[str, Timeline] = {}
        self.plans = plans or [RoutingPlan(version=0)]
        self.throughputs = {"other": throughput, **self.plans[0].throughput}
        self.limited = {name: ThroughputCheck(rate) for name, rate in self.throughputs.items()}
        # How often messages were put off, and recalled.
        self.put_off = self.recalled = 0
        self.calm = False
        # Called with each process that is gone, to tell its clients and its supervisor.
        self.on_death: list[Callable[[Role], None]] = []
        self._numbers: dict[str, int] = {}

    # -- for roles

    def link(self, process: Process) -> Link:
        return Link(self.network, process, self.redis, self.settings.link_timeout_s)

    def verdict(self) -> tuple[VerdictKind, float]:
        rng = self.clock.rng
        draw, latency_s = rng.random(), 0.005 + rng.expovariate(1 / 0.03)
        if self.calm:
            return "accepted" if draw < 0.9 else "permanent", min(latency_s, 0.3)
        kinds: tuple[VerdictKind, ...] = ("temporary", "permanent", "unknown")
        return ("accepted" if draw < 0.8 else kinds[int(rng.random() * 3)]), latency_s

    async def idle(self, process: Process) -> None:
        """Until `process` has answered all its requests."""
        while self.requests.get(process.name):  # noqa: ASYNC110 - virtual time costs nothing
            await asyncio.sleep(0.05)

    def broken(self, process: Process, error: BaseException) -> None:
        if process.alive and not self.network.closed:
            self.clock.halted = self.clock.halted or f"{process.name} ended: {error!r}"

    # -- for the supervisor and the faults

    def process(self, role: str) -> Process:
        number = self._numbers[role] = self._numbers.get(role, 0) + 1
        return Process(self.clock, f"{role}{number}", role)

    def spawn(self, role: str) -> Role:
        process = self.process(role)
        made = Role(self, process)
        self.roles.append(made)
        self.clock.trace("spawn", process.name)
        process.call_soon(lambda: made.start(self.mains[role]))
        return made

    def kill(self, role: Role) -> None:
        """SIGKILL: nothing of it runs any more; the kernel closes its connections."""
        process = role.process
        self.clock.trace("kill", process.name)
        process.kill()
        self.graves.append(process)
        self.roles.remove(role)
        if (holding := self.truth.holdings.get(process.name)) is not None:
            holding.killed()
        for server in (self.redis, self.postgres):
            for wire in sorted(server.wires, key=hash):
                if wire.process is process:
                    wire.close()
        for tell in self.on_death:
            tell(role)

    def run(self, until: float, steps_max: int = 1 << 60) -> None:
        self.clock.run(until, steps_max)
        if self.clock.halted or self.clock.unheard:
            raise Violation(self.clock.halted or "; ".join(self.clock.unheard))

    def close(self) -> None:
        """End the world: nothing may be left that the interpreter finalizes in disorder."""
        self.network.closed = True
        for server in (self.redis, self.postgres):
            server.up = False
        for process in [*self.graves, *(role.process for role in self.roles)]:
            process.dispose()
        events._set_running_loop(None)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
