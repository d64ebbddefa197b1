"""Rule: what one node has measured of a queue lately, from the counters of `engine.metrics`.

The counters of all processes of the node are added once a second. Of the other nodes it is only asked how
much arrives there, and of Redis how much nobody has read: both belong to all nodes, and each node counts its
share.

An answer that is there waits until the loop of its worker comes to it, and a message waits likewise until it
is sent. Both count in the time that is measured. Where that is a good part of it, the loop is *late*: the
time says how busy the worker is and not how long the provider takes. Answers of such seconds are left out.
When a whole minute has no others, the wait is subtracted.

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from engine.capacity.measured import Measured
from engine.capacity.wanted import TIME_STEP
from engine.histogram import ANSWER_S
from engine.metrics.snapshot import Counts, Numbers, values_of
from engine.records import Queue

# Samples are kept for so long. A provider that was sent something in this time has to do with the queue.
_KEPT_S = 60.0
# Answers are those of the shortest of these times in which there were so many.
_ANSWERS_S, _ANSWERS_MIN = (3.0, 10.0, _KEPT_S), 20
# Providers that have given no answer for so long, while something is in flight, say nothing.
_SILENT_S = 2.0
# A provider works when no more than half of its verdicts in this time say that it does not take messages, of
# so many verdicts at least.
_VERDICTS_S, _VERDICTS_MIN = 5.0, 5
# Where a worker has several lanes, one of them may have this part of the concurrency.
_LANE_PART = 0.75
# The loop is late when without its waits the mean time of an answer would be another step of the planner. A
# message waits for it twice: to be sent, and with its answer.
_STEP, _WAITS = TIME_STEP, 2
# How busy the workers are is measured over so much time, seconds, and what a message costs them with so many
# sends at least.
_BUSY_S, _SENDS_MIN = 2.0, 20
# Up to this horizon, seconds, a step is looked for in the last second.
_STEP_HORIZON_S = 5.0

_Pair = tuple[str, str]


class Others(NamedTuple):
    """What is known of all nodes together."""

    # Messages that no worker has been given, on all nodes.
    unread: float
    # Messages a second that the other nodes have accepted, and how many nodes have workers of the queue,
    # with this.
    arrivals_per_s: float = 0.0
    nodes: int = 1


class _Sample(NamedTuple):
    """The counters at one time: by queue, and by (provider, queue)."""

    at_s: float
    accepted: dict[str, float]
    sends: dict[_Pair, float]
    # By bucket of ANSWER_S, and last the sum, seconds. And only those of seconds in which no loop was late.
    answers: dict[_Pair, list[float]]
    prompt: dict[_Pair, list[float]]
    # By queue: CPU of its workers; how often, and how long together, a timer waited for one of their loops;
    # and the time in which the loop of each worker had work, by its name. All seconds.
    cpu_s: dict[str, float]
    waits: dict[str, tuple[float, float]]
    busy_s: dict[_Pair, float]
    # Sends that are in flight, by queue.
    in_flight: dict[str, float]
    # (messages accepted, all) of the verdicts.
    verdicts: dict[_Pair, tuple[float, float]]


class _Provider(NamedTuple):
    """One provider of a queue, now."""

    in_flight: float
    closed: float
    circuits: float
    paused: bool


class Readings:
    """Of one node."""

    def __init__(self, windows: Mapping[str, int | None]) -> None:
        """`windows`: by provider, how many sends in flight one process may have; None: there is no bound."""
        self._windows = windows
        self._samples: deque[_Sample] = deque()
        self._gauges: Numbers = {}

    def add(self, at_s: float, counts: Counts, gauges: Numbers) -> None:
        """What the node has counted up to `at_s`, and what its living processes show now."""
        sample = _sample(at_s, counts, gauges)
        if self._samples:
            before = self._samples[-1]
            # Counters of a process that has just died may be missing for a moment.
            for had, has in ((before.accepted, sample.accepted), (before.cpu_s, sample.cpu_s)):
                has.update({queue: max(n, has.get(queue, 0.0)) for queue, n in had.items()})
            sample.prompt.update({pair: _prompt(pair, before, sample) for pair in sample.answers})
        self._samples.append(sample)
        while len(self._samples) > 2 and self._samples[1].at_s <= at_s - _KEPT_S:
            self._samples.popleft()
        self._gauges = gauges

    def of(self, queue: Queue, others: Others, horizon_s: float) -> Measured:
        """What is measured of `queue` now; arrivals over `horizon_s`."""
        last = self._samples[-1]
        before = self._before(horizon_s)
        known = {name: self._provider(name, queue) for name in self._windows}
        names = [name for name, now in known.items() if self._concerns(name, queue, now)]
        working = [name for name in names if self._works(name, queue, known[name])]
        hold, calm = self._hold(queue, known, names, working)
        answers, wait_s = self._answers(queue, working)
        busy = self._busy(queue)
        # Not the time since the first sample: shortly after a start that is a part of the horizon.
        own = self._arrived(queue, before) / max(last.at_s - before.at_s, min(horizon_s, 3.0))
        if horizon_s <= _STEP_HORIZON_S:
            own = max(own, self._step_per_s(queue))
        return Measured(
            at_s=last.at_s,
            arrivals_per_s=(own + others.arrivals_per_s) / others.nodes,
            unread=others.unread / others.nodes,
            answers=answers,
            wait_s=wait_s,
            late=any(_late((name, queue), self._before(1.0), last) for name in working),
            busy=max(busy, default=0.0),
            busy_loops=sum(busy),
            message_s=self._message_s(queue),
            in_flight=self._most_in_flight(queue),
            throughput=self._throughput(working, others.nodes),
            window=_sum_of_bounds(self._windows[name] for name in working),
            part=_LANE_PART if len(self._windows) > 1 and len(working) == 1 else 1.0,
            hold=hold,
            calm=calm,
        )

    def _arrived(self, queue: Queue, since: _Sample) -> float:
        return max(0.0, self._samples[-1].accepted.get(queue, 0.0) - since.accepted.get(queue, 0.0))

    def _step_per_s(self, queue: Queue) -> float:
        """Messages a second by the last second alone, as few as it can be by chance (three deviations), so
        that a step is seen before the horizon is full of it."""
        before = self._before(1.0)
        arrived = self._arrived(queue, before)
        seconds = max(self._samples[-1].at_s - before.at_s, 1.0)
        return max(0.0, arrived - 3 * math.sqrt(arrived)) / seconds

    def _before(self, seconds: float) -> _Sample:
        """The sample at the begin of the last `seconds`, or the first."""
        at_s = self._samples[-1].at_s - seconds + 0.25
        return next((s for s in reversed(self._samples) if s.at_s <= at_s), self._samples[0])

    def _hold(
        self, queue: Queue, known: Mapping[str, _Provider], names: Sequence[str], working: Sequence[str]
    ) -> tuple[str, bool]:
        """(why nothing may be concluded, whether the time is calm all the same)."""
        if len(self._samples) < 2:
            return "nothing is measured yet", True
        if known and all(now.paused for now in known.values()):
            return "the queue or its providers are paused", False
        if names and not working:
            return f"no provider takes messages: {', '.join(names)}", False
        flies = any(known[name].in_flight for name in working)
        if flies and not sum(
            _grown(queue, working, self._before(_SILENT_S).answers, self._samples[-1].answers)
        ):
            return "no answers come", True
        return "", False

    def _provider(self, name: str, queue: Queue) -> _Provider:
        circuits = {
            values_of(key)[2]: number
            for key, number in self._gauges.get("smsengine_provider_circuits", {}).items()
            if values_of(key)[:2] == [name, queue]
        }
        flies = self._gauges.get("smsengine_provider_in_flight", {})
        return _Provider(
            in_flight=sum(number for key, number in flies.items() if values_of(key) == [name, queue]),
            closed=circuits.get("closed", 0.0),
            circuits=sum(circuits.values()),
            paused=bool(self._gauges.get("smsengine_provider_paused", {}).get(name)),
        )

    def _concerns(self, name: str, queue: Queue, now: _Provider) -> bool:
        """Whether messages of the queue go to this provider."""
        pair, before = (name, queue), self._before(_KEPT_S)
        sent = self._samples[-1].sends.get(pair, 0.0) - before.sends.get(pair, 0.0)
        return sent > 0 or now.closed < now.circuits

    def _works(self, name: str, queue: Queue, now: _Provider) -> bool:
        if now.paused or now.closed * 2 <= now.circuits:
            return False
        pair, before = (name, queue), self._before(_VERDICTS_S)
        accepted, all_of_them = self._samples[-1].verdicts.get(pair, (0.0, 0.0))
        accepted_before, all_before = before.verdicts.get(pair, (0.0, 0.0))
        lately = all_of_them - all_before
        return lately < _VERDICTS_MIN or 2 * (accepted - accepted_before) >= lately

    def _answers(self, queue: Queue, names: Sequence[str]) -> tuple[Sequence[int], float]:
        """(answers lately, by bucket; how long the loops let each of them wait, seconds, 0: hardly)."""
        last = self._samples[-1]
        for seconds in _ANSWERS_S:
            found = _grown(queue, names, self._before(seconds).prompt, last.prompt)
            if sum(found) >= _ANSWERS_MIN:
                return found, 0.0
        if sum(found):
            return found, 0.0
        before = self._before(_ANSWERS_S[0])
        found = _grown(queue, names, before.answers, last.answers)
        return (found, _WAITS * _wait_s(queue, before, last)) if sum(found) else ((), 0.0)

    def _busy(self, queue: Queue) -> list[float]:
        """The part of the time in which each worker had work, 0 to 1."""
        last, before = self._samples[-1], self._before(_BUSY_S)
        seconds = max(last.at_s - before.at_s, 1.0)
        grown = (n - before.busy_s.get(key, 0.0) for key, n in last.busy_s.items() if key[0] == queue)
        return [min(1.0, max(0.0, busy_s) / seconds) for busy_s in grown]

    def _message_s(self, queue: Queue) -> float:
        """CPU of a worker that a send took; 0: there were too few."""
        last, before = self._samples[-1], self._before(_BUSY_S)
        sends = sum(n - before.sends.get(pair, 0.0) for pair, n in last.sends.items() if pair[1] == queue)
        if sends < _SENDS_MIN:
            return 0.0
        return max(0.0, last.cpu_s.get(queue, 0.0) - before.cpu_s.get(queue, 0.0)) / sends

    def _most_in_flight(self, queue: Queue) -> float:
        since = self._before(_BUSY_S).at_s
        return max(s.in_flight.get(queue, 0.0) for s in self._samples if s.at_s >= since)

    def _throughput(self, names: Sequence[str], nodes: int) -> float | None:
        limits = self._gauges.get("smsengine_provider_throughput", {})
        if not names or any(name not in limits for name in names):
            return None
        return sum(limits[name] for name in names) / nodes


def _sum_of_bounds(bounds: Iterable[int | None]) -> int | None:
    total = 0
    for bound in bounds:
        if bound is None:
            return None
        total += bound
    return total or None


def _grown(
    queue: Queue,
    names: Sequence[str],
    had: Mapping[_Pair, Sequence[float]],
    has: Mapping[_Pair, Sequence[float]],
) -> Sequence[int]:
    """How many answers of these providers came meanwhile, by bucket."""
    total = [0] * (len(ANSWER_S) + 1)
    for name in names:
        now = has.get((name, queue), [])
        before = had.get((name, queue), [0.0] * len(now))
        # The last number is the sum.
        for place, (n, m) in enumerate(zip(now[:-1], before[:-1], strict=False)):
            total[place] += max(0, int(n - m))
    return total


def _prompt(pair: _Pair, before: _Sample, now: _Sample) -> list[float]:
    """The answers so far without those of seconds in which a loop was late."""
    has = now.answers[pair]
    kept = before.prompt.get(pair) or [0.0] * len(has)
    had = before.answers.get(pair) or [0.0] * len(has)
    if _late(pair, before, now):
        return kept
    return [k + max(0.0, n - m) for k, n, m in zip(kept, has, had, strict=True)]


def _late(pair: _Pair, before: _Sample, now: _Sample) -> bool:
    """Whether the answers of `pair` waited for the loops, so that their times say little of the provider."""
    has = now.answers.get(pair, [0.0])
    had = before.answers.get(pair) or [0.0] * len(has)
    count, took_s = sum(has[:-1]) - sum(had[:-1]), has[-1] - had[-1]
    if count <= 0:
        return False
    mean_s = took_s / count
    return mean_s > _STEP * (mean_s - _WAITS * _wait_s(pair[1], before, now))


def _wait_s(queue: str, before: _Sample, now: _Sample) -> float:
    """How long a timer waited for the loops of the queue's workers, in the mean, seconds."""
    count, total_s = now.waits.get(queue, (0.0, 0.0))
    had, had_s = before.waits.get(queue, (0.0, 0.0))
    return max(0.0, total_s - had_s) / (count - had) if count > had else 0.0


def _sample(at_s: float, counts: Counts, gauges: Numbers) -> _Sample:
    counters, histograms = counts.counters, counts.histograms
    verdicts: dict[_Pair, tuple[float, float]] = {}
    for key, number in counters.get("smsengine_provider_verdicts", {}).items():
        provider, queue, verdict = values_of(key)
        accepted, all_of_them = verdicts.get((provider, queue), (0.0, 0.0))
        # A message that no provider would take says nothing about this one.
        good = number if verdict in ("accepted", "permanent") else 0.0
        verdicts[provider, queue] = accepted + good, all_of_them + number
    cpu_s: dict[str, float] = {}
    for key, number in counters.get("smsengine_process_cpu_seconds", {}).items():
        cpu_s[_pair(key)[0]] = cpu_s.get(_pair(key)[0], 0.0) + number
    in_flight: dict[str, float] = {}
    for key, number in gauges.get("smsengine_provider_in_flight", {}).items():
        in_flight[_pair(key)[1]] = in_flight.get(_pair(key)[1], 0.0) + number
    lags = histograms.get("smsengine_process_loop_lag_seconds", {})
    answers = histograms.get("smsengine_provider_answer_seconds", {})
    return _Sample(
        at_s=at_s,
        accepted=dict(counters.get("smsengine_messages_accepted", {})),
        sends={_pair(key): number for key, number in counters.get("smsengine_provider_sends", {}).items()},
        answers={_pair(key): list(row) for key, row in answers.items()},
        prompt={},
        cpu_s=cpu_s,
        waits={role: (sum(row[:-1]), row[-1]) for role, row in lags.items()},
        busy_s={_pair(key): n for key, n in counters.get("smsengine_process_busy_seconds", {}).items()},
        in_flight=in_flight,
        verdicts=verdicts,
    )


def _pair(key: str) -> _Pair:
    provider, queue = values_of(key)
    return provider, queue
