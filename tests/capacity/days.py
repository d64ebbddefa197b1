"""Days on virtual time: what arrives and how long a provider takes, second by second, and one node that
sends it.

The rule is the real one. The node is made of what it has to do with: a queue, slots, processes that take a
moment to start, and measurements that come a moment late, as those of an engine do.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from random import Random

from engine.capacity.autoscale import Autoscaler, Change
from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.capacity.costs import REFERENCE
from engine.capacity.measured import Measured
from engine.capacity.simulation import Shape
from engine.capacity.wanted import within
from engine.histogram import ANSWER_S, Histogram
from engine.records import Queue

# By the second of the day: messages a second, and how long an answer takes, seconds; None: it is down.
Rate = Callable[[float], float]
Answer = Callable[[float], float | None]

# A worker can send so many a second at most.
_LOOP_PER_S = 1e6 / REFERENCE.message_us
# What is measured: rates and answers of so many seconds. A provider that is down is known to be after so
# many.
_WINDOW, _KNOWN_S = 3, 2


class Day:
    """One queue on one node, from the second 0 on."""

    def __init__(
        self, rate: Rate, answer: Answer, *, seed: int = 1, queue: Queue = "express", **settings: object
    ) -> None:
        self.settings = AutoscaleSettings(**settings)  # type: ignore[arg-type]
        self._rate, self._answer, self._random = rate, answer, Random(seed)
        low = Shape(processes=self.settings.processes_min, concurrency=self.settings.concurrency_min)
        self.scaler = Autoscaler(queue, self.settings, REFERENCE, low)
        self.at_s = 0
        # What waits, oldest first: [second of its arrival, messages].
        self._waiting: deque[list[float]] = deque()
        self._arrived: deque[int] = deque(maxlen=round(self.scaler.horizon_s))
        self._answers: deque[Histogram] = deque(maxlen=_WINDOW)
        self._down_for_s = 0
        self._working = low.processes
        # What happened: (second, change); and messages by the second of arrival, all and those that were
        # late.
        self.changes: list[tuple[int, Change]] = []
        self.messages: dict[int, int] = {}
        self.late: dict[int, float] = {}
        # The sum over seconds of the sends in flight that were allowed.
        self.slot_seconds = 0.0

    @property
    def unread(self) -> float:
        return sum(count for _, count in self._waiting)

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self._second()

    def changed(self, begin_s: float, end_s: float = math.inf) -> list[Change]:
        return [change for at_s, change in self.changes if begin_s <= at_s < end_s]

    def late_part(self, begin_s: int, end_s: int) -> float:
        """The part of the messages that arrived then which came later than the target allows."""
        late = sum(self.late.get(s, 0.0) for s in range(begin_s, end_s))
        return late / max(1, sum(self.messages.get(s, 0) for s in range(begin_s, end_s)))

    def _second(self) -> None:
        self.at_s += 1
        mean = self._rate(self.at_s)
        count = max(0, round(self._random.gauss(mean, math.sqrt(mean))))
        self.messages[self.at_s] = count
        self._arrived.append(count)
        if count:
            self._waiting.append([self.at_s, count])
        takes_s = self._answer(self.at_s)
        self._answers.append(self._sent(takes_s))
        self._down_for_s = self._down_for_s + 1 if takes_s is None else 0
        shape = self.scaler.shape
        self.slot_seconds += shape.processes * shape.concurrency
        self._working = shape.processes
        change = self.scaler.look(self._measured())
        after = self.scaler.shape
        assert within(self.settings, after.processes, after.concurrency) == after
        if change is not None:
            assert change.before == shape != change.after == after
            assert change.reason
            self.changes.append((self.at_s, change))

    def _sent(self, takes_s: float | None) -> Histogram:
        """Send for a second with the processes that were there at its begin."""
        found = Histogram(ANSWER_S)
        if takes_s is None:
            return found
        room = min(self._working * self.scaler.shape.concurrency / takes_s, self._working * _LOOP_PER_S)
        target_s = self.scaler._target.latency_s
        while self._waiting and room >= 1:
            arrived_s, count = self._waiting[0]
            sent = min(count, room)
            room -= sent
            if self.at_s - arrived_s + takes_s > max(target_s, takes_s):
                self.late[int(arrived_s)] = self.late.get(int(arrived_s), 0.0) + sent
            found.add_all([takes_s * self._random.uniform(0.8, 1.2) for _ in range(min(int(sent) + 1, 20))])
            self._waiting[0][1] -= sent
            if self._waiting[0][1] < 1e-9:
                self._waiting.popleft()
        return found

    def _measured(self) -> Measured:
        answers = [sum(column) for column in zip(*(h.counts for h in self._answers), strict=True)]
        hold, calm = "", False
        if self._down_for_s:
            known = self._down_for_s > _KNOWN_S
            hold, calm = ("every provider is down", False) if known else ("no answers", True)
        return Measured(
            at_s=self.at_s,
            arrivals_per_s=sum(self._arrived) / (self._arrived.maxlen or 1),
            unread=self.unread,
            answers=answers if sum(answers) else (),
            hold=hold,
            calm=calm,
        )
