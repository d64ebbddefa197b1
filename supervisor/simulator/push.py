"""Receipts over HTTP: posted to the engine over a few connections that are kept open.

An answer of 2xx means that the receipt was taken. Any other answer, or none within PUSH_S
seconds, ends the attempt; the outbox decides whether there is another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from engine.providers.http_client.pool import HttpOutcome, HttpPool
from supervisor.simulator.receipts import Ended, Receipt, as_json

# Most requests under way; each has a connection of its own.
CONNECTIONS_MAX = 64
PUSH_S = 5.0

_HEADERS = b"Content-Type: application/json\r\n"

Then = Callable[[], None] | None


class Pusher:
    """Carries receipts over HTTP: a `receipts.Way`. `url` gives the present address, None for none."""

    def __init__(self, url: Callable[[], str | None], ended: Ended) -> None:
        self._url = url
        self._ended = ended
        self._waiting: deque[tuple[Receipt, Then]] = deque()
        self._in_flight = 0
        # The address that the pool is for, and the target of its requests.
        self._pool_url = ""
        self._path = b""
        self._pool: HttpPool | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    def take(self, receipt: Receipt, then: Then = None) -> None:
        """Post the receipt as soon as a connection is free. It fails when there is no address."""
        self._waiting.append((receipt, then))
        self._pump()

    def clear(self) -> None:
        """Forget the receipts that wait, and call their `then`: an answer may wait for it."""
        for _, then in self._waiting:
            if then is not None:
                then()
        self._waiting.clear()

    def _pump(self) -> None:
        while self._waiting and self._in_flight < CONNECTIONS_MAX:
            receipt, then = self._waiting.popleft()
            pool = self._pool_of(receipt.url or self._url())
            if pool is None:
                self._ended(receipt, "failed")
                if then is not None:
                    then()
                continue
            self._in_flight += 1
            answered = partial(self._answered, receipt, then)
            pool.request(b"POST", self._path, _HEADERS, receipt.body or as_json(receipt), answered)

    def _answered(self, receipt: Receipt, then: Then, outcome: HttpOutcome) -> None:
        self._in_flight -= 1
        taken = outcome.kind == "answered" and 200 <= outcome.status < 300
        self._ended(receipt, "sent" if taken else "again")
        if then is not None:
            then()
        self._pump()

    def _pool_of(self, url: str | None) -> HttpPool | None:
        """The pool for `url`; the one before is stopped when the address has changed."""
        if url is None or url == self._pool_url:
            return self._pool if url else None
        if self._pool is not None:
            stop = asyncio.get_running_loop().create_task(self._pool.stop(PUSH_S))
            self._stopping.add(stop)
            stop.add_done_callback(self._stopping.discard)
        address = urlsplit(url)
        assert address.hostname is not None  # checked with the behaviour
        self._pool = HttpPool(
            address.hostname, address.port or 80, connections_max=CONNECTIONS_MAX, timeout_s=PUSH_S
        )
        self._pool.start()
        self._pool_url = url
        target = (address.path or "/") + (f"?{address.query}" if address.query else "")
        self._path = target.encode("ascii")
        return self._pool
