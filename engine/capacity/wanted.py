"""Rule: which shape of a queue the planner wants for what is measured, and what a message costs its workers.

What a message costs is that of the calibration until it is known better. When the loops of the workers bind,
it is measured, for then most is done together; at other times what a message takes is the most that it
costs. So processes that full loops have asked for stay while they are needed, although with them no loop is
full.

No more is planned for than loops can do that run at one time: beyond it, neither processes nor sends in
flight are of use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from engine.capacity import durations
from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.capacity.bottlenecks import CPU
from engine.capacity.costs import Costs, PartCost
from engine.capacity.measured import Measured
from engine.capacity.peaks import Peak
from engine.capacity.plan import UTILISATION_MAX, Bounds, Planner
from engine.capacity.response_times import of_quantiles
from engine.capacity.simulation import Shape, System
from engine.histogram import ANSWER_S
from engine.nodes.flow import quantile_ms
from engine.records import QUEUES, Queue
from engine.written_numbers import plural

# What is planned for, in parts of what is measured: the next second may bring more.
HEADROOM = 1.25
# A plan is made for rates, times and costs of a message rounded up to these steps.
_RATE_STEP, TIME_STEP, _COST_STEP = 1.1, 1.25, 1.02
# Unread messages of so much time are always there, seconds.
NATURAL_S = 0.5
# A target that the providers alone miss gives way to their time, so many times and this much longer, seconds.
_SLACK, _SLACK_S = 1.25, 0.05
# Messages of one simulation: of the queue, and at most; and how many times stand for the answers of
# providers. A plan takes about five milliseconds with these.
_MESSAGES, _TIMES = (5_000, 20_000), 1_000
_PLANS_MAX = 512
_PARTS = (0.5, 0.9, 0.99)
# No provider is taken to be faster, seconds.
_TIME_MIN_S = 0.001


class _Inputs(NamedTuple):
    """What a plan is made for: messages a second, seconds by _PARTS, sends in flight of a process, and what a
    message costs a worker, seconds."""

    rate: float
    times_s: tuple[float, ...]
    window: int
    message_s: float


class Wanted:
    """Of one queue on one node."""

    def __init__(self, queue: Queue, settings: AutoscaleSettings, costs: Costs, cores: int | None) -> None:
        """`costs`: of this machine. `cores`: how many loops can run at one time; None: as many as there may
        be processes. Raises ValueError for a wrong target."""
        self._queue = queue
        self._settings = settings
        self._target = settings.target_of(queue)
        # Redis and the books are the same for every shape.
        nothing = dict.fromkeys(costs.parts, PartCost(single_us=0.0, batch_us=0.0))
        self._costs = msgspec.structs.replace(costs, parts=nothing)
        # More processes than that are of no use where the loops bind.
        self._loops = min(settings.processes_max, cores or settings.processes_max)
        # CPU of a worker that a message costs, seconds; and whether that was measured.
        self._message_s, self.measured = costs.message_us / 1e6, False
        self._answers: Sequence[int] = ()
        self._wait_s = 0.0
        self._plans: dict[_Inputs, Shape] = {}
        # How often a plan was made.
        self.planned = 0

    def note(self, seen: Measured, shape: Shape) -> None:
        """Learn what is measured while `shape` is in force."""
        if seen.answers:
            self._answers, self._wait_s = seen.answers, seen.wait_s
        if seen.hold or not seen.message_s:
            return
        if seen.message_s < self._message_s or self._full(seen, shape):
            self._message_s, self.measured = seen.message_s, True

    def shape(self, seen: Measured, backlog_per_s: float) -> Shape | None:
        """The shape that the planner wants when `backlog_per_s` of what waits are to be sent beside what
        arrives, messages a second; None: it is not known how long providers take."""
        settings = self._settings
        rate = (seen.arrivals_per_s + backlog_per_s) * HEADROOM
        if seen.throughput is not None:
            rate = min(rate, seen.throughput)
        if rate <= 0:
            return within(settings, 0, 0)
        if not self._answers:
            return None
        times_s = tuple(_stepped(max(self._time_s(part), _TIME_MIN_S), TIME_STEP) for part in _PARTS)
        window = self.window(seen)
        message_s = _stepped(self._message_s, _COST_STEP)
        rate = min(_stepped(rate, _RATE_STEP), self._loops * UTILISATION_MAX / message_s)
        wanted = self._planned(_Inputs(rate, times_s, window, message_s))
        return within(settings, wanted.processes, math.ceil(wanted.concurrency / seen.part))

    def window(self, seen: Measured) -> int:
        """The most sends in flight that one process may have."""
        return min(self._settings.concurrency_max, seen.window or self._settings.concurrency_max)

    def _full(self, seen: Measured, shape: Shape) -> bool:
        """Whether the loops of the workers bind: messages wait, the loops have no headroom, and either sends
        in flight are left over, or their answers wait for the loop and not for the provider."""
        slots = shape.processes * min(shape.concurrency, self.window(seen))
        left = seen.in_flight < UTILISATION_MAX * slots
        waits = seen.unread > NATURAL_S * seen.arrivals_per_s
        return waits and seen.busy * HEADROOM >= 1 and (seen.late or left)

    def _time_s(self, part: float) -> float:
        """A quantile of how long the providers take, seconds."""
        return answer_s(self._answers, part) - self._wait_s

    def _planned(self, inputs: _Inputs) -> Shape:
        known = self._plans.get(inputs)
        if known is not None:
            return known
        if len(self._plans) >= _PLANS_MAX:
            self._plans.clear()
        answers = of_quantiles(list(zip(_PARTS, inputs.times_s, strict=True)), "measured", _TIMES)
        system = System(
            peaks=[Peak("all", self._queue, inputs.rate)],
            answers=dict.fromkeys(QUEUES, answers),
            costs=msgspec.structs.replace(self._costs, message_us=inputs.message_s * 1e6),
            backoff_s=dict.fromkeys(QUEUES, 0.0),
        )
        alone_s = _SLACK * answers.quantile_s(self._target.part) + _SLACK_S
        target = self._target._replace(latency_s=max(self._target.latency_s, alone_s))
        slots = math.ceil(inputs.rate * answers.mean_s / UTILISATION_MAX)
        # Beyond the cores processes are of use only where sends in flight are lacking.
        most = max(self._loops, min(math.ceil(slots / inputs.window), self._settings.processes_max))
        bounds = Bounds(concurrency_max=inputs.window, processes_max=most)
        self.planned += 1
        plan = Planner(system, [target], bounds, messages=_MESSAGES).find()
        found = plan.queues[0]
        shape = found.shape
        if plan.reason and found.loads.bottleneck == CPU:
            # More sends in flight would wait for the loops.
            shape = Shape(processes=most, concurrency=math.ceil(slots / most))
        return self._plans.setdefault(inputs, shape)

    def facts(self, seen: Measured) -> str:
        """What a plan is made for, in words."""
        arrivals, unread = round(seen.arrivals_per_s), round(seen.unread)
        facts = (
            f"{arrivals:,} {plural('message', arrivals)}/s {'arrives' if arrivals == 1 else 'arrive'},"
            f" {unread:,} {'waits' if unread == 1 else 'wait'}"
        )
        if not self._answers:
            return facts
        p50, p99 = (durations.show(max(self._time_s(part), _TIME_MIN_S)) for part in (0.5, 0.99))
        facts += f", answers take {p50} (p99 {p99})"
        return f"{facts}, a message {durations.show(self._message_s)} of a worker" if self.measured else facts


def within(settings: AutoscaleSettings, processes: int, concurrency: int) -> Shape:
    """The shape in the bounds of the settings that comes nearest."""
    return Shape(
        processes=min(max(processes, settings.processes_min), settings.processes_max),
        concurrency=min(max(concurrency, settings.concurrency_min), settings.concurrency_max),
    )


def busy_processes(seen: Measured) -> int:
    """How many processes can do what the loops of all workers do now."""
    return math.ceil(seen.busy_loops * HEADROOM / UTILISATION_MAX)


def answer_s(answers: Sequence[int], part: float) -> float:
    """A quantile of answer times, seconds; 0: there are none."""
    return (quantile_ms(answers, ANSWER_S, part) or 0.0) / 1000


def _stepped(value: float, step: float) -> float:
    """The least power of `step` that is no less; 0 for 0."""
    return step ** math.ceil(math.log(value, step) - 1e-9) if value > 0 else 0.0
