"""The whole engine on this machine: HTTP in, simulated provider out, everything switched on.

    python -m benchmarks.whole [--rate 5000] [--seconds 60]      sustained, with proof
    python -m benchmarks.whole --ingest [--seconds 15]            how fast ingest alone accepts

Takes two minutes. Sustained: an open load at `--rate` messages/s, half express, one worker process per queue,
the simulator at zero latency. At the end every accepted message must be at the simulator
exactly once, and the audit must be clean. The memory of each process is compared between the
second and the last third of the run. Ingest alone: batches of 100, one ingest process, no
workers. Redis has its append-only file on disk before it answers. Exit code 1 when something is
lost, doubled or unclean.
"""

from __future__ import annotations

import json
import platform
import sys
import threading
import time

import uvloop

from benchmarks.arguments import count_from_1, more_than_0, parser_of
from benchmarks.load import Load
from benchmarks.running import Engine, engine, settled
from benchmarks.tally import Tally
from engine.hosts.cores import usable_cores

_ORGANISATIONS = 50
_UNITS = 100_000_000
_SAMPLE_S = 2.0


class Memory:
    """Samples the engine's memory during a run, on a thread."""

    def __init__(self, target: Engine) -> None:
        self._target = target
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self._samples.append((time.monotonic(), self._target.memory_mib()))

    def thirds(self) -> dict[str, tuple[float, float]]:
        """Stop, and give the mean MiB of each process in the second and the last third of the run.

        The first third warms up.
        """
        self._stop.set()
        self._thread.join()
        third = max(1, len(self._samples) // 3)
        parts = self._samples[third : 2 * third], self._samples[-third:]
        names = self._samples[-1][1] if self._samples else {}
        return {
            name: (
                _mean([s.get(name, 0.0) for _, s in parts[0]]),
                _mean([s.get(name, 0.0) for _, s in parts[1]]),
            )
            for name in sorted(names)
        }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _cpu(before: dict[str, float], after: dict[str, float], messages: int) -> dict[str, float]:
    """CPU per message, microseconds, by process."""
    return {
        name: round((after[name] - before.get(name, 0.0)) * 1e6 / max(messages, 1), 1)
        for name in sorted(after)
    }


def sustained(rate: float, seconds: float, seed: int) -> dict[str, object]:
    """Run the sustained load: the figures by name. `clean` says whether nothing was lost or doubled."""
    with engine(_configuration(workers=1)) as target:
        keys = target.organisations(_ORGANISATIONS, _UNITS)
        load = Load(target.url, keys, size=100, express_share=0.5, connections=64, seed=seed)
        memory, cpu = Memory(target), target.cpu_s()
        uvloop.run(load.open(rate, seconds))
        tally = load.tally
        drained_s = settled(target, tally.accepted, timeout_s=120)
        thirds = memory.thirds()
        cpu_us = _cpu(cpu, target.cpu_s(), tally.accepted)
        stats = target.simulator_stats()
        audit = target.audit()
    return {
        **_ingest_figures(tally),
        "offered_per_s": rate,
        "delivered_per_s": round(stats["received"] / (tally.seconds + drained_s)),
        "drained_after_s": round(drained_s, 2),
        "lost": tally.accepted - stats["distinct"],
        "doubled": stats["duplicates"],
        "audit": {check["name"]: check["verdict"] for check in audit["checks"]},
        "memory_mib": {name: [round(a, 1), round(b, 1)] for name, (a, b) in thirds.items()},
        "cpu_us_per_message": cpu_us,
        "clean": audit["clean"] and stats["distinct"] == tally.accepted and not stats["duplicates"],
    }


def ingest_alone(seconds: float, seed: int) -> dict[str, object]:
    """Offer ingest all that it takes, without workers: the figures by name. `clean` is the audit's."""
    with engine(_configuration(workers=0)) as target:
        keys = target.organisations(_ORGANISATIONS, _UNITS)
        for key in keys:
            _warm(target, key, seed)
        load = Load(target.url, keys, size=100, express_share=0.5, connections=16, seed=seed)
        cpu = target.cpu_s()
        uvloop.run(load.closed(16, seconds))
        tally = load.tally
        cpu_us = _cpu(cpu, target.cpu_s(), tally.accepted)
        audit = target.audit()
    return {**_ingest_figures(tally), "cpu_us_per_message": cpu_us, "clean": audit["clean"]}


def _warm(target: Engine, key: str, seed: int) -> None:
    load = Load(target.url, [key], size=100, express_share=0.5, connections=1, seed=seed)
    uvloop.run(load.closed(1, 0.01))


def _ingest_figures(tally: Tally) -> dict[str, object]:
    return {
        "accepted": tally.accepted,
        "accepted_per_s": round(tally.accepted / tally.seconds),
        "batch_ms": {f"p{q}": round(tally.quantile_ms(q / 100), 1) for q in (50, 99)},
        "trouble": dict(tally.trouble),
    }


def _configuration(workers: int) -> str:
    return f"[roles]\nexpress = {workers}\nnormal = {workers}\n"


def _show(result: dict[str, object]) -> None:
    for name, value in result.items():
        print(f"  {name:<20} {json.dumps(value)}")


def main() -> int:
    """Run one of the two, print its figures and one line of JSON: the exit code."""
    parser = parser_of("whole", __doc__)
    parser.add_argument("--rate", type=more_than_0, default=5000, help="messages/s offered (default 5000)")
    parser.add_argument("--seconds", type=more_than_0, default=60, help="how long (default 60)")
    parser.add_argument("--ingest", action="store_true", help="measure how fast ingest alone accepts")
    parser.add_argument("--seed", type=count_from_1, default=1, help="of the messages (default 1)")
    arguments = parser.parse_args()
    machine = {"cores": usable_cores(), "python": platform.python_version(), "machine": platform.machine()}
    if arguments.ingest:
        result = ingest_alone(arguments.seconds, arguments.seed)
    else:
        result = sustained(arguments.rate, arguments.seconds, arguments.seed)
    print("ingest alone" if arguments.ingest else "the whole engine", json.dumps(machine))
    _show(result)
    print(json.dumps({"benchmark": "ingest" if arguments.ingest else "whole", **machine, **result}))
    return 0 if result["clean"] else 1


if __name__ == "__main__":
    sys.exit(main())
