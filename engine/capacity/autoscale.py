"""Rule: what becomes of the shape of a queue on one node, by what is measured there once a second.

The shape that is wanted comes from the planner itself (`wanted.py`), for what arrives now and what waits
unread, with the response times that were measured. A plan is made only when one of these has moved by a step
of ten percent or a quarter, and is kept; so it costs nothing while they stay about the same.

    up      when more than a tenth of sends in flight is lacking, or a process: at once, and where messages
            may wait when it is lacking for a tenth of the time of the target, a minute at most. What arrives
            is measured over as long, so that a step is one change
    full    when messages wait although the provider would take more, and the loops of the workers have no
            headroom, the loops bind. Then it is measured what a message costs them, and the planner counts
            with that: it gives processes, as many as there are cores. No more is planned for than the loops
            of these can do, so that a backlog of theirs takes no sends in flight that are of no use
    down    when for `calm_s` nothing more was wanted, to the most that was wanted meanwhile, and only when
            that is a quarter less, or a process less. No process is taken away whose loop's work, waits for a
            CPU among it, the others could not do
    flaps   when more is wanted soon after less was given, the calm must last twice as long the next time
    hold    while nothing may be concluded, because providers are down or paused. Then nothing changes, and
            the calm begins anew. So it does while an operator has set the numbers, or the node is drained

What is concluded never leaves the bounds of the settings. Every node decides for its share of what arrives
on all nodes. A decision of one node changes no input of another, so they cannot drive each other up and down.

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from engine.capacity import durations
from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.capacity.costs import Costs
from engine.capacity.measured import Measured
from engine.capacity.simulation import Shape
from engine.capacity.wanted import NATURAL_S, Wanted, answer_s, busy_processes, within
from engine.records import Queue

# More than so much must be lacking, and less than so much be needed, for a change of the sends in flight.
_UP, _DOWN = 1.1, 0.75
# A backlog is to be gone within half the time of the target, between these bounds, seconds.
_DRAIN_MIN_S, _DRAIN_MAX_S = 3.0, 300.0
# What arrives is measured over this part of the time of the target, between these bounds, seconds. More is
# given when it was lacking for as long; where that is no more than the lower bound, at once.
_HORIZON_PART, _HORIZON_MIN_S, _HORIZON_MAX_S = 0.1, 3.0, 60.0
# The calm lasts so long at most after flaps, seconds, when the settings ask for less.
_CALM_MAX_S = 3600.0


class Change(NamedTuple):
    """Another shape, and why."""

    before: Shape
    after: Shape
    reason: str


class Autoscaler:
    """Of one queue on one node."""

    def __init__(
        self,
        queue: Queue,
        settings: AutoscaleSettings,
        costs: Costs,
        shape: Shape,
        cores: int | None = None,
    ) -> None:
        """`shape`: that which is in force. `costs`: of this machine. `cores`: how many loops can run at one
        time; None: as many as there may be processes. Raises ValueError for a wrong target."""
        self._target = settings.target_of(queue)
        self._settings = settings
        self._wanted = Wanted(queue, settings, costs, cores)
        self.shape = shape
        # Since when something is lacking.
        self._lacks_since_s: float | None = None
        # Since when it is calm, and the most that was wanted since: processes, and sends in flight.
        self._since_s: float | None = None
        self._most = (0, 0)
        self._calm_s = settings.calm_s
        self._rose_at_s = self._fell_at_s = -math.inf
        # What was measured at the last change.
        self._last = Measured(-math.inf, 0.0, 0.0)

    @property
    def horizon_s(self) -> float:
        """Over so much time, seconds, the rate of arrivals is to be measured: where messages may wait, a
        burst is no rate."""
        return min(max(_HORIZON_PART * self._target.latency_s, _HORIZON_MIN_S), _HORIZON_MAX_S)

    @property
    def planned(self) -> int:
        """How often a plan was made."""
        return self._wanted.planned

    def rest(self) -> None:
        """Let the calm begin anew: the numbers are in other hands now, or nothing works here."""
        self._since_s = self._lacks_since_s = None

    def look(self, seen: Measured) -> Change | None:
        """What changes by what was measured; None: nothing does. Times go up."""
        now = self.shape
        if within(self._settings, now.processes, now.concurrency) != now:
            return self._change(seen, within(self._settings, now.processes, now.concurrency), "its bounds")
        self._wanted.note(seen, now)
        if seen.hold:
            self._lacks_since_s = None
            if not seen.calm:
                self._since_s = None
            return None
        wanted = self._wanted.shape(seen, self._backlog(seen) / self._drain_s())
        if wanted is None:
            return None
        slots, has = wanted.processes * wanted.concurrency, now.processes * now.concurrency
        if wanted.processes > now.processes or slots > _UP * has:
            return self._lack(seen, max(wanted.processes, now.processes), max(slots, has))
        self._lacks_since_s = None
        if self._since_s is None:
            self._since_s, self._most = seen.at_s, (0, 0)
        processes = max(wanted.processes, min(now.processes, busy_processes(seen)))
        self._most = max(self._most[0], processes), max(self._most[1], slots)
        if seen.at_s - self._since_s < self._calm_s:
            return None
        return self._fall(seen)

    def _lack(self, seen: Measured, processes: int, slots: int) -> Change | None:
        """Give more when it has been lacking for long enough."""
        self._since_s = None
        if self._lacks_since_s is None:
            self._lacks_since_s = seen.at_s
        waits_s = self.horizon_s if self.horizon_s > _HORIZON_MIN_S else 0.0
        return self._rise(seen, processes, slots) if seen.at_s - self._lacks_since_s >= waits_s else None

    def _rise(self, seen: Measured, processes: int, slots: int) -> Change | None:
        after = within(self._settings, processes, math.ceil(slots / processes))
        if after == self.shape:
            # The bounds are reached.
            return None
        if seen.at_s - self._fell_at_s < 2 * self._calm_s:
            self._calm_s = min(2 * self._calm_s, max(_CALM_MAX_S, self._settings.calm_s))
        self._rose_at_s = seen.at_s
        fits = slots <= self.shape.processes * self._wanted.window(seen)
        loops = self._wanted.measured and fits and after.processes > self.shape.processes
        return self._change(seen, after, self._cause(seen, loops=loops))

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
        self._since_s, self._lacks_since_s, self._last = None, None, seen
        return Change(before, after, f"{cause}: {self._wanted.facts(seen)}")

    def _backlog(self, seen: Measured) -> float:
        """Messages that wait and should not. What has been given more lately has its time to show it."""
        unread = seen.unread
        if seen.at_s - self._rose_at_s < self.horizon_s:
            unread = min(unread, self._last.unread)
        return max(0.0, unread - NATURAL_S * seen.arrivals_per_s)

    def _drain_s(self) -> float:
        return min(max(self._target.latency_s / 2, _DRAIN_MIN_S), _DRAIN_MAX_S)

    def _cause(self, seen: Measured, *, loops: bool) -> str:
        """What has grown most since the last change; `loops`: it is they that bind."""
        if loops:
            return "the loops of the workers are full"
        last, drain_s = self._last, self._drain_s()
        slower = (
            answer_s(seen.answers, 0.9) / answer_s(last.answers, 0.9)
            if seen.answers and last.answers
            else 1.0
        )
        grown = {
            "more arrives": (seen.arrivals_per_s + 1) / (last.arrivals_per_s + 1),
            "providers take longer": slower,
            "a backlog waits": 1 + self._backlog(seen) / drain_s / (seen.arrivals_per_s + 1),
        }
        return max(grown, key=lambda cause: grown[cause])
