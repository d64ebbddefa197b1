"""The load: batches over `POST /v1/messages/batch`, from one process that needs little CPU itself.

There are two models. Closed: a number of clients each send the next batch when the last was
answered; this finds the highest rate. Open: batches go at fixed instants, whether or not the
last was answered. Latency is counted from the instant at which a batch was due, so that a stall
of the engine is not hidden (coordinated omission).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from urllib.parse import urlsplit

import msgspec

from benchmarks.workload import batches, organisations
from engine.providers.http_client.connection import HttpOutcome
from engine.providers.http_client.pool import HttpPool

_BODIES = 64


@dataclass
class Tally:
    """What came back of one load."""

    accepted: int = 0
    # Requests without an answer 202, by what came instead, and messages refused, by code.
    trouble: Counter[str] = field(default_factory=Counter)
    # Milliseconds from the instant a batch was due to its answer, one for each batch.
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def quantile_ms(self, q: float) -> float:
        """The latency that a share `q` (0 to 1) of the batches did not exceed, milliseconds; 0.0 of none."""
        ordered = sorted(self.latencies_ms) or [0.0]
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


class Load:
    """Sends batches of `size` messages for the organisations of `api_keys`, drawn by Zipf's law."""

    def __init__(
        self, url: str, api_keys: list[str], *, size: int, express_share: float, connections: int, seed: int
    ) -> None:
        rng = random.Random(seed)
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._pool = HttpPool(parts.hostname, parts.port, connections_max=connections, timeout_s=30.0)
        self._bodies = batches(rng, size, _BODIES, express_share)
        self._headers = [
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n".encode() for key in api_keys
        ]
        self._organisations: Iterator[int] = organisations(rng, len(api_keys))
        self._size = size
        self._sent = 0
        self.tally = Tally()

    def in_turn(self) -> None:
        """Take one organisation after the other from now on, instead of by Zipf's law."""
        self._organisations = cycle(range(len(self._headers)))

    async def closed(self, clients: int, seconds: float) -> None:
        """Closed model: `clients` at once for `seconds`, then wait for the last answers."""
        loop = asyncio.get_running_loop()
        self._pool.start()
        start = time.perf_counter()
        until = start + seconds
        ended = loop.create_future()
        busy = clients

        def next_batch(due: float, outcome: HttpOutcome | None) -> None:
            nonlocal busy
            now = time.perf_counter()
            if outcome is not None:
                self._note(outcome, now - due)
            if now < until:
                self._send(partial(next_batch, now))
                return
            busy -= 1
            if not busy:
                ended.set_result(None)

        for _ in range(clients):
            next_batch(start, None)
        await ended
        self.tally.seconds = time.perf_counter() - start

    async def open(self, messages_per_s: float, seconds: float) -> None:
        """Open model: batches due at even distances for `seconds`, then wait for the last answers."""
        self._pool.start()
        count = int(messages_per_s * seconds / self._size)
        interval_s = self._size / messages_per_s
        start = time.perf_counter()
        answered = asyncio.Event()
        missing = count

        def done(due: float, outcome: HttpOutcome) -> None:
            nonlocal missing
            self._note(outcome, time.perf_counter() - due)
            missing -= 1
            if not missing:
                answered.set()

        for i in range(count):
            due = start + i * interval_s
            await asyncio.sleep(due - time.perf_counter())
            self._send(partial(done, due))
        await answered.wait()
        self.tally.seconds = time.perf_counter() - start

    def _send(self, done: object) -> None:
        self._sent += 1
        body = self._bodies[self._sent % _BODIES]
        headers = self._headers[next(self._organisations)]
        self._pool.request(b"POST", b"/v1/messages/batch", headers, body, done)  # type: ignore[arg-type]

    def _note(self, outcome: HttpOutcome, seconds: float) -> None:
        self.tally.latencies_ms.append(seconds * 1000)
        if outcome.kind != "answered":
            self.tally.trouble[f"{outcome.kind}: {outcome.reason}"] += 1
        elif outcome.status != 202:
            self.tally.trouble[f"status {outcome.status}"] += 1
        else:
            results = msgspec.json.decode(outcome.body)["results"] if b'"error"' in outcome.body else None
            if results is None:
                self.tally.accepted += self._size
            else:
                refused = Counter(r["error"]["code"] for r in results if "error" in r)
                self.tally.trouble.update(refused)
                self.tally.accepted += self._size - refused.total()
