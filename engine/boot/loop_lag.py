"""How long what comes to a process waits for its loop, looked at at random."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from engine.clocks.waits import next_tick
from engine.histogram import Histogram

# From a look to the next, milliseconds.
_LOOK_MS = (50, 150)
# And while there is no work, seconds.
_REST_S = 1.0


async def watch_lag(lag: Histogram, works: Callable[[], bool]) -> None:
    """Add about ten times a second how late a timer comes, until canceled. While the process does not work,
    it only looks once a second whether it `works`: a process at rest pays for each time that it wakes.

    The times are drawn, so a timer waits as long in the mean as an answer that comes at any time (PASTA:
    R. W. Wolff, Poisson Arrivals See Time Averages, 1982).
    """
    while True:
        if not works():
            await next_tick(_REST_S)
            continue
        wait_s = random.randint(*_LOOK_MS) / 1000
        due_s = time.monotonic() + wait_s
        await asyncio.sleep(wait_s)
        lag.add(max(0.0, time.monotonic() - due_s))
