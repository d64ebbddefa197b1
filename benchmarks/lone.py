"""How long one client that sends one message after another waits for each 202, and for what.

    python -m benchmarks.lone [--versions DIR ...] [--seconds 10] [--rounds 3] [--queue normal] [--apart-ms 0]

Takes one minute. A demo engine with its defaults, and one client, who sends the next request when the last
was answered, or `--apart-ms` later. In turn with its messages it sends what shows the parts of the wait: a
request that is refused where it is read (422, so neither Redis nor anybody behind it is asked), and a write
of one value to the same Redis (SET), which is synced to the disk before it is answered. Beside them stands
a bare sync of a file on the same disk. `DIR` is the root of another version of the engine, which has an
engine of its own; each round tries the versions one after another. Times are in milliseconds; each median
is over all rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.arguments import count_from_1, from_0, more_than_0, parser_of
from benchmarks.results import note
from benchmarks.running import Engine, engine
from benchmarks.workload import singles

_HERE = Path(__file__).resolve().parent.parent
# Bodies of messages, and how long a round of each version warms up, seconds.
_BODIES, _WARM_S = 64, 1.0
_REFUSED = b'{"to": "1", "text": "x"}'
_SET = b"*3\r\n$3\r\nSET\r\n$4\r\nlone\r\n$100\r\n" + b"x" * 100 + b"\r\n"


class Talk:
    """A connection on which one thing is asked and answered after another, by a socket that blocks."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, octets: bytes, begins: bytes) -> None:
        """Send `octets`, and wait for an answer. Raises SystemExit when it does not begin so."""
        self._socket.sendall(octets)
        answer = self._socket.recv(65536)
        if not answer.startswith(begins):
            raise SystemExit(f"Asked {octets[:40]!r}, it answered {answer[:300]!r}.")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Lone:
    """One client of one engine."""

    def __init__(self, target: Engine, queue: str) -> None:
        (key,) = target.organisations(1, 10**9)
        self._api, store = Talk(target.url), target.redis_url
        self._redis = Talk(store)
        secret = (urlsplit(store).password or "").encode()
        self._redis.ask(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(secret), secret), b"+OK")
        bodies = singles(random.Random(1), _BODIES, float(queue == "express"))
        self._posts = cycle([_post(key, body) for body in bodies])
        self._refused = _post(key, _REFUSED)
        self.times_s: dict[str, list[float]] = {}
        self._kinds: dict[str, Callable[[], None]] = {
            "202": lambda: self._api.ask(next(self._posts), b"HTTP/1.1 202"),
            "422": lambda: self._api.ask(self._refused, b"HTTP/1.1 422"),
            "SET": lambda: self._redis.ask(_SET, b"+OK"),
        }

    def round(self, seconds: float, apart_s: float) -> None:
        """Ask each kind in turn for so long, and note how long each took."""
        for kind, ask in self._kinds.items():
            found = self.times_s.setdefault(kind, [])
            until_s = time.perf_counter() + seconds / len(self._kinds)
            while (began_s := time.perf_counter()) < until_s:
                ask()
                found.append(time.perf_counter() - began_s)
                if apart_s:
                    time.sleep(apart_s)

    def forget(self) -> None:
        """Drop what was noted while it warmed up."""
        self.times_s.clear()

    def close(self) -> None:
        """Hang up."""
        self._api.close()
        self._redis.close()


def _post(key: str, body: bytes) -> bytes:
    head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def disk_s(folder: Path, seconds: float) -> list[float]:
    """How long a write of a few hundred octets takes that is synced to the disk of `folder`."""
    found = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        until_s = time.perf_counter() + seconds
        while (began_s := time.perf_counter()) < until_s:
            file.write(b"x" * 300)
            os.fdatasync(file.fileno())
            found.append(time.perf_counter() - began_s)
    return found


def measure(roots: list[Path], given: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """By version, and by what was asked, how long each took, seconds; "disk" is of no version."""
    disk: list[float] = []
    with contextlib.ExitStack() as stack:
        clients = {}
        for root in roots:
            running = stack.enter_context(engine(given.config, root=root))
            clients[str(root)] = Lone(running, given.queue)
            stack.callback(clients[str(root)].close)
        for client in clients.values():
            client.round(_WARM_S, 0.0)
            client.forget()
        for _ in range(given.rounds):
            for client in clients.values():
                client.round(given.seconds, given.apart_ms / 1000)
            disk += disk_s(running.data_dir, 1.0)
    return {name: client.times_s for name, client in clients.items()} | {"": {"disk": disk}}


def shown(found: dict[str, dict[str, list[float]]]) -> Iterator[tuple[str, str, int, float, float, float]]:
    """Version, kind, how many, and the median, the 90th and the 99th of a hundred, milliseconds."""
    for version, kinds in found.items():
        for kind, times_s in kinds.items():
            parts = statistics.quantiles(times_s, n=100)
            yield version, kind, len(times_s), parts[49] * 1e3, parts[89] * 1e3, parts[98] * 1e3


def main() -> int:
    """Measure, print a table and note it: the exit code."""
    parser = parser_of("lone", __doc__, versions=True)
    parser.add_argument(
        "--seconds", type=more_than_0, default=6.0, help="of a round of a version (default 6)"
    )
    parser.add_argument("--rounds", type=count_from_1, default=3, help="(default 3)")
    parser.add_argument("--queue", choices=("express", "normal"), default="normal", help="(default normal)")
    parser.add_argument("--apart-ms", type=from_0, default=0.0, help="between two requests (default 0)")
    parser.add_argument("--config", default="", help="the engine's configuration, TOML")
    given = parser.parse_args()
    found = measure([*(root.resolve() for root in given.versions), _HERE], given)
    print(f"{'':<30} {'':<5} {'asked':>7} {'p50 ms':>8} {'p90':>8} {'p99':>8}")
    figures = list(shown(found))
    for version, kind, count, p50, p90, p99 in figures:
        print(f"{version[-30:]:<30} {kind:<5} {count:>7} {p50:>8.3f} {p90:>8.3f} {p99:>8.3f}")
    note("lone", {"queue": given.queue, "apart_ms": given.apart_ms, "figures": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
