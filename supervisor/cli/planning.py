"""`smsengine plan` carried out: from its options to what is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.capacity.plan import Planner
from engine.capacity.plan_answer import config
from engine.capacity.simulation import Shape
from engine.hosts.cores import usable_cores
from engine.records import Queue
from supervisor.cli import plan_apply, plan_input, plan_report, plan_show
from supervisor.cli.options import EngineOptions
from supervisor.cli.plan_answer import Answer, answer


@dataclass(frozen=True, kw_only=True)
class Given:
    """The options as they were given."""

    peaks_file: Path | None
    # Such as "30d"; "": the peaks are in a file.
    from_activity: str
    response_times: Sequence[str]
    targets: Sequence[str]
    throughput: float | None
    express_share: float
    window: int | None
    # None: as recorded, or 1.
    segments: float | None
    failures: float
    processes_max: int | None
    # Of one node; 0: as many as here.
    cores: int
    costs_file: Path | None
    what_if: Sequence[str]
    # Where to write the page with plots.
    report: Path | None
    # Whether the running engine is to have the plan, and without a question.
    apply: bool
    yes: bool


def make_plan(given: Given, engine: EngineOptions) -> bool:
    """Find a plan and show it; whether it meets the targets.

    Raises ConfigError for a wrong option, and with `apply` NotApplied, or as a `Client` does.
    """
    bounds = plan_input.bounds(given.window, given.processes_max)
    wanted = [plan_input.target(text) for text in given.targets]
    costs, warnings = plan_input.costs(given.costs_file)
    recorded = plan_input.recorded(given.from_activity, given.peaks_file, engine)
    system = plan_input.system(
        peaks=recorded.peaks,
        answers=plan_input.answers(given.response_times, recorded.answers),
        costs=costs,
        throughput=given.throughput,
        express_share=given.express_share,
        segments=recorded.segments if given.segments is None else given.segments,
        failures=given.failures,
    )
    warnings += [*recorded.remarks, *plan_input.idle_targets(wanted, system)]
    if given.report is not None:
        plan_input.check_place(given.report)
    cores = plan_input.whole("--cores", given.cores, 0, 4096) or usable_cores()
    found = Planner(system, wanted, bounds).find()
    facts = answer(found, wanted, bounds, cores_per_node=cores, questions=given.what_if, warnings=warnings)
    if given.report is not None:
        plan_input.write(given.report, plan_report.page(found, facts, bounds))
    if given.apply:
        promised = {target.queue for target in wanted}
        shapes = {queue: shape for queue, shape in found.shapes.items() if queue in promised}
        return _apply(shapes, facts, given, engine)
    if not engine.print_json(facts):
        plan_show.show_plan(facts, given.report)
    return facts.meets


def _apply(shapes: Mapping[Queue, Shape], facts: Answer, given: Given, engine: EngineOptions) -> bool:
    """Apply the shapes of the queues that have a target.

    The others keep what they have: nobody asked for the smallest shape that sends what arrives."""
    if not engine.as_json:
        plan_show.show_plan(facts, given.report)
    if not facts.meets:
        raise plan_apply.NotApplied(
            f"The plan is not applied, because none meets the targets: {facts.reason}"
        )
    if not shapes:
        raise plan_apply.NotApplied("The plan is not applied: nothing arrives in a queue that has a target.")
    client = engine.admin()
    changes = plan_apply.changes_of(shapes, client)
    plan_apply.confirm(changes, yes=given.yes, as_json=engine.as_json)
    for change in plan_apply.carry_out(changes, client):
        if not engine.as_json:
            print(f"The node {change.node} has it for {change.queue}.")
    nodes = max(sum(change.queue == queue for change in changes) for queue in shapes)
    if not engine.print_json(msgspec.structs.replace(facts, applied=changes)):
        plan_apply.show_kept(changes, config(shapes, nodes))
    return True
