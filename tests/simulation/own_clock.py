"""The clocks of simulated machines: the steady one of each begins elsewhere, the time of day is off."""

from __future__ import annotations

import zlib

from engine.clocks.store_clock import StoreClock
from engine.stores.redis.pulse import Pulse
from tests.simulation.world import Role, World

# How far the time of day of a process's machine is ahead, seconds: of one in three an hour, of one in
# three minus an hour. They are told by the name, so that no seed draws otherwise for them.
_AHEAD_S = (0, 3600, -3600)


def pulse_of(world: World, role: Role) -> Pulse:
    """The pulse of one process, whose clock is not measured yet."""
    number = zlib.crc32(role.process.name.encode())
    ahead_us = _AHEAD_S[number % len(_AHEAD_S)] * 1_000_000
    started_us = number * 1000
    clock = StoreClock(
        world.log,  # type: ignore[arg-type]
        steady_us=lambda: int(world.clock.now * 1e6) + started_us,
        wall_us=lambda: world.clock.now_us() + ahead_us,
    )
    return Pulse(clock, role.process.name, world.log)  # type: ignore[arg-type]
