"""Posts to any number of servers: a pool of connections for each origin, for as long as it is used.

Two organisations whose URLs have the same origin have a pool each, so that neither waits for answers of the
other's.

Only the status of an answer counts, so little of it is read: an answer larger than ANSWER_BYTES_MAX ends the
request without one, and so does one that is not whole within the time-out, however slowly it comes. Redirects
are answers like any other.

Killed or frozen: as `pool` says. A server that is away costs its own pool, and nothing of the others.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from functools import partial

from engine.hosts.tls import client_context
from engine.hosts.webhook_urls import Target
from engine.providers.http_client.connection import HttpOutcome
from engine.providers.http_client.pool import HttpPool

ANSWER_BYTES_MAX = 64 * 1024
# Pools that have not been used for so long are stopped, seconds.
_IDLE_S = 60.0


class _Used:
    """A pool, and when it was used last."""

    __slots__ = ("pool", "used_s")

    def __init__(self, pool: HttpPool) -> None:
        self.pool = pool
        self.used_s = time.monotonic()


class HttpPools:
    """The port `Poster`. Call `sweep` now and then, and `stop` at the end."""

    def __init__(
        self,
        *,
        connections: int,
        timeout_s: float,
        permitted: Callable[[str], bool] | None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`connections` to one origin for one organisation. `permitted`: whether an IP address may be
        connected to; None: any. `tls`: whom to trust; None: the authorities of the system."""
        self._connections = connections
        self._timeout_s = timeout_s
        self._permitted = permitted
        self._tls = tls or client_context()
        self._pools: dict[tuple[int, str], _Used] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    def post(
        self,
        organisation_id: int,
        target: Target,
        headers: bytes,
        body: bytes,
        done: Callable[[int, str], None],
    ) -> None:
        """Begin one request; `done` is called once within the time-out, never from inside, with the status of
        the answer, 0 when no whole one came, and a word for why not."""
        key = organisation_id, target.origin
        used = self._pools.get(key)
        if used is None:
            used = self._pools[key] = _Used(self._made(target))
            used.pool.start()
        used.used_s = time.monotonic()
        used.pool.request(b"POST", target.path.encode("ascii"), headers, body, partial(_tell, done))

    def sweep(self) -> None:
        """Stop the pools that have not been used for a while."""
        now_s = time.monotonic()
        for key, used in list(self._pools.items()):
            if used.used_s + _IDLE_S < now_s and not used.pool.in_flight and not used.pool.waiting:
                del self._pools[key]
                self._stop(used.pool)

    async def stop(self) -> None:
        """Close all connections; what is in flight ends without an answer."""
        for used in self._pools.values():
            self._stop(used.pool)
        self._pools.clear()
        if self._stopping:
            await asyncio.wait(self._stopping)

    def _made(self, target: Target) -> HttpPool:
        return HttpPool(
            target.host,
            target.port,
            connections_max=self._connections,
            timeout_s=self._timeout_s,
            body_bytes_max=ANSWER_BYTES_MAX,
            ssl_context=self._tls if target.tls else None,
            permitted=self._permitted,
        )

    def _stop(self, pool: HttpPool) -> None:
        stopping = asyncio.get_running_loop().create_task(pool.stop(0.0))
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)


def _tell(done: Callable[[int, str], None], outcome: HttpOutcome) -> None:
    done(outcome.status if outcome.kind == "answered" else 0, outcome.reason)
