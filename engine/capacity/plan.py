"""Rule: the smallest plan that meets the targets: processes first, then concurrency.

How it is found. The formulas say which shapes cannot carry the peak at all. Among the others, the simulation
says which latency a shape has; more processes and more concurrency never make it longer, so the smallest of
each is found by halving. All shapes meet the same arrivals. The one that is found is simulated once more
with other and more arrivals; while it misses then, it gets a little more, and while a little less would do,
it gets that. The queues are simulated apart, or together when they share the throughput of a provider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from engine.capacity import bottlenecks, durations, queueing
from engine.capacity.bottlenecks import Loads
from engine.capacity.simulation import Arrivals, Latencies, Shape, System, simulate
from engine.capacity.targets import Target
from engine.records import Queue
from engine.written_numbers import plural

# What `[roles]` and `[queues]` allow.
PROCESSES_MAX, CONCURRENCY_MAX = 256, 10_000
# Of all slots, and of what the loops can do, no more than this is planned for: beyond it, small errors of the
# inputs are large errors of the latency.
UTILISATION_MAX = 0.95
# Without a target, so much.
_UTILISATION_PLAIN = 0.7
# Messages of one simulation, of the queue that has the fewest, and of both at most: while searching, at the
# end, and to compare.
_SEARCH, _FINAL, _COMPARED = (50_000, 400_000), (1_000_000, 4_000_000), (200_000, 1_000_000)
# Times that a shape may be made larger, or smaller, after the final simulation.
_CORRECTIONS = 8


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a plan may use."""

    # Sends in flight in one process: of `[queues]`, and of the sessions and the window of a provider.
    concurrency_max: int = CONCURRENCY_MAX
    processes_max: int = PROCESSES_MAX


@dataclass(frozen=True, kw_only=True)
class QueuePlan:
    """How one queue is to be served, and what is predicted."""

    queue: Queue
    shape: Shape
    loads: Loads
    latencies: Latencies
    targets: Sequence[Target]

    @property
    def meets(self) -> bool:
        """Whether all targets are met."""
        return meets(self.latencies, self.targets)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer: a shape for each queue in which anything arrives."""

    system: System
    queues: Sequence[QueuePlan]
    # Why no plan meets the targets; "": this one does.
    reason: str = ""

    @property
    def shapes(self) -> dict[Queue, Shape]:
        """The shapes by queue."""
        return {plan.queue: plan.shape for plan in self.queues}


class Planner:
    """Finds a plan for one system."""

    def __init__(
        self,
        system: System,
        targets: Sequence[Target],
        bounds: Bounds,
        seed: int = 1,
        messages: tuple[int, int] | None = None,
    ) -> None:
        """`messages` of every simulation, of the queue that has the fewest and of all at most; None: as many
        as a plan needs that is to hold for long."""
        self._search, self._final = messages or _SEARCH, messages or _FINAL
        self._system = system
        self._targets = {queue: [t for t in targets if t.queue == queue] for queue in system.queues}
        self._bounds = bounds
        self._seed = seed
        # Queues that are simulated together.
        together = bool(system.throughput) and len(system.queues) > 1
        self._groups = [system.queues] if together else [[queue] for queue in system.queues]
        self._arrivals: dict[tuple[Queue, tuple[int, int]], Arrivals] = {}

    def find(self) -> Plan:
        """The smallest plan that meets the targets, or the nearest one with the reason why there is none."""
        if reason := self._impossible():
            return self._plan(self._largest(), reason)
        shapes = {queue: self._smallest_stable(queue) for queue in self._system.queues}
        corrections = _CORRECTIONS
        for queue in self._system.queues:
            found = self._smallest(queue, shapes)
            # None meets the targets, so that a little more of it does not help.
            corrections = corrections if found else 0
            shapes[queue] = found or replace(shapes[queue], concurrency=self._bounds.concurrency_max)
        while True:
            plan = self._plan(shapes)
            late = [found for found in plan.queues if not found.meets]
            if not late:
                return self._tightened(plan) if corrections == _CORRECTIONS else plan
            if not corrections:
                return replace(plan, reason=self._why(late[0]))
            corrections -= 1
            for missed in late:
                shapes[missed.queue] = self._larger(missed.shape)

    def evaluate(self, shapes: Mapping[Queue, Shape], *, thorough: bool = False) -> Plan:
        """What is predicted for shapes that are given; `thorough`: from as many messages as for a plan."""
        return self._plan(shapes, self._impossible(), _FINAL if thorough else _COMPARED)

    def _tightened(self, plan: Plan) -> Plan:
        """The plan without what its queues have too much of, because the search saw fewer messages."""
        for queue in plan.shapes:
            for _ in range(_CORRECTIONS):
                shape = plan.shapes[queue]
                less = shape.concurrency - max(1, shape.concurrency // 50)
                if not self._targets[queue] or less < self._smallest_with(queue, shape.processes):
                    break
                tried = self._plan({**plan.shapes, queue: replace(shape, concurrency=less)})
                if not all(found.meets for found in tried.queues):
                    break
                plan = tried
        return plan

    def _plan(
        self, shapes: Mapping[Queue, Shape], reason: str = "", messages: tuple[int, int] | None = None
    ) -> Plan:
        found: list[QueuePlan] = []
        for group in self._groups:
            arrivals = self._of(group, messages or self._final)
            latencies = simulate(self._system, {q: shapes[q] for q in group}, arrivals, self._seed + 1)
            found += [
                QueuePlan(
                    queue=queue,
                    shape=shapes[queue],
                    loads=bottlenecks.loads(self._system, queue, shapes[queue]),
                    latencies=latencies[queue],
                    targets=self._targets[queue],
                )
                for queue in group
            ]
        return Plan(system=self._system, queues=found, reason=reason)

    def _of(self, group: Sequence[Queue], messages: tuple[int, int]) -> Arrivals:
        key = group[0], messages
        if key not in self._arrivals:
            seed = self._seed * 2 + (messages != self._search)
            self._arrivals[key] = Arrivals(self._system, group, messages, seed)
        return self._arrivals[key]

    def _impossible(self) -> str:
        system = self._system
        if system.throughput:
            wanted, given = bottlenecks.segments_per_s(system), bottlenecks.provider_rate(system.throughput)
            if wanted >= given:
                return (
                    f"The peak is {wanted:,.0f} segments/s, and the provider takes {given:,.0f} at most: "
                    "the backlog grows as long as the peak lasts."
                )
        for queue, targets in self._targets.items():
            for target in targets:
                alone_s = system.answers[queue].quantile_s(target.part)
                if alone_s > target.latency_s:
                    return (
                        f"{target} cannot be met: the provider alone takes {durations.show(alone_s)} for "
                        f"p{target.part * 100:g} of the sends."
                    )
        for resource in bottlenecks.SINGLE:
            for queue in system.queues:
                used = bottlenecks.loads(system, queue, self._largest()[queue]).by_resource[resource]
                if used >= 1:
                    return (
                        f"The peak needs {used:.1f} times what one process of {resource} can do, and there "
                        "is one for all nodes."
                    )
        return ""

    def _largest(self) -> dict[Queue, Shape]:
        found = {}
        for queue in self._system.queues:
            least = self._smallest_stable(queue)
            slots = max(1, math.ceil(least.concurrency * 4))
            found[queue] = replace(least, concurrency=min(slots, self._bounds.concurrency_max))
        return found

    def _smallest_stable(self, queue: Queue) -> Shape:
        """The fewest processes, and the least concurrency of each, that carry the peak at all."""
        system, bounds = self._system, self._bounds
        most = UTILISATION_MAX if self._targets[queue] else _UTILISATION_PLAIN
        cpu = system.sends(queue) * system.costs.message_us * 1e-6 / most
        slots = system.sends(queue) * system.answers[queue].mean_s / most
        processes = max(1, math.ceil(cpu), math.ceil(slots / bounds.concurrency_max))
        processes = min(processes, bounds.processes_max)
        return Shape(
            processes=processes,
            concurrency=min(max(1, math.ceil(slots / processes)), bounds.concurrency_max),
        )

    def _smallest(self, queue: Queue, shapes: Mapping[Queue, Shape]) -> Shape | None:
        least, targets = shapes[queue], self._targets[queue]
        if not targets:
            return least
        group = next(g for g in self._groups if queue in g)
        arrivals = self._of(group, self._search)

        def holds(shape: Shape) -> bool:
            tried = {q: self._generous(q) if q != queue else shape for q in group}
            return meets(simulate(self._system, tried, arrivals, self._seed)[queue], targets)

        most = self._bounds.concurrency_max
        processes = _first(
            least.processes,
            self._bounds.processes_max,
            lambda n: holds(Shape(processes=n, concurrency=most)),
        )
        if processes is None:
            return None
        low = self._smallest_with(queue, processes)
        start = min(max(low, self._by_formula(queue, processes)), most)
        concurrency = _first(low, most, lambda n: holds(Shape(processes=processes, concurrency=n)), start)
        return Shape(processes=processes, concurrency=concurrency or most)

    def _smallest_with(self, queue: Queue, processes: int) -> int:
        slots = self._system.sends(queue) * self._system.answers[queue].mean_s / UTILISATION_MAX
        return max(1, math.ceil(slots / processes - 1e-9))

    def _by_formula(self, queue: Queue, processes: int) -> int:
        """The concurrency that meets the targets by the formula: where to begin to look."""
        times, sends = self._system.answers[queue], self._system.sends(queue)
        load, variation = sends * times.mean_s, (1 + times.variation) / 2

        def late(concurrency: int) -> bool:
            slots = processes * concurrency
            return any(
                queueing.wait_quantile_s(slots, load, times.mean_s, target.part, variation) > target.latency_s
                for target in self._targets[queue]
            )

        concurrency = self._smallest_with(queue, processes)
        while late(concurrency) and concurrency < self._bounds.concurrency_max:
            concurrency += max(1, concurrency // 20)
        return concurrency

    def _generous(self, queue: Queue) -> Shape:
        least = self._smallest_stable(queue)
        return replace(least, concurrency=self._bounds.concurrency_max)

    def _larger(self, shape: Shape) -> Shape:
        more = shape.concurrency + max(1, shape.concurrency // 50)
        if more <= self._bounds.concurrency_max:
            return replace(shape, concurrency=more)
        return replace(shape, processes=min(shape.processes + 1, self._bounds.processes_max))

    def _why(self, found: QueuePlan) -> str:
        missed = next(t for t in found.targets if found.latencies.quantile_s(t.part) > t.latency_s)
        seen = durations.show(found.latencies.quantile_s(missed.part))
        most = self._bounds.processes_max
        return (
            f"{missed} cannot be met with at most {most} {plural('process', most)} and a concurrency "
            f"of {self._bounds.concurrency_max:,}: {seen} is the best, and {found.loads.bottleneck} binds."
        )


def meets(latencies: Latencies, targets: Sequence[Target]) -> bool:
    """Whether all `targets` are met."""
    return all(latencies.quantile_s(t.part) <= t.latency_s for t in targets)


def _first(low: int, high: int, holds: Callable[[int], bool], start: int | None = None) -> int | None:
    """The least number from `low` to `high` for which `holds` is true, when it is for all above it; None: for
    none. It looks near `start` first, or near `low`, because that is where it mostly is."""
    at = low if start is None else start
    step, tried = 1, low - 1
    if at > low and holds(at):
        # Downwards, by steps that double, until one does not hold.
        while at - step >= low and holds(at - step):
            at, step = at - step, step * 2
        tried = max(at - step, low - 1)
    else:
        while not holds(at):
            if at >= high:
                return None
            tried, at, step = at, min(at + step, high), step * 2
    while at - tried > 1:
        middle = (at + tried) // 2
        if holds(middle):
            at = middle
        else:
            tried = middle
    return at
