"""CPU of one `normal` worker per message, and how fast it drains a backlog, of one or several versions.

    python -m benchmarks.worker [--versions DIR ...] [--messages 20000] [--organisations 1]

Takes two minutes. A worker as the product puts it together (queue in Redis, dispatcher, SMPP with a window
of 100) sends to an SMSC that accepts everything at once. The worker has the first core for itself. Redis,
whose append-only file is on disk before it answers, the SMSC and the loader share the last. `DIR` is the
root of another version of the engine; each round tries the versions one after another, and medians are
printed.

    backlog   the worker stands still while the messages are admitted in submissions of 100, then drains them;
              they are of 50 organisations in all shards, or of as many as are named
    singles   messages come one a submission, at the rate that is named

CPU is the scheduler's count (schedstat) from the first message to the last settlement. The speed of a shared
machine changes from minute to minute, so compare only what stands in one table.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.arguments import count_from_1, more_than_0, parser_of
from benchmarks.micro.cores import cpu_s
from supervisor.embedded.servers import start_redis

_HERE = Path(__file__).resolve().parent.parent
_PROCESS = str(_HERE / "benchmarks" / "worker_process.py")
_LOOK_S = 0.005
_SLOW_S = 60.0


class Figures(NamedTuple):
    """What one round came to."""

    worker_us: float
    redis_us: float
    per_s: float
    busy: float


class Version:
    """One version of the engine at work on a queue of its own."""

    def __init__(self, root: Path, url: str, redis: int, port: int, worker: Started, loader: Started) -> None:
        self.name = root.name
        self._redis, self._worker, self._loader = redis, worker, loader

    def tell(self, command: str) -> str:
        """Have the loader do it; its answer."""
        assert self._loader.stdin is not None
        assert self._loader.stdout is not None
        self._loader.stdin.write(command + "\n")
        self._loader.stdin.flush()
        return self._loader.stdout.readline().strip()

    def backlog(self, messages: int, organisations: int) -> Figures:
        """Let it drain so many messages, of so many organisations."""
        self._worker.send_signal(signal.SIGSTOP)
        self.tell(f"backlog {messages} {organisations}")
        time.sleep(0.1)
        begun = self._reading()
        self._worker.send_signal(signal.SIGCONT)
        return self._until_settled(begun, messages)

    def singles(self, rate: float, seconds: float) -> Figures:
        """Let it deliver as they come."""
        begun = self._reading()
        self.tell(f"singles {rate} {seconds}")
        return self._until_settled(begun, int(rate * seconds))

    def _reading(self) -> tuple[float, float, float]:
        return time.monotonic(), cpu_s(self._worker.pid), cpu_s(self._redis)

    def _until_settled(self, begun: tuple[float, float, float], messages: int) -> Figures:
        deadline = time.monotonic() + _SLOW_S
        while int(self.tell("held")):
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name} has not settled everything after {_SLOW_S:.0f} s.")
            time.sleep(_LOOK_S)
        took_s, worker_s, redis_s = (now - then for now, then in zip(self._reading(), begun, strict=True))
        return Figures(
            worker_s / messages * 1e6, redis_s / messages * 1e6, messages / took_s, worker_s / took_s
        )


Started = subprocess.Popen[str]


@contextlib.contextmanager
def _started(core: int, *command: str, root: Path = _HERE) -> Iterator[Started]:
    """A process on that core, of the version at `root`; killed at the end."""
    with subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def _first_line(process: Started) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextlib.contextmanager
def _version(root: Path, place: Path, cores: tuple[int, int]) -> Iterator[Version]:
    """That version with its Redis and its SMSC."""
    os.sched_setaffinity(0, {cores[1]})
    server = start_redis(place)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop, 10)
        smsc = stack.enter_context(_started(cores[1], "-m", "benchmarks.micro.smsc"))
        port = int(_first_line(smsc))
        loader = stack.enter_context(_started(cores[1], _PROCESS, "load", server.url, root=root))
        _first_line(loader)
        worker = stack.enter_context(_started(cores[0], _PROCESS, "work", server.url, str(port), root=root))
        while _first_line(worker) != "ready":
            pass
        yield Version(root, server.url, server.pid, port, worker, loader)


def main() -> None:
    """Measure, and print a line for each version and load."""
    parser = parser_of("worker", __doc__, versions=True)
    parser.add_argument("--rounds", type=count_from_1, default=5)
    parser.add_argument("--messages", type=count_from_1, default=20_000, help="a backlog (default 20000)")
    parser.add_argument(
        "--organisations", type=count_from_1, default=50, help="that the backlog is of (default 50)"
    )
    parser.add_argument("--rate", type=more_than_0, default=6000, help="singles a second (default 6000)")
    parser.add_argument("--seconds", type=more_than_0, default=2, help="of singles in a round (default 2)")
    given = parser.parse_args()
    allowed = sorted(os.sched_getaffinity(0))
    figures: dict[tuple[str, str], list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="smsengine-bench-") as place, contextlib.ExitStack() as stack:
        versions = [
            stack.enter_context(_version(root.resolve(), Path(place, str(n)), (allowed[0], allowed[-1])))
            for n, root in enumerate([*given.versions, _HERE])
        ]
        for turn in range(given.rounds + 1):
            for version in versions:
                backlog = version.backlog(given.messages, given.organisations)
                singles = version.singles(given.rate, given.seconds)
                if turn:  # the first turn warms up
                    figures.setdefault((version.name, "backlog"), []).append(backlog)
                    figures.setdefault((version.name, "singles"), []).append(singles)
    print(f"{'':24} worker µs   (least)   Redis µs   messages/s   busy")
    for (name, load), rounds in sorted(figures.items(), key=lambda item: item[0][1]):
        middle = Figures(*(statistics.median(values) for values in zip(*rounds, strict=True)))
        least = min(f.worker_us for f in rounds)
        print(
            f"{load:8} {name:15} {middle.worker_us:9.2f} {least:9.2f} {middle.redis_us:10.2f} "
            f"{middle.per_s:12.0f} {middle.busy:6.2f}"
        )


if __name__ == "__main__":
    main()
