"""A pooled keep-alive HTTP/1.1 client for one server, with callbacks.

Per request there is no task, no future and no timer: a request is one write, its
answer one callback, and one sweep over the busy connections ends those that are
overdue. That is what makes it an order of magnitude cheaper than a general client
(benchmarks/micro/bench_provider_http.py).

Under failure, every request has exactly one outcome (see `HttpOutcome`):
- server away: `not_sent` at once while no connection stands; connecting is tried
  again after a pause that doubles, with jitter (`engine.clocks.backoff`);
- no free connection: it waits for one, at most half of the time-out, so that a request
  which is written late still has the other half for its answer; then `not_sent`;
- no answer, part of one, or something that is not HTTP: `unanswered`, and its connection
  is dropped;
- this process frozen: what arrived meanwhile is read before anything is timed out;
- this process killed: no outcome; the caller's own record of the request decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import ssl
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from engine.clocks.backoff import Backoff
from engine.hosts.connecting import AddressRefused, connect
from engine.providers.http_client.connection import Connection, Done, HttpOutcome, tell
from engine.providers.ports import Wire
from engine.providers.ticker import Ticker

__all__ = ["Done", "HttpOutcome", "HttpPool"]

# Connection attempts under way at once, so as not to overrun the server's backlog.
OPENING_MAX = 32
CONNECT_S_MAX = 5.0
# Pauses after a connection that could not be opened, seconds.
PAUSE_S, PAUSE_S_MAX = 0.05, 2.0


class HttpPool:
    """Up to `connections_max` connections to one server, opened as they are needed.

    timeout_s        from `request` to the outcome, at most
    idle_s           a connection unused for this long is closed; the default is below
                     the 5 s after which common servers do so, since a request that
                     meets such a close ends unanswered
    waiting_max      requests that may wait for a connection
    body_bytes_max   a longer answer is a broken one
    keep_headers     of an answer these are kept, names in lower case
    wire             watches what goes over the connections; None: nobody does
    permitted        whether an IP address may be connected to; None: any
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connections_max: int,
        timeout_s: float,
        idle_s: float = 4.0,
        waiting_max: int = 10_000,
        body_bytes_max: int = 1 << 20,
        keep_headers: frozenset[bytes] = frozenset(),
        ssl_context: ssl.SSLContext | None = None,
        wire: Wire | None = None,
        permitted: Callable[[str], bool] | None = None,
    ) -> None:
        shown = f"[{host}]" if ":" in host else host
        usual_port = 443 if ssl_context else 80
        self._host_field = (shown if port == usual_port else f"{shown}:{port}").encode("ascii")
        self._address = host, port, ssl_context
        self._connections_max = connections_max
        self._waiting_max = waiting_max
        self._kept = body_bytes_max, keep_headers, wire
        self._wire = wire
        self._permitted = permitted
        self._connect_s = min(CONNECT_S_MAX, timeout_s / 2)
        self._timeout_ns = int(timeout_s * 1e9)
        self._idle_ns = int(idle_s * 1e9)
        tick_s = min(0.1, max(0.005, timeout_s / 20))
        self._tick_ns = int(tick_s * 1e9)
        self._ticker = Ticker(tick_s, self._sweep)
        self._backoff = Backoff(PAUSE_S, PAUSE_S_MAX, random.Random())
        # Until then no connection is opened, and why not.
        self._retry_at_s, self._reason = 0.0, ""
        self._connections: set[Connection] = set()
        # The one that was released last is used first, so that the others become idle and are closed.
        self._free: deque[Connection] = deque()
        # (request, asked at, done), oldest first.
        self._waiting: deque[tuple[bytes, int, Done]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._drained = asyncio.Event()

    @property
    def connections(self) -> int:
        """Connections that stand, busy ones included."""
        return len(self._connections)

    @property
    def in_flight(self) -> int:
        """Requests written and not yet ended."""
        return len(self._connections) - len(self._free)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to keep time; opens no connection yet. Call it once, on the running loop."""
        self._ticker.start()

    def request(self, method: bytes, path: bytes, headers: bytes, body: bytes, done: Done) -> None:
        """Begin one request; `done` is called with its outcome within the time-out.

        Returns at once; `done` is never called from inside. `headers` are whole lines,
        each ended by CRLF; Host and Content-Length are added.
        """
        payload = b"%b %b HTTP/1.1\r\nHost: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
            method, path, self._host_field, headers, len(body), body,
        )  # fmt: skip
        now_ns = time.monotonic_ns()
        while self._free:
            connection = self._free.pop()
            if connection.send(payload, now_ns + self._timeout_ns, done):
                self._ticker.stir()
                return
            self.lost(connection)
        if self._stopping:
            _refuse(done, "stopped")
        elif not self._connections and now_ns / 1e9 < self._retry_at_s:
            _refuse(done, self._reason)
        elif len(self._waiting) >= self._waiting_max:
            _refuse(done, "busy")
        else:
            self._waiting.append((payload, now_ns, done))
            self._ticker.stir()
            self._grow()

    async def stop(self, deadline_s: float) -> None:
        """End everything: what waits is `not_sent` at once, what is in flight has up to
        `deadline_s` for its answer and is `unanswered` then. Repeating it is harmless.
        """
        self._stopping = True
        try:
            self._refuse_waiting("stopped")
            for attempt in self._opening:
                attempt.cancel()
            if self.in_flight:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._drained.wait(), deadline_s)
        finally:
            for connection in list(self._connections):
                connection.give_up("stopped")
            self._ticker.stop()

    # -- what connections report (`Owner`)

    def opened(self, connection: Connection) -> None:
        """See `connection.Owner`: the connection stands, and takes its first request."""
        self._backoff.reset()
        self._retry_at_s = 0.0
        self._connections.add(connection)
        self.released(connection, reusable=True)

    def released(self, connection: Connection, reusable: bool) -> None:
        """See `connection.Owner`: give it the request that waits longest, or let it idle."""
        if not reusable or self._stopping:
            connection.close()
            self.lost(connection)
        elif self._waiting:
            payload, asked_ns, done = self._waiting[0]
            if connection.send(payload, asked_ns + self._timeout_ns, done):
                self._waiting.popleft()
            else:
                self.lost(connection)
        else:
            connection.idle_since_ns = time.monotonic_ns()
            self._free.append(connection)

    def lost(self, connection: Connection) -> None:
        """See `connection.Owner`: forget it, and open another when requests wait."""
        self._connections.discard(connection)
        with contextlib.suppress(ValueError):
            self._free.remove(connection)
        if self._stopping:
            if not self.in_flight:
                self._drained.set()
        elif self._waiting:
            self._grow()

    # -- connecting

    def _grow(self) -> None:
        """Open connections for the requests that wait; only one as long as the last attempt failed."""
        if time.monotonic() < self._retry_at_s:
            if not self._connections:
                self._refuse_waiting(self._reason)
            return
        room = self._connections_max - len(self._connections)
        wanted = min(len(self._waiting), room, 1 if self._backoff.failures else OPENING_MAX)
        while len(self._opening) < wanted:
            self._opening.add(asyncio.create_task(self._open()))

    async def _open(self) -> None:
        host, port, context = self._address
        made = partial(Connection, self, *self._kept)
        reason = "unreachable"
        try:
            async with asyncio.timeout(self._connect_s):
                await connect(made, host, port, tls=context, permitted=self._permitted)
            reason = ""
        except (OSError, UnicodeError) as e:
            reason = _reason(e)
            if self._wire is not None:
                self._wire(self, "failed", f"{reason}: {e}".encode())
        finally:
            # The next attempt waits, whatever went wrong.
            if reason:
                self._failed(reason)
            task = asyncio.current_task()
            assert task is not None
            self._opening.discard(task)
            if self._waiting and not self._stopping:
                self._grow()

    def _failed(self, reason: str) -> None:
        """An attempt failed; those that were under way together count once."""
        self._reason, now_s = reason, time.monotonic()
        if now_s >= self._retry_at_s:
            self._retry_at_s = now_s + self._backoff.next()

    def _refuse_waiting(self, reason: str) -> None:
        while self._waiting:
            _refuse(self._waiting.popleft()[2], reason)

    def _sweep(self) -> float:
        """End what is late; how long nothing can be late, seconds."""
        now_ns = time.monotonic_ns()
        # Requests that would be overdue at the next sweep end now, so that none ends too late.
        horizon_ns = now_ns + self._tick_ns
        for connection in [c for c in self._connections if c.busy and c.deadline_ns <= horizon_ns]:
            connection.give_up("timeout")
        while self._waiting and self._waiting[0][1] + self._timeout_ns // 2 <= horizon_ns:
            _refuse(self._waiting.popleft()[2], "no-connection")
        while self._free and self._free[0].idle_since_ns + self._idle_ns <= now_ns:
            idle = self._free.popleft()
            idle.close()
            self.lost(idle)
        if self._waiting:
            self._grow()
        if self._waiting or self.in_flight or self._opening:
            return 0.0
        if not self._free:
            return math.inf
        return (self._free[0].idle_since_ns + self._idle_ns - now_ns) / 1e9


def _refuse(done: Done, reason: str) -> None:
    asyncio.get_running_loop().call_soon(tell, done, HttpOutcome("not_sent", reason=reason))


def _reason(error: Exception) -> str:
    """A stable word for why no connection came about."""
    if isinstance(error, AddressRefused):
        return "address-refused"
    if isinstance(error, TimeoutError):
        return "connect-timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ssl.SSLError):
        return "tls"
    return "unreachable"
