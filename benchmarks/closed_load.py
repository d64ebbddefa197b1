"""A closed load over HTTP: connections that each send the next request when the last was answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial

from benchmarks.tally import Tally
from engine.providers.http_client.connection import HttpOutcome
from engine.providers.http_client.pool import HttpPool

# Method, path, header lines, body.
Request = tuple[bytes, bytes, bytes, bytes]


async def offer(
    host: str, port: int, requests: Iterator[Request], connections: int, seconds: float, status: int = 202
) -> Tally:
    """Send `requests` over so many connections for `seconds`, then wait for the last answers.

    `status`: what each is to be answered with; such requests are counted as accepted.
    """
    pool = HttpPool(host, port, connections_max=connections, timeout_s=30.0)
    pool.start()
    found, busy = Tally(), connections
    ended = asyncio.get_running_loop().create_future()
    start = time.perf_counter()

    def send(asked: float, outcome: HttpOutcome | None) -> None:
        nonlocal busy
        now = time.perf_counter()
        if outcome is not None:
            found.took(now - asked)
            found.accepted += found.answered(outcome, status)
        if now - start < seconds:
            pool.request(*next(requests), partial(send, now))
            return
        busy -= 1
        if not busy:
            ended.set_result(None)

    for _ in range(connections):
        send(start, None)
    await ended
    found.seconds = time.perf_counter() - start
    await pool.stop(1.0)
    return found
