"""Whether what `smsengine plan` predicts is what happens: predicted and measured side by side.

    python -m benchmarks.verify_plan [--seconds 30] [--only NAME] [--costs data/calibration.json]

Takes 20 minutes. For each scenario (benchmarks/plan_scenarios.py) a plan is made, an engine is started in the
planned shape, and the simulated provider answers as slowly as the distribution says. The load does not wait
for answers (an open model), and the latency of a message counts from the instant at which it was due, to the
provider's acceptance; every latency is kept, so the quantiles are exact. Then the same with a little less
concurrency, for which the planner predicts that the target is missed. Where a worker is killed in the middle
of the load, others make its sends again; how fast the engine recovers from that is measured before the load.
How a load of half a minute stands for the long run is said in benchmarks/typical_load.py.

The figures go to docs/reports/verify-plan.md, with a plot in verify-plan.svg, and to
benchmarks/results/verify-plan.jsonl, each scenario as soon as it is measured, so that `--go-on` goes on after
an interruption. With `--only`, and without `--beside`, the reports stay as they are. Exit code 1 when a
quantile of a plan is further from its prediction than 15 %; 3 when that says nothing, because others used the
machine.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import uvloop

from benchmarks.arguments import more_than_0, parser_of
from benchmarks.deaths import kill_worker, measure_recovery
from benchmarks.machine_cpu import machine_cpu_s
from benchmarks.open_load import OpenLoad, segments_of
from benchmarks.plan_scenarios import SCENARIOS, Scenario
from benchmarks.results import note
from benchmarks.running import Engine, engine, ours_s, settled
from benchmarks.shaped import (
    archived,
    behave,
    behaviour_of,
    configuration,
    costs_from,
    latencies_ms,
    milliseconds,
    quantile_name,
    warm,
)
from benchmarks.typical_load import PARTS, TypicalLoad, typical_load
from benchmarks.verify_records import Measured
from benchmarks.verify_report import disturbance, noted_here, write_reports
from engine.capacity import response_times, targets
from engine.capacity.consequences import with_deaths
from engine.capacity.costs import CALIBRATION, Costs
from engine.capacity.plan import Bounds, Plan, Planner
from engine.capacity.simulation import Death, Shape, System
from engine.config import Queues
from engine.records import QUEUES, Queue
from supervisor.datadir import DEFAULT
from supervisor.simulator.behaviour import Behaviour

_UNITS = 100_000_000
_TOLERANCE = 0.15
# So many loads are simulated in which workers die, and the one that is sent so often.
_LOADS, _DRAWS = 100, 20


def verify(scenario: Scenario, costs: Costs, seconds: float, *, notch: bool) -> list[Measured]:
    """Run one scenario in the planned shape, and with `notch` in one that is a little smaller too."""
    times = response_times.parse(scenario.response_times)
    system = System(
        peaks=scenario.peaks,
        answers=dict.fromkeys(QUEUES, times),
        costs=costs,
        throughput=scenario.throughput,
        express_share=0.2,
        segments=segments_of(
            [p.queue for p in scenario.peaks], [p.messages_per_second for p in scenario.peaks]
        ),
        failed=scenario.failures,
        backoff_s={queue: Queues().of(queue).backoff_s for queue in QUEUES},
    )
    wanted = [targets.parse(text) for text in scenario.targets]
    planner = Planner(system, wanted, Bounds(concurrency_max=scenario.concurrency_max))
    plan = planner.find()
    seconds *= scenario.stretch
    deaths = [Death(at_s=seconds / 2, queue=scenario.killed, process=1)] if scenario.killed else []
    if scenario.lost:
        fewer = {q: replace(s, processes=s.processes - scenario.lost) for q, s in plan.shapes.items()}
        plan = planner.evaluate(fewer, thorough=True)
    behaviour = behaviour_of(times, scenario.failures)
    smaller = planner.evaluate(_smaller(plan), thorough=True)
    if deaths:
        plan, smaller = (with_deaths(one, deaths, seconds, _LOADS) for one in (plan, smaller))
    load = typical_load(plan, smaller, behaviour, seconds, deaths=deaths)
    found = _run(scenario, plan, behaviour, load, planned=True)
    if notch and not plan.reason and not scenario.lost and not deaths:
        found += _run(scenario, smaller, behaviour, load, planned=False)
    return found


def _smaller(plan: Plan) -> dict[Queue, Shape]:
    """A tenth less concurrency, one at least."""
    return {
        queue: replace(shape, concurrency=max(1, shape.concurrency - max(1, shape.concurrency // 10)))
        for queue, shape in plan.shapes.items()
    }


def _run(
    scenario: Scenario, plan: Plan, behaviour: Behaviour, typical: TypicalLoad, *, planned: bool
) -> list[Measured]:
    with (
        tempfile.TemporaryDirectory(prefix="smsengine-verify-") as place,
        engine(configuration(plan.shapes, scenario.throughput), place=Path(place)) as target,
    ):
        behave(target, behaviour)
        keys = target.organisations(len(scenario.peaks), _UNITS)
        load = OpenLoad(target.url, keys, [peak.queue for peak in scenario.peaks])
        warm(target, load, plan.system)
        if typical.deaths:
            plan = _recovering(plan, typical, target, Path(place, "log"))
        predicted = typical.predict(plan, draws=_DRAWS)
        load.refused = 0
        # The provider draws its answers anew.
        behave(target, msgspec.structs.replace(behaviour, seed=typical.seed))
        since_us, before = time.time_ns() // 1000, target.simulator_stats()["received"]
        count, others = _sent(target, load, typical)
        settled(target, before + count - load.refused, timeout_s=120)
        archived(target)
        seen = {
            q.queue: latencies_ms(Path(place), q.queue, since_us + int(typical.arrivals.seconds * 1e5))
            for q in plan.queues
        }
    return [
        Measured(
            scenario=scenario.name,
            queue=q.queue,
            processes=q.shape.processes,
            concurrency=q.shape.concurrency,
            planned=planned,
            messages=seen[q.queue][0],
            predicted_ms=milliseconds(q.latencies),
            load_ms=milliseconds(predicted[q.queue]),
            measured_ms={quantile_name(p): round(seen[q.queue][1][p], 2) for p in PARTS},
            chance_ms={
                quantile_name(p): (round(low * 1e3, 2), round(high * 1e3, 2))
                for p, (low, high) in zip(PARTS, typical.chance_s[q.queue], strict=True)
            },
            targets=[str(t) for t in q.targets],
            predicted_meets=q.meets,
            measured_meets=all(seen[q.queue][1][t.part] <= t.latency_s * 1e3 for t in q.targets),
            load_late_ms=round(load.late_s * 1e3, 1),
            trouble=dict(load.trouble),
            others_cpus=others,
        )
        for q in plan.queues
    ]


def _recovering(plan: Plan, typical: TypicalLoad, target: Engine, log: Path) -> Plan:
    """The plan with what is predicted where a worker that is killed is replaced and fenced as fast as is
    measured now. `log`: of the supervisor."""
    recovery = measure_recovery(target, log, typical.deaths[0].queue)
    print(f"  killed workers are replaced and fenced: {recovery}", flush=True)
    costs = msgspec.structs.replace(plan.system.costs, **recovery._asdict())
    plan = replace(plan, system=replace(plan.system, costs=costs))
    return with_deaths(plan, typical.deaths, typical.arrivals.seconds, _LOADS)


def _sent(target: Engine, load: OpenLoad, typical: TypicalLoad) -> tuple[int, float]:
    """Send the load, and kill workers as it says: (how many messages it was, how many CPUs others used)."""
    for death in typical.deaths:
        threading.Timer(death.at_s, kill_worker, (target, death.queue, death.process + 1)).start()
    machine, before_s = machine_cpu_s(), ours_s(target)
    count = uvloop.run(load.run(typical.arrivals))
    return count, round(machine_cpu_s().others(machine, ours_s(target) - before_s), 2)


def main() -> None:
    """Run the scenarios, write the reports, and say what was found."""
    parser = parser_of("verify_plan", __doc__)
    parser.add_argument(
        "--seconds",
        type=more_than_0,
        default=30.0,
        help="how long a load lasts, those with large bursts twice as long (30)",
    )
    parser.add_argument("--only", default="", help="scenarios whose name holds this text")
    parser.add_argument("--no-notch", action="store_true", help="leave out the runs with less concurrency")
    parser.add_argument(
        "--go-on", action="store_true", help="keep what was measured at this commit, and measure the rest"
    )
    parser.add_argument(
        "--beside", action="store_true", help="keep what was measured of other scenarios at any commit"
    )
    parser.add_argument("--costs", type=Path, default=DEFAULT / CALIBRATION, help="what make calibrate wrote")
    chosen = parser.parse_args()
    costs = costs_from(chosen.costs)
    found = noted_here(any_commit=chosen.beside) if chosen.go_on or chosen.beside else []
    known = {run.scenario for run in noted_here()} if chosen.go_on else set()
    wanted = [s for s in SCENARIOS if chosen.only in s.name and s.name not in known]
    found = [run for run in found if run.scenario not in {scenario.name for scenario in wanted}]
    for scenario in wanted:
        print(f"{scenario.name} ...", file=sys.stderr)
        for run in verify(scenario, costs, chosen.seconds, notch=not chosen.no_notch):
            found.append(run)
            note("verify-plan", run)
            print(
                f"  {run.queue} {run.processes} × {run.concurrency}: {run.predicted_ms}, of this load "
                f"{run.load_ms} -> {run.measured_ms}",
                flush=True,
            )
    names = [scenario.name for scenario in SCENARIOS]
    found = sorted((run for run in found if run.scenario in names), key=lambda run: names.index(run.scenario))
    where = ""
    if not chosen.only or chosen.beside:
        write_reports(found, costs, tolerance=_TOLERANCE)
        where = "; docs/reports/verify-plan.md"
    worst = max((abs(part) for run in found if run.planned for part in run.off().values()), default=0.0)
    print(f"the largest distance of a plan from its prediction: {worst:.0%}{where}")
    if disturbed := disturbance(found):
        print(disturbed)
        sys.exit(3)
    sys.exit(worst > _TOLERANCE)


if __name__ == "__main__":
    main()
