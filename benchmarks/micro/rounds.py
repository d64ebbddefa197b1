"""Times several ways to do the same thing, in turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping


def fastest_ns(ways: Mapping[str, Callable[[], object]], items: int, rounds: int) -> dict[str, float]:
    """Nanoseconds per item of each way: its fastest round, each round running `items` items.

    The ways take turns, so that a slow phase of the machine slows all of them and their ratios
    hold. Each turn begins with a round that is not timed, so that no way finds the processor's
    caches full of another's data. The fastest round is the one that was disturbed least.
    """
    best = dict.fromkeys(ways, float("inf"))
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, way in ways.items():
                way()
                begun = time.perf_counter_ns()
                way()
                best[name] = min(best[name], (time.perf_counter_ns() - begun) / items)
    finally:
        if collecting:
            gc.enable()
    return best
