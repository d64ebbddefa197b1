"""Rule: the facts of a plan as records, for programs and for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from engine.capacity import consequences
from engine.capacity.bottlenecks import CONCURRENCY, CPU
from engine.capacity.consequences import Variation
from engine.capacity.plan import Bounds, Plan, QueuePlan
from engine.capacity.simulation import Shape
from engine.capacity.targets import Target
from engine.records import Queue


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies from submission to the provider's acceptance, milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    # More arrives than is sent, so that the backlog grows as long as the peak lasts. Then the latencies are
    # those of the time that was simulated, and longer after more of it.
    grows: bool = False


class TargetAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One target, and how far the plan is from it: `margin` is the part of the time that is left."""

    quantile: float
    at_most_ms: float
    predicted_ms: float
    met: bool
    margin: float


class LossAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is predicted with one process fewer."""

    processes: int
    predicted: Predicted
    met: bool


class QueueAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One queue of the plan."""

    queue: Queue
    processes: int
    concurrency: int
    # Messages a second at the peak, and the size of the burst in which a message comes, in the mean.
    messages_per_second: float
    burst: float
    # The part of the bottleneck that is used, and by resource.
    utilisation: float
    bottleneck: str
    utilisations: dict[str, float]
    predicted: Predicted
    targets: list[TargetAnswer]
    # None: there is one process alone, and nothing is sent until it is replaced.
    after_loss_of_a_process: LossAnswer | None
    # How long after a minute without the provider the backlog is gone; None: never.
    drained_after_outage_s: float | None


class VariationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The same processes and concurrency with one input that is different."""

    name: str
    met: bool
    predicted: dict[str, Predicted]
    reason: str = ""


class NodesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Machines, and the cores that are kept busy."""

    nodes: int
    cores_per_node: float
    cores_needed: float
    cores: dict[str, float]


class PlanAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    meets: bool
    # Why no plan meets the targets; "" when this one does.
    reason: str
    queues: list[QueueAnswer]
    nodes: NodesAnswer
    sensitivity: list[VariationAnswer]
    what_if: list[VariationAnswer]
    # The machine whose costs were used.
    costs: str
    warnings: list[str]
    # For the configuration of each node.
    config: str


def answer(
    plan: Plan,
    targets: Sequence[Target],
    bounds: Bounds,
    *,
    cores_per_node: float,
    questions: Sequence[str],
    warnings: Sequence[str],
) -> PlanAnswer:
    """All facts of a plan. Raises ValueError for a question that is not understood."""
    nodes = consequences.nodes(plan, cores_per_node)
    fewer = consequences.without_a_process(plan, targets, bounds)
    return PlanAnswer(
        meets=not plan.reason,
        reason=plan.reason,
        queues=[_queue(plan, found, fewer[found.queue]) for found in plan.queues],
        nodes=NodesAnswer(
            nodes=nodes.nodes,
            cores_per_node=nodes.cores_per_node,
            cores_needed=round(nodes.cores_needed, 3),
            cores={part: round(cores, 4) for part, cores in nodes.cores.items()},
        ),
        sensitivity=[_variation(v) for v in consequences.sensitivity(plan, targets, bounds)],
        what_if=[_variation(consequences.what_if(plan, targets, bounds, question)) for question in questions],
        costs=plan.system.costs.machine,
        warnings=list(warnings),
        config=config(plan.shapes, nodes.nodes),
    )


def config(shapes: Mapping[Queue, Shape], nodes: int) -> str:
    """The settings of each of `nodes` nodes, as TOML."""
    lines = ["[roles]"]
    lines += [f"{queue} = {math.ceil(shape.processes / nodes)}" for queue, shape in shapes.items()]
    for queue, shape in shapes.items():
        lines += ["", f"[queues.{queue}]", f"concurrency = {shape.concurrency}"]
    return "\n".join(lines) + "\n"


def predicted(found: QueuePlan, reason: str = "") -> Predicted:
    """The quantiles of the latency of a queue; `reason`: why its plan cannot meet the targets."""
    used = found.loads.by_resource
    own = max(used[CONCURRENCY], used[CPU])
    # What both queues share may be enough for this one.
    shared = bool(reason) and not (found.targets and found.meets)
    p50, p95, p99, p999 = (
        round(found.latencies.quantile_s(part) * 1e3, 2) for part in (0.5, 0.95, 0.99, 0.999)
    )
    return Predicted(
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        grows=max(used.values()) >= 1 if shared else own >= 1,
    )


def _queue(plan: Plan, found: QueuePlan, fewer: QueuePlan | None) -> QueueAnswer:
    drained_s = consequences.drained_after_s(plan, found.queue)
    loss = None
    if fewer is not None:
        loss = LossAnswer(processes=fewer.shape.processes, predicted=predicted(fewer), met=fewer.meets)
    return QueueAnswer(
        queue=found.queue,
        processes=found.shape.processes,
        concurrency=found.shape.concurrency,
        messages_per_second=round(plan.system.rate(found.queue), 3),
        burst=round(plan.system.burst(found.queue), 2),
        utilisation=round(found.loads.utilisation, 4),
        bottleneck=found.loads.bottleneck,
        utilisations={name: round(part, 4) for name, part in found.loads.by_resource.items()},
        predicted=predicted(found, plan.reason),
        targets=[_target(found, target) for target in found.targets],
        after_loss_of_a_process=loss,
        drained_after_outage_s=round(drained_s, 1) if math.isfinite(drained_s) else None,
    )


def _target(found: QueuePlan, target: Target) -> TargetAnswer:
    seen_s = found.latencies.quantile_s(target.part)
    return TargetAnswer(
        quantile=target.part,
        at_most_ms=target.latency_s * 1e3,
        predicted_ms=round(seen_s * 1e3, 2),
        met=seen_s <= target.latency_s,
        margin=round(1 - seen_s / target.latency_s, 4),
    )


def _variation(variation: Variation) -> VariationAnswer:
    return VariationAnswer(
        name=variation.name,
        met=variation.meets(),
        predicted={found.queue: predicted(found, variation.plan.reason) for found in variation.plan.queues},
        reason=variation.plan.reason,
    )
