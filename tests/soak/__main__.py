"""Mixed traffic, failing carriers, kills and reloads for as long as one likes, and whether anything grows.

    make soak [MINUTES=60] [RATE=200] [SEED=1]

Once a minute, in a short soak more often, it looks at the memory, the descriptors and the CPU of each
process, at Redis, the disk and the latency. At the end everything must be sent that was accepted, each unit
accounted for, and nothing may grow: the exit code is 1 otherwise. In less than 45 minutes growth is shown,
and not judged. The samples are in `soak.csv` of the folder that it names.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import redis

from benchmarks.machine_cpu import OTHERS_MAX, machine_cpu_s
from supervisor.datadir import DataDir
from supervisor.embedded.clickhouse.__main__ import MEMORY_BYTES_MAX
from supervisor.running import Running
from tests.soak import samples
from tests.soak.ending import ended_well
from tests.soak.slope import Fit, Sample, drawn, fitted, pause_between_samples_s
from tests.soak.traffic import Traffic
from tests.soak.trouble import Troubles
from tests.soak.world import World, world

# What may grow an hour, by the begin of the name of a series; None: it is shown alone.
ALLOWED: dict[str, float | None] = {
    # Parts that merges have replaced stay for minutes, and its caches fill; CEILINGS says where that ends.
    "private clickhouse": None,
    "private": 4.0,
    "pss": None,
    # They hold connections of clients, which are more when answers take longer.
    "descriptors ingest": 40.0,
    # Three for each of its threads, of which there are more when a query takes longer.
    "descriptors clickhouse": None,
    "descriptors": 3.0,
    # CPU for each message, microseconds: by a fifth of a usual message's.
    "cpu": 40.0,
    "redis used": 8.0,
    "redis scripts": 0.5,
    "redis keys": None,
    "redis clients": 3.0,
    "stream queued": 500.0,
    "stream usage": 500.0,
    "stream activity": 500.0,
    "stream receipts": 500.0,
    # The record of what was sent grows with what is sent.
    "disk clickhouse": None,
    "disk postgres": None,
    "disk redis": None,
    "disk logs": 5.0,
    "disk": 1.0,
    "latency p50": 20.0,
    "latency p99": None,
    # CPUs that others used.
    "others": None,
}
# What a server that holds itself to a limit may reach, by the name of the series.
CEILINGS = {"private clickhouse MiB": MEMORY_BYTES_MAX / 2**20}
# A shorter soak says nothing of growth.
_JUDGED_MIN = 45.0
# How long a process may take to reach its size, of the whole time and in seconds at most.
_WARM, _WARM_S = 0.25, 600.0


class Record:
    """All samples, by the name of their series."""

    def __init__(self, world: World, traffic: Traffic) -> None:
        running = DataDir(world.engine.data_dir).running(Running)
        assert running is not None
        self.client = redis.Redis.from_url(running.config.redis.url)
        self.series: dict[str, list[Sample]] = defaultdict(list)
        self._shards = running.config.shards
        self._world, self._traffic = world, traffic
        self._began = time.monotonic()
        self._cpu: dict[int, float] = {}
        self._machine = machine_cpu_s()
        self._accepted = 0

    def take(self) -> None:
        """One sample of everything. A store that is away at the moment has none."""
        at_s = time.monotonic() - self._began
        sent, self._accepted = len(self._traffic.accepted) - self._accepted, len(self._traffic.accepted)

        def note(name: str, value: float, source: int = 0) -> None:
            self.series[name].append(Sample(at_s=at_s, value=value, source=source))

        cpu: dict[int, float] = {}
        for process in samples.processes(self._world.engine.pid):
            note(f"private {process.name} MiB", process.private_mib, process.pid)
            note(f"pss {process.name} MiB", process.pss_mib, process.pid)
            note(f"descriptors {process.name}", process.descriptors, process.pid)
            cpu[process.pid] = process.cpu_s
            if process.pid in self._cpu and sent:
                used_us = (process.cpu_s - self._cpu[process.pid]) * 1e6
                # Backends of PostgreSQL that have ended take what they used with them.
                note(f"cpu {process.name} us a message", max(0.0, used_us) / sent, process.pid)
        machine, known = machine_cpu_s(), [pid for pid in cpu if pid in self._cpu]
        ours = sum(cpu[pid] - self._cpu[pid] for pid in known)
        note("others' CPUs", machine.others(self._machine, ours))
        self._cpu, self._machine = cpu, machine
        latencies = self._traffic.taken()
        if latencies:
            note("latency p50 ms", latencies[len(latencies) // 2])
            note("latency p99 ms", latencies[int(len(latencies) * 0.99)])
        for name, value in samples.on_disk(self._world.engine.data_dir).items():
            note(name, value)
        try:
            for name, value in samples.in_redis(self.client, self._shards).items():
                note(name, value)
        except redis.RedisError:
            pass
        self._show(at_s, sent)

    def _show(self, at_s: float, sent: int) -> None:
        def last(name: str) -> float:
            return self.series[name][-1].value if self.series[name] else 0.0

        private = sum(
            s[-1].value for n, s in self.series.items() if n.startswith("private ") and s[-1].at_s == at_s
        )
        say(
            f"{at_s / 60:5.1f} min  {sent:6} accepted  p50 {last('latency p50 ms'):5.1f} ms  "
            f"p99 {last('latency p99 ms'):6.1f} ms  private {private:6.1f} MiB  "
            f"redis {last('redis used MiB'):6.2f} MiB, {last('redis keys'):6.0f} keys"
        )

    def write(self, path: Path) -> None:
        """All samples as lines of CSV: series, seconds, process id, value."""
        with path.open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(("series", "seconds", "process", "value"))
            for name, found in sorted(self.series.items()):
                lines.writerows((name, round(s.at_s, 1), s.source, round(s.value, 3)) for s in found)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def judged(series: dict[str, list[Sample]], warm_s: float) -> list[str]:
    """Print a line for each series; the names of those that grow by more than they may."""
    growing = []
    others = fitted(series["others' CPUs"], 0.0)
    alone = others is None or others.mean <= OTHERS_MAX
    if not alone:
        used = others.mean if others else 0.0
        say(f"\nOthers used {used:.1f} CPUs of this machine: the latency is not judged.")
    say(f"\n{'':34} {'first':>9} {'last':>9} {'an hour':>10} {'±':>8}  verdict")
    for name, found in sorted(series.items()):
        fit = fitted(found, warm_s)
        allowed = next(v for begin, v in ALLOWED.items() if name.startswith(begin))
        if fit is None:
            continue
        if name.startswith("latency") and not alone:
            allowed = None
        verdict = _verdict(fit, allowed)
        if max(s.value for s in found) > CEILINGS.get(name, math.inf):
            verdict = "GROWS"
        if verdict == "GROWS":
            growing.append(name)
        say(
            f"{name:34} {fit.first:9.2f} {fit.last:9.2f} {fit.per_hour:+10.2f} {fit.error_per_hour:8.2f}  "
            f"{verdict:8} {drawn([s.value for s in found])}"
        )
    return growing


def _verdict(fit: Fit, allowed: float | None) -> str:
    if allowed is None:
        return ""
    return "GROWS" if fit.grows(allowed) else "flat"


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--minutes", type=float, default=60.0, help="how long messages are sent (60)")
    options.add_argument("--rate", type=float, default=200.0, help="messages a second (200)")
    options.add_argument("--seed", type=int, default=1, help="of the traffic and of what goes wrong (1)")
    options.add_argument(
        "--folder", type=Path, help="for the data, the log and soak.csv; without it a new one"
    )
    options.add_argument("--every-s", type=float, help="seconds between two samples (60, or less)")
    given = options.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="smsengine-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    say(f"{given.minutes:g} minutes at {given.rate:g} messages a second, in {folder}")
    seconds = given.minutes * 60
    every_s = given.every_s or pause_between_samples_s(seconds)
    with world(folder, given.seed) as made:
        traffic = Traffic(made, given.rate, given.seed)
        record = Record(made, traffic)
        troubles = Troubles(made, seconds, given.seed)
        until = time.monotonic() + seconds
        try:
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(every_s, left))
                record.take()
        finally:
            troubles.stop()
            accepted = traffic.stop()
            record.write(folder / "soak.csv")
        growing = judged(record.series, min(_WARM_S, seconds * _WARM))
        if given.minutes < _JUDGED_MIN:
            say(f"Processes still reach their size: growth is judged from {_JUDGED_MIN:g} minutes on.")
            growing = []
        for kind, (number, octets) in sorted(samples.by_kind_of_key(record.client).items()):
            say(f"  in Redis: {number:7} keys {octets / 1024:10.1f} KiB  {kind}")
        for what, times in sorted(troubles.done.items()):
            say(f"  {times:4} times {what}")
        say(f"  not taken: {dict(traffic.refusals)}")
        found = [*traffic.trouble[:20], *troubles.failures, *ended_well(made, accepted, troubles.done)]
    found += [f"It grows: {name}." for name in growing]
    for sentence in found:
        say(f"FAILED: {sentence}")
    say("Nothing grows, nothing is lost, each unit is accounted for." if not found else "It does not hold.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
