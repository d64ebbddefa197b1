"""The load: how many messages an engine accepts, at any URL, and how long a client waits for the 202.

    python -m benchmarks.load --url http://127.0.0.1:8080 --key KEY --rate 500  # open
    python -m benchmarks.load --url https://sms.example.com --key KEY --clients 64  # closed
    python -m benchmarks.load --url URL --keys FILE --rate 5000 --size 100  # batches, of many keys

Takes half a minute. The messages are real: they go wherever the engine's providers bring them, to numbers
that are made up. So the engine needs a provider that is a simulator (`smsengine simulator`), and
organisations with credit. KEY is an API key; FILE has one in each line.

Closed: a number of clients each send the next request when the last was answered; this finds the highest
rate. Open: requests go at fixed instants, whether or not the last was answered. Latency counts from the
instant at which a request was due, so that a stall of the engine is not hidden (coordinated omission).

In the same run the load is also offered to a server that answers at once and does nothing else. What is
accepted then is the load's own ceiling: where an engine comes near to it, the load is what is measured, and
the last line says so. The result is also a line in benchmarks/results/load.jsonl. Exit code 1 when a request
was not answered with 202.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle
from urllib.parse import urlsplit

import msgspec
import uvloop

from benchmarks.arguments import count_from_1, more_than_0, parser_of, share, words
from benchmarks.micro.http_answerer import answerer
from benchmarks.results import note
from benchmarks.tally import Tally
from benchmarks.workload import batches, organisations, singles
from engine.providers.http_client.connection import HttpOutcome
from engine.providers.http_client.pool import HttpPool

_BODIES = 64
# How long the load's own ceiling is measured, seconds; and the part of it beyond which an engine's rate may
# be the load's.
_CEILING_S, _NEAR = 2.0, 0.7
_PARTS = (0.5, 0.9, 0.99, 0.999)


class Load:
    """Sends `size` messages in each request for the organisations of `api_keys`, drawn by Zipf's law."""

    def __init__(
        self,
        url: str,
        api_keys: Sequence[str],
        *,
        size: int,
        express_share: float,
        connections: int,
        seed: int,
    ) -> None:
        rng = random.Random(seed)
        parts = urlsplit(url)
        assert parts.hostname is not None
        secure = ssl.create_default_context() if parts.scheme == "https" else None
        self._pool = HttpPool(
            parts.hostname,
            parts.port or (443 if secure else 80),
            connections_max=connections,
            timeout_s=30.0,
            ssl_context=secure,
        )
        base = parts.path.rstrip("/").encode()
        if size == 1:
            self._path, self._bodies = base + b"/v1/messages", singles(rng, _BODIES, express_share)
        else:
            self._path = base + b"/v1/messages/batch"
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

        def next_request(due: float, outcome: HttpOutcome | None) -> None:
            nonlocal busy
            now = time.perf_counter()
            if outcome is not None:
                self._note(outcome, now - due)
            if now < until:
                self._send(partial(next_request, now))
                return
            busy -= 1
            if not busy:
                ended.set_result(None)

        for _ in range(clients):
            next_request(start, None)
        await ended
        self.tally.seconds = time.perf_counter() - start

    async def open(self, messages_per_s: float, seconds: float) -> None:
        """Open model: requests due at even distances for `seconds`, then wait for the last answers."""
        self._pool.start()
        count = max(1, int(messages_per_s * seconds / self._size))
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
        self._pool.request(b"POST", self._path, headers, body, done)  # type: ignore[arg-type]

    def _note(self, outcome: HttpOutcome, seconds: float) -> None:
        self.tally.took(seconds)
        if not self.tally.answered(outcome, 202):
            return
        results = msgspec.json.decode(outcome.body).get("results", []) if b'"error"' in outcome.body else []
        refused = Counter(r["error"]["code"] for r in results if "error" in r)
        self.tally.trouble.update(refused)
        self.tally.accepted += self._size - refused.total()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a load found, messages a second and milliseconds, and what the load itself can do."""

    url: str
    model: str
    size: int
    seconds: float
    accepted: int
    accepted_per_s: float
    latency_ms: dict[str, float]
    trouble: dict[str, int]
    # Of this process, the part of a core that it used; and messages a second that a server which does nothing
    # accepted from it.
    own_cpu: float
    ceiling_per_s: float

    @property
    def own_limit(self) -> bool:
        """Whether the load itself may be what was measured."""
        return self.accepted_per_s > _NEAR * self.ceiling_per_s or self.own_cpu > _NEAR


def offer(
    url: str,
    keys: Sequence[str],
    *,
    size: int,
    seconds: float,
    rate: float | None = None,
    clients: int = 64,
    express_share: float = 0.5,
    seed: int = 1,
) -> Outcome:
    """Offer messages to the engine at `url`, open with a `rate` (messages a second), else closed; and then
    to a server that does nothing."""

    def load(to: str) -> Load:
        connections = clients if rate is None else 256
        return Load(to, keys, size=size, express_share=express_share, connections=connections, seed=seed)

    asked = load(url)
    began, used = time.perf_counter(), time.process_time()
    uvloop.run(asked.closed(clients, seconds) if rate is None else asked.open(rate, seconds))
    own_cpu = (time.process_time() - used) / (time.perf_counter() - began)
    with answerer("202") as nothing:
        ceiling = load(f"http://127.0.0.1:{nothing.port}")
        uvloop.run(ceiling.closed(clients, _CEILING_S))
    tally = asked.tally
    quantiles = zip(_PARTS, tally.quantiles_ms(_PARTS), strict=True)
    return Outcome(
        url=url,
        model="closed" if rate is None else "open",
        size=size,
        seconds=round(tally.seconds, 2),
        accepted=tally.accepted,
        accepted_per_s=round(tally.accepted_per_s, 1),
        latency_ms={f"p{part * 100:g}": round(ms, 2) for part, ms in quantiles},
        trouble=dict(tally.trouble),
        own_cpu=round(own_cpu, 3),
        ceiling_per_s=round(ceiling.tally.accepted_per_s, 1),
    )


def main() -> None:
    """Offer the load, print what was found, and keep it."""
    parser = parser_of("load", __doc__)
    parser.add_argument("--url", required=True, help="where the API answers, http:// or https://")
    parser.add_argument("--key", action="append", default=[], help="an API key; may be given several times")
    parser.add_argument("--keys", type=words, default=[], help="a file with an API key in each line")
    parser.add_argument("--rate", type=more_than_0, help="messages a second, for the open model")
    parser.add_argument("--clients", type=count_from_1, default=64, help="of the closed model (default 64)")
    parser.add_argument("--size", type=count_from_1, default=1, help="messages in each request (default 1)")
    parser.add_argument("--express", type=share, default=0.5, help="share of express (default 0.5)")
    parser.add_argument("--seconds", type=more_than_0, default=20, help="how long (default 20)")
    given = parser.parse_args()
    keys = given.key + given.keys
    if not keys:
        parser.error("--key or --keys must name an API key")
    if urlsplit(given.url).scheme not in ("http", "https") or not urlsplit(given.url).hostname:
        parser.error("--url must be http://HOST[:PORT] or https://HOST[:PORT]")
    if given.size > 1000:
        parser.error("--size must be from 1 to 1000")
    found = offer(
        given.url,
        keys,
        size=given.size,
        seconds=given.seconds,
        rate=given.rate,
        clients=given.clients,
        express_share=given.express,
    )
    file = note("load", found)
    print(f"{found.model} load at {found.url}")
    for name, value in msgspec.to_builtins(found).items():
        print(f"  {name:<16} {value}")
    if found.own_limit:
        print("The load itself is near its own limit: run it on another machine, or in larger batches.")
    print(f"noted in {file}")
    sys.exit(bool(found.trouble))


if __name__ == "__main__":
    main()
