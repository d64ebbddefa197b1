"""What accepting a message costs the process `ingest`: our own protocol and aiohttp, side by side.

    python -m benchmarks.edge [--rounds 8] [--seconds 1] [--connections 64] [--organisations 8]
    python -m benchmarks.edge --versions DIR ...    beside our own protocol in other versions, not aiohttp

Takes one minute. `DIR` is the root of another version of the engine. Each path has an ingest process of its
own on the first core, with a Redis of its own that syncs each write to disk, on the last core together with
the load. The paths take turns, so that a slow
phase of the machine slows both. CPU is the scheduler's (schedstat), and is the median over the rounds;
`client` is the share of the time in which the load was busy. Then the latency of one client that sends one
message after another, on each path, beside that of a write that is synced to the same disk. It needs two
cores.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.arguments import count_from_1, more_than_0, parser_of
from benchmarks.edge_load import load
from benchmarks.micro.cores import cpu_s
from benchmarks.workload import message
from supervisor.embedded.servers import start_redis

_HERE = Path(__file__).resolve().parent.parent
_SERVER = str(_HERE / "benchmarks" / "edge_server.py")
_BATCH = 100
_BATCH_CONNECTIONS = 16
_VARIANTS = 8
_LATENCIES = 2000


class Running(NamedTuple):
    """One path: its ingest process, its Redis, where it listens and the keys that it knows."""

    pid: int
    redis_pid: int
    port: int
    api_keys: list[str]


class Figures(NamedTuple):
    """One round."""

    ingest_us: float
    redis_us: float
    per_s: float
    client: float


@contextlib.contextmanager
def running(path: str, organisations: int, root: Path = _HERE) -> Iterator[Running]:
    """An ingest process of the version at `root` that serves by `path`, and its Redis."""
    core, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="smsengine-bench-") as folder:
        Path(folder).chmod(0o755)
        redis = start_redis(Path(folder))
        os.sched_setaffinity(redis.pid, {last})
        command = [sys.executable, _SERVER, path, redis.url, str(organisations)]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env=environment)
        os.sched_setaffinity(process.pid, {core})
        assert process.stdout is not None
        try:
            port, keys = msgspec.json.decode(process.stdout.readline())
            yield Running(process.pid, redis.pid, port, keys)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            redis.stop(10)


def requests(keys: list[str], size: int) -> list[bytes]:
    """Some requests of each key, with `size` messages each."""
    rng = random.Random(1)
    made = []
    for key in keys:
        for _ in range(_VARIANTS):
            drafts = [message(rng, rng.choice(("express", "normal"))) for _ in range(size)]
            body = msgspec.json.encode(drafts[0] if size == 1 else {"messages": drafts})
            made.append(
                f"POST /v1/messages{'' if size == 1 else '/batch'} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nUser-Agent: load\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
    rng.shuffle(made)
    return made


def measured(target: Running, connections: int, seconds: float, sent: list[bytes], size: int) -> Figures:
    """One round of a load."""
    ingest_s, redis_s = cpu_s(target.pid), cpu_s(target.redis_pid)
    answers = load(target.port, connections, seconds, sent)
    ingest_s, redis_s = cpu_s(target.pid) - ingest_s, cpu_s(target.redis_pid) - redis_s
    if answers.others or not answers.accepted:
        raise SystemExit(f"{answers.others} requests were not answered with 202.")
    messages = answers.accepted * size
    return Figures(ingest_s / messages * 1e6, redis_s / messages * 1e6, messages / seconds, answers.busy)


def latencies_ms(port: int, sent: list[bytes]) -> list[float]:
    """Of one client that sends one message after another, milliseconds each, in ascending order."""
    taken = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(_LATENCIES):
            begun = time.perf_counter()
            client.sendall(sent[i % len(sent)])
            answer = client.recv(65536)
            taken.append((time.perf_counter() - begun) * 1e3)
            if not answer.startswith(b"HTTP/1.1 202"):
                raise SystemExit("A request was not answered with 202.")
    return sorted(taken)


def syncs_ms() -> list[float]:
    """Of a write of as much as a message, synced to the disk, milliseconds each, in ascending order."""
    taken = []
    with tempfile.NamedTemporaryFile(prefix="smsengine-bench-", buffering=0) as file:
        for _ in range(_LATENCIES):
            begun = time.perf_counter()
            file.write(b"x" * 1000)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begun) * 1e3)
    return sorted(taken)


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = parser_of("edge", __doc__, versions=True)
    parser.add_argument("--rounds", type=count_from_1, default=8)
    parser.add_argument("--seconds", type=more_than_0, default=1.0)
    parser.add_argument("--connections", type=count_from_1, default=64)
    parser.add_argument("--organisations", type=count_from_1, default=8)
    wish = parser.parse_args()
    with contextlib.ExitStack() as stack:
        roots = [root.resolve() for root in wish.versions]
        served = [(root.name, "edge", root) for root in roots] or [("aiohttp", "aiohttp", _HERE)]
        served.append(("edge", "edge", _HERE))
        targets = {
            name: stack.enter_context(running(path, wish.organisations, root)) for name, path, root in served
        }
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
        for size, connections in ((1, wish.connections), (_BATCH, _BATCH_CONNECTIONS)):
            rounds: dict[str, list[Figures]] = {path: [] for path in targets}
            for number in range(wish.rounds + 1):
                for path, target in targets.items():
                    sent = requests(target.api_keys, size)
                    figures = measured(target, connections, wish.seconds, sent, size)
                    # The first round warms up.
                    if number:
                        rounds[path].append(figures)
            for path, some in rounds.items():
                mid = Figures(*map(statistics.median, zip(*some, strict=True)))
                print(
                    f"{size:4d} a request  {path:8s} ingest {mid.ingest_us:7.2f} us a message  "
                    f"redis {mid.redis_us:6.2f}  {mid.per_s:8.0f}/s  client {mid.client:.2f}",
                    flush=True,
                )
        _print_latencies(targets)


def _print_latencies(targets: dict[str, Running]) -> None:
    synced = syncs_ms()
    print(f"a synced write  p50 {synced[len(synced) // 2]:.3f} ms  p99 {synced[len(synced) * 99 // 100]:.3f}")
    for path, target in targets.items():
        taken = latencies_ms(target.port, requests(target.api_keys, 1))
        mid, high = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
        print(f"one client      p50 {mid:.3f} ms  p99 {high:.3f}  {path}")


if __name__ == "__main__":
    main()
