"""Rule: what becomes of a plan when something is different from what was given.

A process is lost, the provider has been away, an input is a fifth more or less: with the same shapes, what is
the latency, and how long until the backlog is gone?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from engine.capacity import bottlenecks, durations, response_times
from engine.capacity.costs import Costs
from engine.capacity.plan import Bounds, Plan, Planner, QueuePlan
from engine.capacity.queueing import drain_s
from engine.capacity.simulation import Arrivals, Death, Latencies, System, simulate
from engine.capacity.targets import Target
from engine.records import Queue
from engine.written_numbers import is_whole, real

# A provider that was away for so long leaves a backlog to be drained, seconds.
OUTAGE_S = 60.0
# Of the cores of a node, so much is planned for.
_NODE_UTILISATION = 0.8
_CHANGE = 0.2
# A worker is killed in the middle of so much time, seconds, and so many of these are taken together.
_DEATH_S, _DEATHS = 30.0, 40
WHAT_IF_ALLOWED = (
    "'arrivals x2', 'provider p50=2s' (or any distribution), 'throughput 500', 'processes -1', "
    "or 'worker killed'"
)


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One input that is different, and what is predicted then."""

    # Such as "arrivals +20 %".
    name: str
    plan: Plan

    def meets(self) -> bool:
        """Whether all targets are met all the same."""
        return not self.plan.reason and all(found.meets for found in self.plan.queues)


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """How many machines it takes."""

    # Cores that all processes of all roles keep busy at the peak, and those of one node.
    cores_needed: float
    cores_per_node: float
    nodes: int
    # By part, the cores that it keeps busy.
    cores: Mapping[str, float]


def sensitivity(plan: Plan, targets: Sequence[Target], bounds: Bounds) -> list[Variation]:
    """The plan's shapes with each input a fifth more, and a fifth less."""
    found = []
    for sign, mark in ((1 + _CHANGE, "+20 %"), (1 - _CHANGE, "-20 %")):
        found += [
            _varied(plan, targets, bounds, f"{name} {mark}", system)
            for name, system in _scaled(plan.system, sign)
        ]
    return sorted(found, key=lambda variation: variation.name)


def without_a_process(plan: Plan, targets: Sequence[Target], bounds: Bounds) -> dict[Queue, QueuePlan | None]:
    """By queue, what is predicted with one process fewer; None: there is but one, and nothing is sent until
    it is replaced."""
    found: dict[Queue, QueuePlan | None] = {}
    for queue, shape in plan.shapes.items():
        found[queue] = None
        if shape.processes > 1:
            fewer = {**plan.shapes, queue: replace(shape, processes=shape.processes - 1)}
            evaluated = Planner(plan.system, targets, bounds).evaluate(fewer)
            found[queue] = next(q for q in evaluated.queues if q.queue == queue)
    return found


def with_deaths(plan: Plan, deaths: Sequence[Death], seconds: float, loads: int = _DEATHS) -> Plan:
    """The plan with what is predicted for many loads of `seconds`, in each of which these workers are killed,
    replaced, and what they had in hand is sent again."""
    found: dict[Queue, Latencies] = {}
    for seed in range(1, loads + 1):
        arrivals = Arrivals(plan.system, plan.system.queues, (1, 10**9), seed, seconds)
        one = simulate(plan.system, plan.shapes, arrivals, seed, deaths=deaths)
        found = {queue: found[queue] + latencies for queue, latencies in one.items()} if found else one
    return replace(plan, queues=[replace(q, latencies=found[q.queue]) for q in plan.queues])


def drained_after_s(plan: Plan, queue: Queue) -> float:
    """How long after an outage of OUTAGE_S at the peak the backlog of `queue` is gone, seconds."""
    rate = plan.system.rate(queue)
    capacity = bottlenecks.capacity_per_s(plan.system, queue, plan.shapes[queue])
    return drain_s(rate * OUTAGE_S, rate, capacity)


def nodes(plan: Plan, cores_per_node: float) -> Nodes:
    """How many machines with so many cores carry the peak."""
    used = {found.queue: found.latencies.used_cpu for found in plan.queues}
    cores = {**bottlenecks.part_cores(plan.system)}
    cores["workers"] = bottlenecks.worker_cores(plan.system, used, plan.shapes)
    needed = math.fsum(cores.values())
    return Nodes(
        cores_needed=needed,
        cores_per_node=cores_per_node,
        nodes=max(1, math.ceil(needed / (cores_per_node * _NODE_UTILISATION))),
        cores=cores,
    )


def curve(plan: Plan, queue: Queue, bounds: Bounds) -> list[tuple[int, Latencies]]:
    """What is predicted for `queue` with other concurrencies than that of the plan, ascending."""
    shape = plan.shapes[queue]
    tried = {round(shape.concurrency * factor) for factor in (0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0)}
    tried |= {shape.concurrency + step for step in (-2, -1, 1, 2)}
    planner, found = Planner(plan.system, (), bounds), []
    for concurrency in sorted(n for n in tried if 1 <= n <= bounds.concurrency_max):
        shapes = {**plan.shapes, queue: replace(shape, concurrency=concurrency)}
        evaluated = planner.evaluate(shapes)
        found.append((concurrency, next(q.latencies for q in evaluated.queues if q.queue == queue)))
    return found


def what_if(plan: Plan, targets: Sequence[Target], bounds: Bounds, question: str) -> Variation:
    """The plan's shapes with what `question` says. Raises ValueError, whose text says what is allowed."""
    subject, _, rest = question.strip().partition(" ")
    rest, system, shapes = rest.strip(), plan.system, plan.shapes
    wrong = ValueError(f"{question.strip()!r} must be one of {WHAT_IF_ALLOWED}")
    if subject == "arrivals" and rest.startswith("x"):
        system = _more_arrivals(system, _factor(rest[1:], wrong))
    elif subject == "throughput":
        system = replace(system, throughput=_factor(rest, wrong))
    elif subject == "processes" and rest == "-1":
        shapes = {q: replace(s, processes=s.processes - 1) for q, s in shapes.items()}
        if alone := [q for q, s in shapes.items() if not s.processes]:
            raise ValueError(
                f"{question.strip()!r}: {alone[0]} has one process alone, and nothing is sent without"
            )
    elif (subject, rest) == ("worker", "killed"):
        deaths = [Death(at_s=_DEATH_S / 2, queue=queue) for queue in shapes]
        return Variation(name=question.strip(), plan=with_deaths(plan, deaths, _DEATH_S))
    elif subject == "provider":
        system = replace(system, answers=_answers(system, rest.split()[-1] if rest else ""))
    else:
        raise wrong
    evaluated = Planner(system, targets, bounds).evaluate(shapes)
    return Variation(name=question.strip(), plan=evaluated)


def _answers(system: System, text: str) -> dict[Queue, response_times.ResponseTimes]:
    given = response_times.parse(text)
    name, equals, value = text.partition("=")
    if not (equals and "," not in text and is_whole(name[1:].replace(".", "", 1))):
        return dict.fromkeys(system.answers, given)
    # One quantile alone: the distribution keeps its form.
    part, wanted_s = float(name[1:]) / 100, durations.parse(value)
    return {queue: times.scaled(wanted_s / times.quantile_s(part)) for queue, times in system.answers.items()}


def _factor(text: str, wrong: ValueError) -> float:
    try:
        value = real(text)
    except ValueError:
        raise wrong from None
    if not 0 < value <= 1e6:
        raise wrong
    return value


def _varied(plan: Plan, targets: Sequence[Target], bounds: Bounds, name: str, system: System) -> Variation:
    return Variation(name=name, plan=Planner(system, targets, bounds).evaluate(plan.shapes))


def _scaled(system: System, factor: float) -> list[tuple[str, System]]:
    found = [
        ("arrivals", _more_arrivals(system, factor)),
        (
            "response times",
            replace(system, answers={q: t.scaled(factor) for q, t in system.answers.items()}),
        ),
        ("CPU of a message", replace(system, costs=_dearer(system.costs, factor))),
    ]
    if system.throughput:
        found.append(("throughput", replace(system, throughput=system.throughput * factor)))
    return found


def _more_arrivals(system: System, factor: float) -> System:
    peaks = [p._replace(messages_per_second=p.messages_per_second * factor) for p in system.peaks]
    return replace(system, peaks=peaks)


def _dearer(costs: Costs, factor: float) -> Costs:
    return msgspec.structs.replace(
        costs, round_us=costs.round_us * factor, message_us=costs.message_us * factor
    )
