"""What the supervisor costs, and how soon it replaces a process that dies.

    python -m benchmarks.supervisor [--seconds 20] [--deaths 5]

Takes six minutes. The CPU and the memory of an idle supervisor; for each role the time from its process's
death to the readiness of the next one, for a first death and for a second one right after it; and how long
a scrape of the metrics takes. The aims: below 0.5 % of a CPU, 40 MB private, 0.3 s and 20 ms. On a machine
that does other work at the same time the times are upper bounds; the CPU that a process and a scrape cost
is not.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.arguments import count_from_1, more_than_0, parser_of
from benchmarks.micro.cores import cpu_s
from benchmarks.running import Engine, engine
from engine.config import ROLES

_CONFIG = '[[providers]]\nname = "simulated"\n'
_LIVED_S = 31.0
_DEADLINE_S = 30.0


def main() -> None:
    """Print the figures."""
    options = parser_of("supervisor", __doc__)
    options.add_argument("--seconds", type=more_than_0, default=20.0)
    options.add_argument("--deaths", type=count_from_1, default=5)
    given = options.parse_args()
    with engine(_CONFIG) as running:
        time.sleep(3)
        print(json.dumps(_idle(running, given.seconds)))
        print(json.dumps(_scrapes(running)))
        first: dict[str, list[float]] = {role: [] for role in ROLES}
        second: dict[str, list[float]] = {role: [] for role in ROLES}
        cpu_ms: dict[str, list[float]] = {role: [] for role in ROLES}
        for _ in range(given.deaths):
            # Whoever has lived so long dies for the first time again.
            time.sleep(_LIVED_S)
            for role in ROLES:
                first[role].append(_replaced_s(running, role))
                second[role].append(_replaced_s(running, role))
                cpu_ms[role].append(cpu_s(_row(running, role)["pid"]) * 1000)
        for role in ROLES:
            figures = f"first {_shown(first[role])}   second {_shown(second[role])}"
            cpu = statistics.median(cpu_ms[role])
            print(f"{role:10} death to readiness, ms: {figures}   CPU of its start {cpu:.0f}")


def _shown(seconds: list[float]) -> str:
    ms = sorted(s * 1000 for s in seconds)
    return f"median {statistics.median(ms):4.0f}, {ms[0]:4.0f} to {ms[-1]:4.0f}"


def _idle(running: Engine, seconds: float) -> dict[str, float]:
    """The supervisor's share of a CPU, per cent, and its memory, MB."""
    before = running.cpu_s()["supervisor"]
    time.sleep(seconds)
    used = running.cpu_s()["supervisor"] - before
    rollup = Path(f"/proc/{running.pid}/smaps_rollup").read_text()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    return {
        "cpu_percent": round(100 * used / seconds, 2),
        "private_mb": round((kib["Private_Clean"] + kib["Private_Dirty"]) * 1024 / 1e6, 1),
        "pss_mb": round(kib["Pss"] * 1024 / 1e6, 1),
    }


def _scrapes(running: Engine, count: int = 50) -> dict[str, float]:
    """How long scrapes of `/metrics` take, one after another, ms."""
    request = urllib.request.Request(
        f"{running.admin_url}/metrics", headers={"Authorization": f"Bearer {running.admin_key}"}
    )
    taken = []
    pid = _row(running, "admin")["pid"]
    used_s = cpu_s(pid)
    for _ in range(count):
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    return {
        "scrape_ms_median": round(statistics.median(taken), 1),
        "scrape_ms_p90": round(taken[int(count * 0.9)], 1),
        "scrape_cpu_ms": round((cpu_s(pid) - used_s) * 1000 / count, 1),
    }


def _replaced_s(running: Engine, role: str) -> float:
    """Kill the process of the role; the seconds until the next one is ready."""
    pid = _row(running, role)["pid"]
    killed_at = time.time()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        row = _row(running, role)
        if row["state"] == "ready" and row["pid"] not in (0, pid):
            # When it came into this state, by the supervisor.
            return float(row["since_us"]) / 1e6 - killed_at
        if time.monotonic() > deadline:
            raise SystemExit(f"{role} was not replaced: {row}")
        time.sleep(0.002)


def _row(running: Engine, role: str) -> dict[str, Any]:
    """The supervisor's own row of the first process of a role."""
    text = (running.data_dir / "run" / "processes.json").read_text()
    return dict(next(r for r in json.loads(text)["processes"] if r["role"] == role))


if __name__ == "__main__":
    main()
