"""How long what comes to a process waits for its loop, looked at at random."""

from __future__ import annotations

import asyncio
import random
import time

from engine.histogram import Histogram

# From a look to the next, milliseconds.
_LOOK_MS = (50, 150)


async def watch_lag(lag: Histogram) -> None:
    """Add about ten times a second how late a timer comes, until canceled.

    The times are drawn, so a timer waits as long in the mean as an answer that comes at any time (PASTA:
    R. W. Wolff, Poisson Arrivals See Time Averages, 1982).
    """
    while True:
        wait_s = random.randint(*_LOOK_MS) / 1000
        due_s = time.monotonic() + wait_s
        await asyncio.sleep(wait_s)
        lag.add(max(0.0, time.monotonic() - due_s))
