"""How long PostgreSQL and ClickHouse take, as this process has seen since it began.

There is one of each for the process, because its connections are made in many places, by libraries. Those of
Redis are counted where a link is made (`engine.boot.process`), which knows what the link is for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.histogram import ROUND_TRIP_S, Histogram

# From taking a connection until it is given back: a statement, or the transaction that it is in.
POSTGRES = Histogram(ROUND_TRIP_S)
# A call, and the connect before it if there is one.
CLICKHOUSE = Histogram(ROUND_TRIP_S)


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Note how long the block takes, unless it raises."""
    began_s = time.monotonic()
    yield
    histogram.add(time.monotonic() - began_s)
