"""Rule: how much of each resource the peak needs, and which one binds first. In closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from engine.capacity.costs import PARTS
from engine.capacity.simulation import Shape, System
from engine.records import Queue
from engine.routing.timing import timing

# What binds a queue. "concurrency": all slots of all workers. "cpu": the loops of the workers. "provider":
# its throughput. "redis", "ledger": one process each, however many nodes there are.
CONCURRENCY, CPU, PROVIDER, REDIS, LEDGER = "concurrency", "cpu", "provider", "redis", "ledger"
# The parts of the engine that one process does for all.
SINGLE = {REDIS: "redis", LEDGER: "ledger"}


class Loads(NamedTuple):
    """By resource, the part of it that is used, 0 to 1 and beyond."""

    by_resource: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """The resource of which most is used."""
        return max(self.by_resource, key=lambda name: self.by_resource[name])

    @property
    def utilisation(self) -> float:
        """How much of that resource is used."""
        return self.by_resource[self.bottleneck]


def loads(system: System, queue: Queue, shape: Shape) -> Loads:
    """What the peak of `queue` uses of each resource when it is served in `shape`.

    The throughput of the provider and the single processes are shared with the other queue.
    """
    sends, costs = system.sends(queue), system.costs
    slots = shape.processes * shape.concurrency
    found = {
        CONCURRENCY: sends * system.answers[queue].mean_s / slots if slots else math.inf,
        CPU: sends * costs.message_us * 1e-6 / shape.processes if shape.processes else math.inf,
    }
    if system.throughput:
        found[PROVIDER] = segments_per_s(system) / provider_rate(system.throughput)
    cores = part_cores(system)
    for resource, part in SINGLE.items():
        found[resource] = cores[part]
    return Loads(found)


def segments_per_s(system: System) -> float:
    """Segments a second of both queues, those that are sent again among them."""
    return math.fsum(system.sends(queue) for queue in system.queues) * system.segments


def provider_rate(throughput: float) -> float:
    """Segments a second that are really sent through a provider with a throughput: a little less than it."""
    return 1 / timing(throughput).interval_s


def part_cores(system: System) -> dict[str, float]:
    """By part of the engine beside the workers, the cores that the peak keeps busy."""
    return {
        part: math.fsum(
            system.rate(queue) * system.costs.parts[part].us(system.burst(queue)) * 1e-6
            for queue in system.queues
        )
        for part in PARTS
    }


def worker_cores(system: System, used_cpu: Mapping[Queue, float], shapes: Mapping[Queue, Shape]) -> float:
    """Cores that the workers keep busy, by the part of their CPU that was used in a simulation."""
    return math.fsum(used_cpu[queue] * shapes[queue].processes for queue in shapes)


def capacity_per_s(system: System, queue: Queue, shape: Shape) -> float:
    """Messages a second of `queue` that can be sent at most, while the other queue goes on at its peak."""
    again = 1 - system.failed
    bounds = [
        shape.processes * shape.concurrency / system.answers[queue].mean_s,
        shape.processes / (system.costs.message_us * 1e-6) if system.costs.message_us else math.inf,
    ]
    if system.throughput:
        others = segments_per_s(system) - system.sends(queue) * system.segments
        bounds.append((provider_rate(system.throughput) - others) / system.segments)
    return max(min(bounds) * again, 0.0)
