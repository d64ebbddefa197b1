"""Days on virtual time of workers whose loops have their limits, seen through the counters of an engine.

The rule and the readings are the real ones. What is counted is what a closed queueing system counts: where
the loops bind, all sends in flight that are allowed wait, most of them for the loop, and their time is by
Little's law what the slots make it. The probe of the loop sees half of that wait.
"""

from __future__ import annotations

from random import Random

from engine.capacity.autoscale import Autoscaler
from engine.capacity.costs import REFERENCE
from engine.capacity.measured import Measured
from engine.capacity.readings import Others, Readings
from engine.capacity.simulation import Shape
from engine.histogram import ANSWER_S, ROUND_TRIP_S, Histogram
from engine.metrics.snapshot import Counts
from engine.records import Queue
from tests.capacity.days import Answer, Day, Rate

_BETWEEN = "\x1f"
# How long a timer waits for a loop that has room, seconds; and how long it is until a circuit opens.
_PROMPT_S, _KNOWN_S = 0.0005, 2


class BusyDay(Day):
    """One queue on one node, whose workers need `message_s` of their loop for each message, seconds. For the
    part of it that is not `cpu_part` they wait for a CPU, which other work has."""

    def __init__(
        self,
        rate: Rate,
        answer: Answer,
        *,
        message_s: float,
        cores: int,
        cpu_part: float = 1.0,
        queue: Queue = "express",
        **settings: object,
    ) -> None:
        super().__init__(rate, answer, queue=queue, **settings)
        low = Shape(processes=self.settings.processes_min, concurrency=self.settings.concurrency_min)
        self.scaler = Autoscaler(queue, self.settings, REFERENCE, low, cores)
        self._noise = Random(5)
        self._message_s, self._cores, self._queue = message_s, cores, queue
        self._cpu_part = cpu_part
        self._readings = Readings({"a": None})
        self._accepted, self._sends, self._cpu_s = 0, 0, 0.0
        self._busy_s: dict[str, float] = {}
        self._times, self._lags = Histogram(ANSWER_S), Histogram(ROUND_TRIP_S)
        self._flies = 0.0

    def _sent(self, takes_s: float | None) -> Histogram:
        workers, slots = self._working, self._working * self.scaler.shape.concurrency
        self._accepted += self.messages[self.at_s]
        if takes_s is None:
            self._flies = min(float(slots), self.unread + self._flies)
            self._worked(0, workers, _PROMPT_S)
            return Histogram(ANSWER_S)
        loops = min(workers, self._cores) / self._message_s
        room = min(loops, slots / takes_s)
        binds = loops <= slots / takes_s and self.unread >= loops
        took_s = slots / loops if binds else takes_s
        sent = self._taken(room, took_s)
        self._flies = min(float(slots), sent * took_s)
        self._worked(sent, workers, (took_s - takes_s) / 4 if binds else _PROMPT_S)
        for part in (0.8, 0.9, 1.0, 1.1, 1.2):
            self._times.add_all([took_s * part * self._noise.uniform(0.95, 1.05)] * (sent // 5))
        return self._times

    def _taken(self, room: float, took_s: float) -> int:
        """Take up to `room` messages out of the queue, the oldest first; how many there were."""
        sent, target_s = 0, self.settings.target_of(self._queue).latency_s
        while self._waiting and room >= 1:
            arrived_s, count = self._waiting[0]
            taken = int(min(count, room))
            sent, room = sent + taken, room - taken
            if self.at_s - arrived_s + took_s > max(target_s, took_s):
                self.late[int(arrived_s)] = self.late.get(int(arrived_s), 0.0) + taken
            self._waiting[0][1] -= taken
            if self._waiting[0][1] < 1:
                self._waiting.popleft()
        return sent

    def _worked(self, sent: int, workers: int, wait_s: float) -> None:
        """Count what a second in which so many were sent shows; timers waited `wait_s` in the mean."""
        self._sends += sent
        busy_s = sent * self._message_s / workers
        self._cpu_s += sent * self._message_s * self._cpu_part + 0.01 * workers
        for worker in range(workers):
            name = f"{self._queue}{_BETWEEN}{self._queue} {worker}"
            self._busy_s[name] = self._busy_s.get(name, 0.0) + min(1.0, busy_s + 0.01)
        self._lags.add_all([wait_s * self._noise.uniform(0.5, 1.5) for _ in range(10 * workers)])

    def _measured(self) -> Measured:
        pair = f"a{_BETWEEN}{self._queue}"
        counts = Counts(
            counters={
                "smsengine_messages_accepted": {self._queue: self._accepted},
                "smsengine_provider_sends": {pair: self._sends},
                "smsengine_provider_verdicts": {f"{pair}{_BETWEEN}accepted": self._sends},
                "smsengine_process_cpu_seconds": {f"{self._queue}{_BETWEEN}all": self._cpu_s},
                "smsengine_process_busy_seconds": dict(self._busy_s),
            },
            histograms={
                "smsengine_provider_answer_seconds": {pair: [*self._times.counts, self._times.sum_s]},
                "smsengine_process_loop_lag_seconds": {self._queue: [*self._lags.counts, self._lags.sum_s]},
            },
        )
        down = self._answer(self.at_s) is None
        self._down_for_s = self._down_for_s + 1 if down else 0
        state = "open" if self._down_for_s > _KNOWN_S else "closed"
        gauges = {
            "smsengine_provider_in_flight": {pair: self._flies},
            "smsengine_provider_circuits": {f"{pair}{_BETWEEN}{state}": 1.0},
        }
        self._readings.add(self.at_s, counts, gauges)
        return self._readings.of(self._queue, Others(self.unread), self.scaler.horizon_s)
