"""What the engine costs while nobody sends: CPU and wake-ups by process.

    python -m benchmarks.idle [--seconds 30] [--settle 10]

Takes one minute. A demo engine with its defaults is started, given time to settle, and left alone. Of each
process it prints the CPU time as a part of one core, percent, and how often a second it gave up the
processor, which is about how often it woke. How often each command of Redis was called a second stands
below. Exit code 1 when the engine's own processes together need more than `--max` percent of a core.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import dataclass

import redis

from benchmarks.arguments import from_0, more_than_0, parser_of
from benchmarks.running import Engine, engine
from engine.hosts.cores import usable_cores

# Servers that come along, which a production installation has elsewhere; and the provider of trials.
_SERVERS = ("redis", "postgres", "clickhouse", "simulator")


@dataclass(frozen=True, kw_only=True)
class Idle:
    """One process at rest."""

    # Percent of one core.
    cpu_percent: float
    # Times a second that a thread of it gave up the processor.
    wakes_per_s: float


def measure(target: Engine, seconds: float) -> dict[str, Idle]:
    """What each process used in the next `seconds`, by its name."""
    cpu, wakes, start = target.cpu_s(), target.wakes(), time.monotonic()
    time.sleep(seconds)
    cpu_after, wakes_after, took_s = target.cpu_s(), target.wakes(), time.monotonic() - start
    return {
        name: Idle(
            cpu_percent=(cpu_after[name] - cpu.get(name, 0.0)) / took_s * 100,
            wakes_per_s=(wakes_after.get(name, 0) - wakes.get(name, 0)) / took_s,
        )
        for name in sorted(cpu_after)
    }


def _calls(client: redis.Redis) -> dict[str, int]:
    """How often each command of Redis was called so far."""
    stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): found["calls"] for name, found in stats.items()}


def main() -> int:
    """Measure, print a table and one line of JSON: the exit code."""
    parser = parser_of("idle", __doc__)
    parser.add_argument("--seconds", type=more_than_0, default=30, help="how long (default 30)")
    parser.add_argument("--settle", type=from_0, default=10, help="time to settle before (default 10)")
    parser.add_argument("--max", type=from_0, default=2.0, help="percent that is too much (default 2)")
    arguments = parser.parse_args()
    with engine("") as target:
        time.sleep(arguments.settle)
        client = redis.Redis.from_url(target.redis_url)
        calls = _calls(client)
        found = measure(target, arguments.seconds)
        more = {name: count - calls.get(name, 0) for name, count in _calls(client).items()}
    ours = {name: idle for name, idle in found.items() if name not in _SERVERS}
    total = Idle(
        cpu_percent=sum(idle.cpu_percent for idle in ours.values()),
        wakes_per_s=sum(idle.wakes_per_s for idle in ours.values()),
    )
    print(f"{'process':<14} {'CPU, % of a core':>16} {'wake-ups/s':>11}")
    servers = {name: idle for name, idle in found.items() if name in _SERVERS}
    for name, idle in {**ours, "all of ours": total, **servers}.items():
        print(f"{name:<14} {idle.cpu_percent:>16.2f} {idle.wakes_per_s:>11.1f}")
    print("Redis, commands a second:")
    asked = {name: count / arguments.seconds for name, count in more.items() if count}
    for name, rate in sorted(asked.items(), key=lambda item: -item[1]):
        print(f"  {name:<20} {rate:8.1f}")
    machine = {"cores": usable_cores(), "python": platform.python_version(), "machine": platform.machine()}
    cpu = {name: round(idle.cpu_percent, 2) for name, idle in {**found, "all of ours": total}.items()}
    print(json.dumps({"benchmark": "idle", **machine, "cpu_percent": cpu}))
    return 0 if total.cpu_percent <= arguments.max else 1


if __name__ == "__main__":
    sys.exit(main())
