"""Whether what `smsengine plan` predicts is what happens: predicted and measured side by side.

    python -m benchmarks.verify_plan [--seconds 40] [--only NAME] [--costs data/calibration.json]

For each scenario (benchmarks/plan_scenarios.py) a plan is made, an engine is started in the planned shape,
and the simulated provider answers as slowly as the distribution says. The load does not wait for answers (an
open model), and the latency of a message counts from the instant at which it was due, to the provider's
acceptance. Then the same with a little less concurrency, for which the planner predicts that the target is
missed.

The figures go to docs/reports/verify-plan.md, with plots in verify-plan.html, and to
benchmarks/results/verify-plan.jsonl. Exit code 1 when a quantile is further from its prediction than 15 %.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import uvloop

from benchmarks.open_load import OpenLoad
from benchmarks.plan_scenarios import SCENARIOS, Scenario
from benchmarks.running import Engine, engine, settled
from benchmarks.verify_records import Measured
from benchmarks.verify_report import write_reports
from engine.capacity import costs as costs_of
from engine.capacity import response_times, targets
from engine.capacity.costs import CALIBRATION, Costs
from engine.capacity.plan import Bounds, Plan, Planner
from engine.capacity.response_times import ResponseTimes
from engine.capacity.simulation import Arrivals, Shape, System
from engine.config import Queues
from engine.records import QUEUES, Queue
from supervisor.datadir import DEFAULT
from supervisor.running import Running

_PARTS = (0.5, 0.95, 0.99)
_UNITS = 100_000_000
_TOLERANCE = 0.15
_QUERY = """
SELECT count(), {quantiles} FROM (
    SELECT dateDiff('microsecond', fromUnixTimestamp64Micro(toInt64(reference)), at) / 1000 AS ms
    FROM activity WHERE event = 'sent' AND queue = '{queue}' AND toInt64(reference) >= {since_us}
)
"""


def verify(scenario: Scenario, costs: Costs, seconds: float, *, notch: bool) -> list[Measured]:
    """Run one scenario in the planned shape, and with `notch` in one that is a little smaller too."""
    times = response_times.parse(scenario.response_times)
    system = System(
        peaks=scenario.peaks,
        answers=dict.fromkeys(QUEUES, times),
        costs=costs,
        throughput=scenario.throughput,
        express_share=0.2,
        failed=scenario.failures,
        backoff_s={queue: Queues().of(queue).backoff_s for queue in QUEUES},
    )
    wanted = [targets.parse(text) for text in scenario.targets]
    planner = Planner(system, wanted, Bounds())
    plan = planner.find()
    found = _run(scenario, plan, times, seconds, planned=True)
    if notch and not plan.reason:
        found += _run(scenario, planner.evaluate(_smaller(plan)), times, seconds, planned=False)
    return found


def _smaller(plan: Plan) -> dict[Queue, Shape]:
    """A tenth less concurrency, one at least."""
    return {
        queue: replace(shape, concurrency=max(1, shape.concurrency - max(1, shape.concurrency // 10)))
        for queue, shape in plan.shapes.items()
    }


def _run(
    scenario: Scenario, plan: Plan, times: ResponseTimes, seconds: float, *, planned: bool
) -> list[Measured]:
    folder = Path(tempfile.mkdtemp(prefix="smsengine-verify-"))
    with engine(_configuration(scenario, plan.shapes), place=folder) as target:
        _behave(target, times, scenario.failures)
        keys = target.organisations(len(scenario.peaks), _UNITS)
        load = OpenLoad(target.url, keys, [peak.queue for peak in scenario.peaks])
        _warm(target, load, plan.system)
        arrivals = Arrivals(plan.system, plan.system.queues, (1, 10**9), 11, seconds)
        since_us, before = time.time_ns() // 1000, target.simulator_stats()["received"]
        count = uvloop.run(load.run(arrivals))
        settled(target, before + count, timeout_s=120)
        _archived(target)
        seen = {q.queue: _latencies(folder, q.queue, since_us + int(seconds * 1e5)) for q in plan.queues}
    return [
        Measured(
            scenario=scenario.name,
            queue=q.queue,
            processes=q.shape.processes,
            concurrency=q.shape.concurrency,
            planned=planned,
            messages=seen[q.queue][0],
            predicted_ms={_name(p): round(q.latencies.quantile_s(p) * 1e3, 2) for p in _PARTS},
            measured_ms={_name(p): round(seen[q.queue][1][p], 2) for p in _PARTS},
            targets=[str(t) for t in q.targets],
            predicted_meets=q.meets,
            measured_meets=all(seen[q.queue][1][t.part] <= t.latency_s * 1e3 for t in q.targets),
            load_late_ms=round(load.late_s * 1e3, 1),
            trouble=dict(load.trouble),
            machine=f"{platform.node()}, {os.cpu_count()} cores",
            at_s=int(time.time()),
        )
        for q in plan.queues
    ]


def _configuration(scenario: Scenario, shapes: Mapping[Queue, Shape]) -> str:
    lines = ["[roles]", *(f"{queue} = {shape.processes}" for queue, shape in shapes.items())]
    for queue, shape in shapes.items():
        lines += [f"[queues.{queue}]", f"concurrency = {shape.concurrency}"]
    lines += ["[queues.express]"] if "express" not in shapes else []
    lines += ["[[providers]]", 'type = "simulated"', 'name = "simulated"', "connections_max = 4096"]
    lines += [f"throughput = {scenario.throughput}"] if scenario.throughput else []
    return "\n".join(lines) + "\n"


def _behave(target: Engine, times: ResponseTimes, failures: float) -> None:
    """Make the provider answer as `times` say."""
    step = max(1, len(times.times_s) // 4000)
    points = [
        ((n + 0.5) / len(times.times_s), times.times_s[n] * 1e3) for n in range(0, len(times.times_s), step)
    ]
    body = msgspec.json.encode({"latency": {"quantiles": points}, "error_rates": {"temporary": failures}})
    request = urllib.request.Request(f"{target.simulator_url}/behaviour", method="PUT", data=body)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def _warm(target: Engine, load: OpenLoad, system: System) -> None:
    """Let every organisation have credit in the process, and every connection its first request."""
    before = target.simulator_stats()["received"]
    count = uvloop.run(load.run(Arrivals(system, system.queues, (1, 10**9), 5, 4.0)))
    settled(target, before + count, timeout_s=60)


def _archived(target: Engine) -> None:
    """Wait until all activity is in ClickHouse."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not target.call("GET", "/v1/admin/status")["activity"]["waiting_entries"]:
            return
        time.sleep(0.2)


def _latencies(folder: Path, queue: Queue, since_us: int) -> tuple[int, dict[float, float]]:
    """Messages that were due since `since_us`, and the quantiles of their latencies, milliseconds."""
    running = msgspec.json.decode((folder / "data/run/engine.json").read_bytes(), type=Running)
    url = urlsplit(running.config.clickhouse.url)
    parts = sorted({*_PARTS, 0.999})
    quantiles = ", ".join(f"quantileExact({p})(ms)" for p in parts)
    sql = _QUERY.format(quantiles=quantiles, queue=queue, since_us=since_us) + " FORMAT JSONCompact"
    request = urllib.request.Request(
        f"{url.scheme}://{url.hostname}:{url.port}/?database={quote(url.path.strip('/') or 'default')}",
        data=sql.encode(),
        headers={"X-ClickHouse-User": url.username or "default", "X-ClickHouse-Key": url.password or ""},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        row: list[Any] = msgspec.json.decode(answer.read())["data"][0]
    return int(row[0]), {p: float(v) for p, v in zip(parts, row[1:], strict=True)}


def _name(part: float) -> str:
    return f"p{part * 100:g}"


def _costs(file: Path) -> Costs:
    if file.is_file():
        return costs_of.decode(file.read_bytes())
    print(
        f"{file} is not there; run make calibrate first. The costs are those of a reference machine.",
        file=sys.stderr,
    )
    return costs_of.REFERENCE


def main() -> None:
    """Run the scenarios, write the reports, and say what was found."""
    parser = argparse.ArgumentParser(description="Hold the planner's predictions to what happens.")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long each load lasts (40)")
    parser.add_argument("--only", default="", help="scenarios whose name holds this text")
    parser.add_argument("--no-notch", action="store_true", help="leave out the runs with less concurrency")
    parser.add_argument("--costs", type=Path, default=DEFAULT / CALIBRATION, help="what make calibrate wrote")
    chosen = parser.parse_args()
    costs = _costs(chosen.costs)
    found: list[Measured] = []
    for scenario in (s for s in SCENARIOS if chosen.only in s.name):
        print(f"{scenario.name} ...", file=sys.stderr)
        for run in verify(scenario, costs, chosen.seconds, notch=not chosen.no_notch):
            found.append(run)
            print(
                f"  {run.queue} {run.processes} × {run.concurrency}: {run.predicted_ms} -> {run.measured_ms}"
            )
    write_reports(found, costs, tolerance=_TOLERANCE)
    worst = max((abs(part) for run in found if run.planned for part in run.off().values()), default=0.0)
    print(f"the largest distance of a plan from its prediction: {worst:.0%}; docs/reports/verify-plan.md")
    sys.exit(worst > _TOLERANCE)


if __name__ == "__main__":
    main()
