"""Service: looks up what waits of the organisations that a gate watches.

Redis away: nothing is known, and the gate refuses nobody for what waits after a while (`engine.limits.gate`).
Killed or frozen: nothing is kept here.
"""

from __future__ import annotations

from engine.clocks.waits import next_tick
from engine.errors import Unavailable
from engine.limits.gate import Gate
from engine.limits.ports import Backlogs

_LOOK_S = 0.5


async def watch(gate: Gate, backlogs: Backlogs, look_s: float = _LOOK_S) -> None:
    """Look again and again, until canceled."""
    while True:
        await next_tick(look_s)
        watched = gate.watched()
        if not watched:
            continue
        try:
            gate.see(await backlogs.backlogs(watched))
        except Unavailable:
            continue
