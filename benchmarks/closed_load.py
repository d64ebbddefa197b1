"""A closed load over HTTP: connections that each send the next request when the last was answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from engine.providers.http_client.connection import HttpOutcome
from engine.providers.http_client.pool import HttpPool

# Method, path, header lines, body.
Request = tuple[bytes, bytes, bytes, bytes]


@dataclass
class Offered:
    """What came back."""

    # Requests that were answered with the wanted status.
    accepted: int = 0
    # The others, by what came instead.
    wrong: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def quantile_ms(self, q: float) -> float:
        """The latency that a share `q` (0 to 1) of the requests did not exceed, milliseconds; 0.0 of none."""
        ordered = sorted(self.latencies_ms) or [0.0]
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


async def offer(
    host: str, port: int, requests: Iterator[Request], connections: int, seconds: float, status: int = 202
) -> Offered:
    """Send `requests` over so many connections for `seconds`, then wait for the last answers.

    `status`: what each is to be answered with.
    """
    pool = HttpPool(host, port, connections_max=connections, timeout_s=30.0)
    pool.start()
    found, busy = Offered(), connections
    ended = asyncio.get_running_loop().create_future()
    start = time.perf_counter()

    def send(asked: float, outcome: HttpOutcome | None) -> None:
        nonlocal busy
        now = time.perf_counter()
        if outcome is not None:
            found.latencies_ms.append((now - asked) * 1000)
            if outcome.kind != "answered":
                found.wrong[f"{outcome.kind}: {outcome.reason}"] += 1
            elif outcome.status != status:
                found.wrong[f"status {outcome.status}"] += 1
            else:
                found.accepted += 1
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
