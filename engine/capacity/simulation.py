"""Rule: the latencies of a system of workers and a provider, by simulation of each event.

What is simulated, step by step, is said in `_simulate.pyx`. The same seed gives the same random arrivals to
each system that is compared, so that they differ by what they are and not by chance (common random numbers:
A. M. Law, Simulation Modeling and Analysis, 5th ed. 2015, 11.2).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from engine.capacity import _simulate
from engine.capacity.costs import Costs
from engine.capacity.peaks import Peak
from engine.capacity.response_times import ResponseTimes
from engine.delivery.read_ahead import ahead_at, worth_reading
from engine.delivery.supply import Supply
from engine.delivery.sweep_times import TAKE_OVER_S, TICK_S
from engine.records import QUEUES, Queue
from engine.routing.slot_clock import HORIZON_S
from engine.routing.timing import timing
from engine.written_numbers import plural

# Arrivals of the first part of a run are not counted: it begins empty.
_WARM_UP = 0.1
# So many bursts at least are needed for the quantiles of a latency, as far as the number of messages allows.
_BURSTS_MIN = 400
# Bins of latencies: each 1 % higher than the one before, from so much on, seconds.
_FIRST_S, _PER_BIN = 1e-6, 1 / math.log(1.01)
BINS = _simulate.BINS


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How one queue is served."""

    processes: int
    # Sends in flight in one process.
    concurrency: int


@dataclass(frozen=True, kw_only=True)
class Death:
    """One process is killed."""

    # Seconds after the first arrivals may come; the process of the queue, from 0.
    at_s: float
    queue: Queue
    process: int = 0


@dataclass(frozen=True, kw_only=True)
class System:
    """Everything but the shapes: what arrives, and what it meets."""

    peaks: Sequence[Peak]
    answers: Mapping[Queue, ResponseTimes]
    costs: Costs
    # Segments a second that the provider takes; None: no limit. And the part of it kept for express.
    throughput: float | None = None
    express_share: float = 0.0
    # Segments a message, in the mean.
    segments: float = 1.0
    # The part of the sends that fail for the time being, and are tried again after `backoff_s`.
    failed: float = 0.0
    backoff_s: Mapping[Queue, float]

    def rate(self, queue: Queue) -> float:
        """Messages of a queue a second."""
        return math.fsum(p.messages_per_second for p in self.peaks if p.queue == queue)

    def sends(self, queue: Queue) -> float:
        """Sends of a queue a second, those after a failure among them."""
        return self.rate(queue) / (1 - self.failed)

    def burst(self, queue: Queue) -> float:
        """In how large a burst a message of a queue comes, in the mean over messages."""
        rate = self.rate(queue)
        total = math.fsum(p.messages_per_second * p.burst for p in self.peaks if p.queue == queue)
        return total / rate if rate else 1.0

    @property
    def queues(self) -> list[Queue]:
        """The queues in which anything arrives."""
        return [queue for queue in QUEUES if any(p.queue == queue for p in self.peaks)]


def bin_of(latency_s: float) -> int:
    """The place of a latency, seconds, in the bins of `Latencies`."""
    place = int(math.log(latency_s / _FIRST_S) * _PER_BIN) + 1 if latency_s > _FIRST_S else 0
    return min(place, BINS - 1)


class Latencies:
    """How many messages had which latency, and what it took.

    The same as an HDR histogram: bounded memory for any number of observations, two may be added up, and a
    quantile is right to one percent from a microsecond to days.
    """

    def __init__(self, bins: Sequence[int], used_cpu: float, used_slots: float) -> None:
        """`bins`: counts, each bin 1 % higher than the one before, from a microsecond. The parts that were
        used of the CPU and of the slots of all processes, 0 to 1."""
        self.bins = bins
        self.count = sum(bins)
        self.used_cpu = used_cpu
        self.used_slots = used_slots

    def __add__(self, other: Latencies) -> Latencies:
        """The messages of two runs together."""
        weight = self.count / max(self.count + other.count, 1)
        return Latencies(
            [one + another for one, another in zip(self.bins, other.bins, strict=True)],
            weight * self.used_cpu + (1 - weight) * other.used_cpu,
            weight * self.used_slots + (1 - weight) * other.used_slots,
        )

    def quantile_s(self, part: float) -> float:
        """The latency that `part` (0 to 1) of the messages do not exceed, to 1 %, seconds."""
        wanted, seen = part * self.count, 0
        for place, count in enumerate(self.bins):
            seen += count
            if count and seen >= wanted:
                return _FIRST_S * 1.01 ** (place - 0.5) if place else 0.0
        return 0.0


class Arrivals:
    """Random bursts of one length of time, to be used for many shapes."""

    def __init__(
        self,
        system: System,
        queues: Sequence[Queue],
        messages: tuple[int, int],
        seed: int,
        seconds: float | None = None,
    ) -> None:
        """`messages`: about so many of the queue that has the fewest, more where bursts are large; and at
        most so many of all. With `seconds` it is as many as come in that time."""
        peaks = [p for p in system.peaks if p.queue in queues]
        self.queues = array("i", [QUEUES.index(p.queue) for p in peaks])
        lengths = [_length_s([p for p in peaks if p.queue == queue], messages[0]) for queue in queues]
        rate = math.fsum(p.messages_per_second for p in peaks)
        self.seconds = seconds or min(max(lengths), messages[1] / rate)
        rates = [p.messages_per_second / p.burst for p in peaks]
        sums = array("d", accumulate(rates))
        self.times, self.organisations = _simulate.arrive(sums, self.seconds, seed)
        self.sizes = array("i", [peaks[i].burst for i in self.organisations])


def simulate(
    system: System,
    shapes: Mapping[Queue, Shape],
    arrivals: Arrivals,
    seed: int = 1,
    given_s: Sequence[float] = (),
    deaths: Sequence[Death] = (),
) -> dict[Queue, Latencies]:
    """By queue in `shapes`, the latencies of all of `arrivals`. `given_s`: how long the provider takes for
    each send, in the order of the sends of both queues, seconds; negative: it fails. `deaths`: of workers."""
    costs, none = system.costs, Shape(processes=0, concurrency=0)
    chosen = [shapes.get(queue, none) for queue in QUEUES]
    answers = [array("d", system.answers[queue].times_s) for queue in QUEUES]
    ahead, worth = zip(*(_read_ahead(system, chosen[QUEUES.index(q)], q) for q in QUEUES), strict=True)
    bins = [array("q", bytes(8 * _simulate.BINS)) for _ in QUEUES]
    end_s, busy_s, held_s = _simulate.simulate(
        arrivals.times,
        arrivals.organisations,
        arrivals.sizes,
        arrivals.queues,
        _pair([s.processes for s in chosen]),
        _pair([s.concurrency for s in chosen]),
        _pair(ahead),
        _pair(worth),
        (costs.round_us * 1e-6,) * 2,
        # A message is in two rounds: it is sent in one, and its answer is acted upon in another.
        (costs.message_us * 1e-6 / 2,) * 2,
        (system.backoff_s["express"], system.backoff_s["normal"]),
        (system.answers["express"].mean_s, system.answers["normal"].mean_s),
        answers[0],
        answers[1],
        array("d", given_s),
        array("d", costs.inner().times_s),
        timing(system.throughput).interval_s if system.throughput else 0.0,
        system.express_share,
        HORIZON_S,
        system.segments,
        system.failed,
        arrivals.seconds * _WARM_UP,
        seed,
        bins[0],
        bins[1],
        tuple((death.at_s, _place(death, chosen)) for death in deaths),
        (costs.replaced_s, costs.fenced_s, TAKE_OVER_S, TICK_S),
    )
    return {
        queue: _latencies(bins[place], chosen[place], end_s, busy_s[place], held_s[place])
        for place, queue in enumerate(QUEUES)
        if queue in shapes
    }


def _latencies(bins: Sequence[int], shape: Shape, end_s: float, busy_s: float, held_s: float) -> Latencies:
    whole_s = max(end_s, 1e-9) * shape.processes
    return Latencies(bins, busy_s / whole_s, held_s / (whole_s * shape.concurrency))


def _place(death: Death, chosen: Sequence[Shape]) -> int:
    """Of a process that dies, among those of both queues."""
    of = QUEUES.index(death.queue)
    if not 0 <= death.process < chosen[of].processes:
        there = chosen[of].processes
        raise ValueError(f"{death.queue} has {there} {plural('process', there)}, and not one {death.process}")
    return death.process + sum(shape.processes for shape in chosen[:of])


def _length_s(peaks: Sequence[Peak], messages: int) -> float:
    rate = math.fsum(p.messages_per_second for p in peaks)
    bursts = math.fsum(p.messages_per_second / p.burst for p in peaks)
    return max(messages / rate, _BURSTS_MIN / bursts)


def _read_ahead(system: System, shape: Shape, queue: Queue) -> tuple[int, int]:
    """How many messages a worker has in hand beside its sends, and how many must be missing for a read."""
    rate = shape.concurrency / system.answers[queue].mean_s
    ahead = ahead_at(shape.concurrency, rate, Supply().hold_s)
    return ahead, worth_reading(shape.concurrency, ahead)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    express, normal = values
    return express, normal
