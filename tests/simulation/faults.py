"""What befalls the world while there is chaos. Each seed draws which faults, and how often."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from engine.redis_keys import held_by_key
from tests.simulation.checkers import Past
from tests.simulation.postgres_server import Tables
from tests.simulation.supervisor import Supervisor
from tests.simulation.wires import Wire
from tests.simulation.world import Role, World

_RATES = (0.0, 0.3, 1.0, 2.0)
_CUTS = (0.0, 0.002, 0.01, 0.04)
_STALLS = (0.0, 0.002, 0.01)
_REWINDS = (0.0, 0.0, 0.5, 2.0)
# Before which function; "" for any moment.
_MOMENTS = ("", "", "admit", "deliver", "settle", "fence", "register", "seal", "close", "begin")
# From how long ago at most the data is that Redis comes back with.
_AGES_S = (0.01, 0.2, 1.0)
# Longer than a run takes: all entries from there on have the same milliseconds.
_FAR_BEHIND_MS = -40_000
# The same for PostgreSQL.
_BOOKS_AGES_S = (0.05, 0.5, 3.0)


class Faults:
    """Faults at random times until `until`; every one of them is over by then."""

    def __init__(self, world: World, supervisor: Supervisor, until: float) -> None:
        self._world = world
        self._supervisor = supervisor
        self._until = until
        rng = world.clock.rng

        def kill_settling() -> None:
            kill_half_settled(world)

        every: list[Callable[[], None]] = [
            self._kill, self._kill, kill_settling, self._freeze, self._freeze_long, self._fence_alive,
            self._drain, self._restart_redis, self._stall_redis, self._restart_postgres, self._stall_postgres,
            self._depose_ledger, self._cut_wires, self._fill_redis,
        ]  # fmt: skip
        self.enabled = rng.sample(every, rng.randrange(len(every) + 1))
        self._rate = rng.choice(_RATES) if self.enabled else 0.0
        self._moments = _MOMENTS
        world.weather.cut = rng.choice(_CUTS)
        world.clock.stall = rng.choice(_STALLS)
        world.clock.stall_s = rng.choice((0.001, 0.01))
        names = sorted({fault.__name__.strip("_") for fault in self.enabled})
        world.clock.trace("faults", names, "rate", self._rate, "cut", world.weather.cut)
        if rng.random() < 0.15 and not world.books_go_back:
            world.clock.at(rng.random() * until, self._lose_redis)
        # How often Redis goes back, a second.
        self._rewinds = rng.choice(_REWINDS) if world.rewinds else 0.0
        if world.half_fences:
            _halve_fences(self, world)
        if world.clock_behind:
            self._rewinds = _REWINDS[-1]
        if world.faults:
            self.enabled = [fault for fault in every if fault.__name__.strip("_") in world.faults]
            self._rate = _RATES[-1]
        world.clock.at(until, self._end)
        self._next()
        self._next_rewind()
        if world.books_go_back:
            for _ in range(1 + rng.randrange(4)):
                world.clock.at(rng.random() * until, rewind_postgres, world, until)
        if world.older_sums:
            for _ in range(4):
                world.clock.at(rng.random() * until, forget_who_holds, world)

    def _next(self) -> None:
        clock = self._world.clock
        if self._rate and (at := clock.now + clock.rng.expovariate(self._rate)) < self._until:
            clock.at(at, self._strike)

    def _next_rewind(self) -> None:
        clock = self._world.clock
        if self._rewinds and (at := clock.now + clock.rng.expovariate(self._rewinds)) < self._until:
            clock.at(at, self._rewind_redis)

    def _strike(self) -> None:
        fault = self._world.clock.rng.choice(self.enabled)
        self._world.clock.trace("fault", fault.__name__.strip("_"))
        fault()
        self._next()

    def _end(self) -> None:
        world = self._world
        world.clock.trace("calm")
        world.weather.cut = world.weather.slow = world.clock.stall = 0.0
        world.redis.before = None
        world.redis.full = False
        world.redis.after_admit = None
        world.redis.after_settle = None
        world.calm = True

    def _seconds(self, least: float, most: float) -> float:
        """A duration that ends before the chaos does."""
        clock = self._world.clock
        return min(least + clock.rng.random() * (most - least), self._until - clock.now)

    def _any(self, kind: str = "") -> Role | None:
        roles = [r for r in self._world.roles if not kind or r.process.role == kind]
        return self._world.clock.rng.choice(roles) if roles else None

    def _kill(self) -> None:
        if (role := self._any()) is not None:
            self._world.kill(role)

    def _freeze(self) -> None:
        if (role := self._any()) is not None:
            role.process.hold(self._seconds(0.005, 0.5))

    def _freeze_long(self) -> None:
        if (role := self._any()) is not None:
            role.process.hold(self._seconds(0.5, 9.0))

    def _fence_alive(self) -> None:
        """Fenced while it is frozen, as by an overdue heartbeat; it wakes and knows nothing."""
        if (role := self._any("ingest")) is not None:
            role.process.hold(self._seconds(0.0, 2.0))
            fencing = self._supervisor.fence(role.process.name)
            self._supervisor.process.call_soon(self._supervisor.process.create_task, fencing)

    def _drain(self) -> None:
        if (role := self._any()) is not None:
            role.draining.set()

    def _restart_redis(self) -> None:
        world = self._world
        if world.redis.up:
            world.redis.stop()
            world.clock.after(self._seconds(0.02, 2.0), setattr, world.redis, "up", True)

    def _stall_redis(self) -> None:
        """Redis is busy for a moment, and its replica behind for as long after it."""
        redis, clock = self._world.redis, self._world.clock
        busy_s = self._seconds(0.02, 0.8)
        redis.busy_until = clock.now + busy_s
        behind_s = min(2 * busy_s, self._until - clock.now)
        clock.after(behind_s, redis.replica.catch_up, redis.replica.fall_behind())

    def _fill_redis(self) -> None:
        """Redis is at its limit of memory for a while: now, or from a flush on whose answer is lost."""
        if self._world.clock.rng.random() < 0.5:
            self._fill()
        else:
            self._world.redis.after_admit = self._fill_and_cut

    def _fill(self) -> None:
        if self._world.clock.now < self._until:
            self._world.redis.full = True
            self._world.clock.after(self._seconds(0.01, 3.0), setattr, self._world.redis, "full", False)

    def _fill_and_cut(self, wire: Wire) -> None:
        self._fill()
        wire.fail()

    def _restart_postgres(self) -> None:
        world = self._world
        if world.postgres.up:
            world.postgres.stop()
            world.clock.after(self._seconds(0.02, 4.0), setattr, world.postgres, "up", True)

    def _stall_postgres(self) -> None:
        self._world.postgres.busy_until = self._world.clock.now + self._seconds(0.02, 1.0)

    def _depose_ledger(self) -> None:
        """The active ledger is frozen, and PostgreSQL ends its session: another leads."""
        leader = self._world.postgres.leader
        if leader is not None:
            leader.process.hold(self._seconds(0.0, 3.0))
            self._world.clock.after(self._seconds(0.0, 0.5), self._world.postgres.drop, leader)

    def _cut_wires(self) -> None:
        role = self._any()
        for server in (self._world.redis, self._world.postgres):
            for wire in sorted(server.wires, key=hash):
                if role is not None and wire.process is role.process:
                    wire.fail()

    def _lose_redis(self) -> None:
        """Redis comes back empty."""
        world = self._world
        world.clock.trace("redis loses everything")
        world.redis.stop()
        world.redis.lose()
        world.truth.emptied()
        world.clock.after(self._seconds(0.02, 1.0), setattr, world.redis, "up", True)

    def _rewind_redis(self) -> None:
        """Redis comes back as it was up to a second ago: what it had not persisted is lost.

        Or what it had not replicated: then it is another machine, whose clock may be behind.
        """
        world = self._world
        world.redis.before = (world.clock.rng.choice(self._moments), self._rewind_soon)
        if not world.redis.before[0]:
            self._rewind_soon()
        self._next_rewind()

    def _rewind_soon(self) -> None:
        """To how it is now."""
        world = self._world
        world.redis.before = None
        if world.clock.now < self._until:
            then = world.redis.snapshot(), world.truth.past(), world.redis.replica.fall_behind()
            age_s = world.clock.rng.choice(_AGES_S)
            world.clock.after(self._seconds(0.0, age_s), self._rewind_to, *then)

    def _rewind_to(self, kept: dict[bytes, Any], past: Past, behind: int) -> None:
        world = self._world
        world.redis.replica.catch_up(behind)
        rng = world.clock.rng
        world.redis.stop()
        world.redis.lose(kept)
        skew_ms = rng.choice((0, 0, rng.randrange(-500, 500), rng.randrange(-3000, 1000)))
        world.redis.store.skew_ms = _FAR_BEHIND_MS if world.clock_behind else skew_ms
        world.truth.rewound(past)
        world.clock.trace("redis goes back; lost are shards", sorted(world.truth.broken))
        world.clock.after(self._seconds(0.02, 1.0), setattr, world.redis, "up", True)


def _halve_fences(faults: Faults, world: World) -> None:
    """Fences that are booked in part, a Redis that goes back, and another ledger that leads."""
    faults.enabled = [faults._fence_alive] * 2 + [faults._depose_ledger] * 2 + [faults._kill]
    faults._rate = faults._rewinds = 2.0
    faults._moments = ("", "deliver", "fence", "fence", "register", "admit")
    world.weather.locked, world.weather.quotas_max = 0.1, (0, 1, 1, 2)


def forget_who_holds(world: World) -> None:
    """As where an older version wrote last, which kept what all messages hold alone; then ledgers begin."""
    world.clock.trace("only the sum of what messages hold is known")
    for shard in range(world.settings.shards):
        world.redis.store.db.pop(held_by_key(shard), None)
    world.truth.held_by.uncounted = set(range(world.settings.shards))
    for role in [role for role in world.roles if role.process.role == "ledger"]:
        world.kill(role)


def rewind_postgres(world: World, until: float) -> None:
    """A standby is promoted a while from now that lacks all moments from now on; before `until`."""
    if set(world.postgres.tables.generations) == set(range(world.settings.shards)):
        then = copy.deepcopy(world.postgres.tables)
        rng = world.clock.rng
        age_s = min(rng.random() * rng.choice(_BOOKS_AGES_S), until - world.clock.now)
        world.clock.after(age_s, _promote, world, then)


def _promote(world: World, tables: Tables) -> None:
    # What no note shows is what one transaction wrote whose ledger was killed before it noted it.
    if world.postgres.up and world.truth.books.shows(tables):
        world.clock.trace("postgresql goes back")
        world.postgres.stop()
        world.postgres.tables = tables
        world.truth.books.go_back()
        world.clock.after(world.clock.rng.choice((0.02, 0.5)), setattr, world.postgres, "up", True)


def kill_half_settled(world: World) -> None:
    """Kill a worker when it has settled a part of a bundle, before it knows that."""

    def kill(wire: Wire) -> None:
        lines = [of for key, of in world.redis.store.db.items() if key.startswith(b"wait:")]
        if not any(name.startswith(b"part:") for of in lines for name in of):
            world.redis.after_settle = kill
            return
        for role in [role for role in world.roles if role.process is wire.process]:
            world.clock.after(0.0, kill_if_alive, world, role)

    world.redis.after_settle = kill


def kill_if_alive(world: World, role: Role) -> None:
    """Kill a process that may have ended since."""
    if role in world.roles:
        world.kill(role)
