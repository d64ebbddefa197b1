"""Rule: what becomes of the shape of a queue on one node, by what is measured there once a second.

The shape that is wanted comes from the planner itself (`plan.py`), for what arrives now and what waits
unread, with the response times that were measured. A plan is made only when one of these has moved by a step
of ten percent or a quarter, and is kept; so it costs nothing while they stay about the same.

    up      at once, when more than a tenth of sends in flight is lacking, or a process
    down    when for `calm_s` nothing more was wanted, to the most that was wanted meanwhile, and only when
            that is a quarter less, or a process less
    flaps   when more is wanted soon after less was given, the calm must last twice as long the next time
    hold    while nothing may be concluded, because providers are down or paused. Then nothing changes, and
    the
            calm begins anew. So it does while an operator has set the numbers, or the node is drained

What is concluded never leaves the bounds of the settings. Every node decides for its share of what arrives
on all nodes. A decision of one node changes no input of another, so they cannot drive each other up and down.

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from engine.capacity import durations
from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.capacity.costs import Costs, PartCost
from engine.capacity.peaks import Peak
from engine.capacity.plan import Bounds, Planner
from engine.capacity.response_times import of_quantiles
from engine.capacity.simulation import Shape, System
from engine.histogram import ANSWER_S
from engine.nodes.flow import quantile_ms
from engine.records import QUEUES, Queue

# What is planned for, in parts of what is measured: the next second may bring more.
_HEADROOM = 1.25
# A plan is made for rates and times rounded up to these steps.
_RATE_STEP, _TIME_STEP = 1.1, 1.25
# More than so much must be lacking, and less than so much be needed, for a change of the sends in flight.
_UP, _DOWN = 1.1, 0.75
# Unread messages of so much time are always there, seconds. A backlog is to be gone within half the time of
# the target, between these bounds, seconds.
_NATURAL_S = 0.5
_DRAIN_MIN_S, _DRAIN_MAX_S = 3.0, 300.0
# What arrives is measured over the time of the target, between these bounds, seconds.
_HORIZON_MIN_S, _HORIZON_MAX_S = 3.0, 60.0
# The calm lasts so long at most after flaps, seconds, when the settings ask for less.
_CALM_MAX_S = 3600.0
# A target that the providers alone miss gives way to their time, so many times and this much longer, seconds.
_SLACK, _SLACK_S = 1.25, 0.05
# Messages of one simulation: of the queue, and at most; and how many times stand for the answers of
# providers. A plan takes about five milliseconds with these.
_MESSAGES, _TIMES = (5_000, 20_000), 1_000
_PLANS_MAX = 512
_PARTS = (0.5, 0.9, 0.99)


class Measured(NamedTuple):
    """What is measured of one queue at one time, as far as this node is to send it."""

    at_s: float
    # Messages a second that arrive lately; and messages that wait and no worker has been given.
    arrivals_per_s: float
    unread: float
    # Times of the providers that work, lately, by the bounds ANSWER_S; empty: nobody has answered lately.
    answers: Sequence[int] = ()
    # Messages a second that these providers take; None: no limit.
    throughput: float | None = None
    # Sends in flight that they allow one process; None: no limit. And the part of its concurrency that it
    # can use.
    window: int | None = None
    part: float = 1.0
    # Why nothing may be concluded; "": it may. `calm`: the time counts as calm all the same.
    hold: str = ""
    calm: bool = False


class Change(NamedTuple):
    """Another shape, and why."""

    before: Shape
    after: Shape
    reason: str


class _Inputs(NamedTuple):
    """What a plan is made for: messages a second, seconds by _PARTS, sends in flight of a process."""

    rate: float
    times_s: tuple[float, ...]
    window: int


class Autoscaler:
    """Of one queue on one node."""

    def __init__(self, queue: Queue, settings: AutoscaleSettings, costs: Costs, shape: Shape) -> None:
        """`shape`: that which is in force. `costs`: of this machine. Raises ValueError for a wrong target."""
        self._queue = queue
        self._target = settings.target_of(queue)
        self._settings = settings
        # Redis and the books are the same for every shape.
        nothing = dict.fromkeys(costs.parts, PartCost(single_us=0.0, batch_us=0.0))
        self._costs = msgspec.structs.replace(costs, parts=nothing)
        self.shape = shape
        self._plans: dict[_Inputs, Shape] = {}
        # How often a plan was made.
        self.planned = 0
        self._answers: Sequence[int] = ()
        # Since when it is calm, and the most that was wanted since: processes, and sends in flight.
        self._since_s: float | None = None
        self._most = (0, 0)
        self._calm_s = settings.calm_s
        self._fell_at_s = -math.inf
        # What was measured at the last change.
        self._last = Measured(-math.inf, 0.0, 0.0)

    @property
    def horizon_s(self) -> float:
        """Over so much time, seconds, the rate of arrivals is to be measured: where messages may wait, a
        burst is no rate."""
        return min(max(self._target.latency_s, _HORIZON_MIN_S), _HORIZON_MAX_S)

    def rest(self) -> None:
        """Let the calm begin anew: the numbers are in other hands now, or nothing works here."""
        self._since_s = None

    def look(self, seen: Measured) -> Change | None:
        """What changes by what was measured; None: nothing does. Times go up."""
        now = self.shape
        if within(self._settings, now.processes, now.concurrency) != now:
            return self._change(seen, within(self._settings, now.processes, now.concurrency), "its bounds")
        if seen.answers:
            self._answers = seen.answers
        if seen.hold:
            if not seen.calm:
                self._since_s = None
            return None
        wanted = self._wanted(seen)
        if wanted is None:
            return None
        slots, has = wanted.processes * wanted.concurrency, now.processes * now.concurrency
        if wanted.processes > now.processes or slots > _UP * has:
            return self._rise(seen, max(wanted.processes, now.processes), max(slots, has))
        if self._since_s is None:
            self._since_s, self._most = seen.at_s, (0, 0)
        self._most = max(self._most[0], wanted.processes), max(self._most[1], slots)
        if seen.at_s - self._since_s < self._calm_s:
            return None
        return self._fall(seen)

    def _rise(self, seen: Measured, processes: int, slots: int) -> Change | None:
        after = within(self._settings, processes, math.ceil(slots / processes))
        if after == self.shape:
            # The bounds are reached; that is no calm.
            self._since_s = None
            return None
        if seen.at_s - self._fell_at_s < 2 * self._calm_s:
            self._calm_s = min(2 * self._calm_s, max(_CALM_MAX_S, self._settings.calm_s))
        return self._change(seen, after, self._cause(seen))

    def _fall(self, seen: Measured) -> Change | None:
        now, (processes, slots) = self.shape, self._most
        lasted_s, self._since_s = self._calm_s, None
        fewer = min(processes, now.processes) < now.processes
        if not fewer and slots > _DOWN * now.processes * now.concurrency:
            # It is what is needed: whatever made it flap is over.
            self._calm_s = max(self._settings.calm_s, self._calm_s / 2)
            return None
        after = within(self._settings, processes, math.ceil(slots / max(processes, 1)))
        if after == now:
            return None
        self._fell_at_s = seen.at_s
        return self._change(seen, after, f"no more was needed for {durations.show(lasted_s)}")

    def _change(self, seen: Measured, after: Shape, cause: str) -> Change:
        before, self.shape = self.shape, after
        self._since_s, self._last = None, seen
        return Change(before, after, f"{cause}: {self._facts(seen)}")

    def _wanted(self, seen: Measured) -> Shape | None:
        """The shape that the planner wants; None: it is not known how long providers take."""
        settings = self._settings
        rate = seen.arrivals_per_s + self._backlog(seen) / self._drain_s()
        rate *= _HEADROOM
        if seen.throughput is not None:
            rate = min(rate, seen.throughput)
        if rate <= 0:
            return within(settings, 0, 0)
        times_s = tuple(_stepped(_s(self._answers, part), _TIME_STEP) for part in _PARTS)
        if not times_s[0]:
            return None
        window = min(settings.concurrency_max, seen.window or settings.concurrency_max)
        wanted = self._planned(_Inputs(_stepped(rate, _RATE_STEP), times_s, window))
        return within(settings, wanted.processes, math.ceil(wanted.concurrency / seen.part))

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
            costs=self._costs,
            backoff_s=dict.fromkeys(QUEUES, 0.0),
        )
        alone_s = _SLACK * answers.quantile_s(self._target.part) + _SLACK_S
        target = self._target._replace(latency_s=max(self._target.latency_s, alone_s))
        bounds = Bounds(concurrency_max=inputs.window, processes_max=self._settings.processes_max)
        self.planned += 1
        plan = Planner(system, [target], bounds, messages=_MESSAGES).find()
        return self._plans.setdefault(inputs, plan.queues[0].shape)

    def _backlog(self, seen: Measured) -> float:
        return max(0.0, seen.unread - _NATURAL_S * seen.arrivals_per_s)

    def _drain_s(self) -> float:
        return min(max(self._target.latency_s / 2, _DRAIN_MIN_S), _DRAIN_MAX_S)

    def _cause(self, seen: Measured) -> str:
        """What has grown most since the last change."""
        last, drain_s = self._last, self._drain_s()
        slower = _s(seen.answers, 0.9) / _s(last.answers, 0.9) if seen.answers and last.answers else 1.0
        grown = {
            "more arrives": (seen.arrivals_per_s + 1) / (last.arrivals_per_s + 1),
            "providers take longer": slower,
            "a backlog waits": 1 + self._backlog(seen) / drain_s / (seen.arrivals_per_s + 1),
        }
        return max(grown, key=lambda cause: grown[cause])

    def _facts(self, seen: Measured) -> str:
        facts = f"{seen.arrivals_per_s:,.0f} messages/s arrive, {seen.unread:,.0f} wait"
        if not self._answers:
            return facts
        p50, p99 = (durations.show(_s(self._answers, part)) for part in (0.5, 0.99))
        return f"{facts}, answers take {p50} (p99 {p99})"


def within(settings: AutoscaleSettings, processes: int, concurrency: int) -> Shape:
    """The shape in the bounds of the settings that comes nearest."""
    return Shape(
        processes=min(max(processes, settings.processes_min), settings.processes_max),
        concurrency=min(max(concurrency, settings.concurrency_min), settings.concurrency_max),
    )


def _s(answers: Sequence[int], part: float) -> float:
    """A quantile of answer times, seconds; 0: there are none."""
    return (quantile_ms(answers, ANSWER_S, part) or 0.0) / 1000


def _stepped(value: float, step: float) -> float:
    """The least power of `step` that is no less; 0 for 0."""
    return step ** math.ceil(math.log(value, step) - 1e-9) if value > 0 else 0.0
