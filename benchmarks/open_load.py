"""Arrivals that do not wait for answers: bursts at their times, each message with the instant it was due.

The instant, microseconds of the clock of this machine, is the `reference` of the message. So the latency of
every message can be asked of its activity later, counted from when it was due, whatever was slow on the way.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from urllib.parse import urlsplit

import msgspec

from benchmarks.workload import message
from engine.capacity.simulation import Arrivals
from engine.intake.segments import measure
from engine.providers.http_client.connection import HttpOutcome
from engine.providers.http_client.pool import HttpPool
from engine.records import Queue

# Most messages of one request.
_REQUEST = 1000
_TEXTS = 200


def segments_of(queues: Sequence[Queue], rates: Sequence[float]) -> float:
    """Segments a message in the mean, of a load in which organisation n sends `rates[n]` messages a second to
    the nth of `queues`."""
    means = [fmean(measure(str(m["text"])).segments for m in messages) for messages in _messages(queues)]
    return sum(mean * rate for mean, rate in zip(means, rates, strict=True)) / sum(rates)


def _messages(queues: Sequence[Queue]) -> list[list[dict[str, object]]]:
    """The messages that each organisation sends in turn."""
    rng = random.Random(5)
    return [[message(rng, queue) for _ in range(_TEXTS)] for queue in queues]


class OpenLoad:
    """Sends the bursts of `arrivals`: those of organisation n with the nth of `api_keys`, to the nth of
    `queues`."""

    def __init__(
        self, url: str, api_keys: Sequence[str], queues: Sequence[Queue], connections: int = 256
    ) -> None:
        self._address, self._connections = urlsplit(url), connections
        self._headers = [
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n".encode() for key in api_keys
        ]
        self._messages = _messages(queues)
        # Requests that were not answered 202, by what came instead, and how late the load itself was at most.
        self.trouble: Counter[str] = Counter()
        self.late_s = 0.0
        # Messages that were not accepted.
        self.refused = 0
        self._open = 0
        self._all_answered = asyncio.Event()

    async def run(self, arrivals: Arrivals) -> int:
        """Send all of them; how many messages there were. It ends when the last request was answered."""
        host, port = self._address.hostname, self._address.port
        assert host is not None
        assert port is not None
        pool = HttpPool(host, port, connections_max=self._connections, timeout_s=60.0)
        pool.start()
        count, start, start_us = 0, time.perf_counter(), time.time_ns() // 1000
        bursts = zip(arrivals.times, arrivals.organisations, arrivals.sizes, strict=True)
        for at_s, organisation, size in bursts:
            wait_s = start + at_s - time.perf_counter()
            if wait_s > 0.0005:
                await asyncio.sleep(wait_s)
            self.late_s = max(self.late_s, -wait_s)
            for first in range(0, size, _REQUEST):
                due_us = start_us + round(at_s * 1e6)
                self._send(pool, organisation, count + first, min(_REQUEST, size - first), due_us)
            count += size
        if self._open:
            self._all_answered = asyncio.Event()
            await self._all_answered.wait()
        await pool.stop(1.0)
        return count

    def _send(self, pool: HttpPool, organisation: int, first: int, size: int, due_us: int) -> None:
        texts = self._messages[organisation]
        made = [{**texts[(first + n) % _TEXTS], "reference": str(due_us)} for n in range(size)]
        path, body = (b"/v1/messages", made[0]) if size == 1 else (b"/v1/messages/batch", {"messages": made})
        self._open += 1
        pool.request(
            b"POST",
            path,
            self._headers[organisation],
            msgspec.json.encode(body),
            partial(self._answered, size),
        )

    def _answered(self, size: int, outcome: HttpOutcome) -> None:
        self._open -= 1
        if outcome.kind != "answered" or outcome.status != 202:
            self.refused += size
        else:
            self.refused += outcome.body.count(b'"error"')
        if outcome.kind != "answered":
            self.trouble[f"{outcome.kind}: {outcome.reason}"] += 1
        elif outcome.status != 202 or b'"error"' in outcome.body:
            self.trouble[f"status {outcome.status}"] += 1
        if not self._open:
            self._all_answered.set()
