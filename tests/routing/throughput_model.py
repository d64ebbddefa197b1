"""`throughput.lua` in Python, and workers that send through it in simulated time.

The model is written from the Lua, but keeps bundle by bundle what Redis keeps in runs;
`tests/stores/redis/test_throughput.py` holds both against each other on a real Redis.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

from engine.records import Queue
from engine.routing.ports import SlotRequest, Slots
from engine.routing.throughput import Allowance, request
from engine.routing.timing import timing

HORIZON_US = 60_000
WIDE_US = 2_500_000


class State(NamedTuple):
    """Microseconds."""

    seen: float
    tail: float
    kept: float
    # Moments and segments of what was written down one by one, oldest first.
    log: tuple[tuple[float, int], ...] = ()


class Timeline:
    """What Redis keeps of one provider."""

    def __init__(self) -> None:
        self.state: State | None = None
        # From slot to slot in the last answer, microseconds.
        self.interval_us = 0.0
        # The number of the present time of WIDE_US, and the widest span in it and in the one before.
        self.wide: tuple[float, float, float] = (0, 0.0, 0.0)

    def reserve(self, ask: SlotRequest, now: float) -> tuple[int, int]:
        """(segments, delay_us) at `now`, microseconds."""
        interval_s, tolerance_s, most, within, _ = timing(ask.rate, ask.uncertain_s)
        horizon = ask.horizon_s * 1e6 or HORIZON_US
        span = self._widest((1 + tolerance_s) * 1e6, ask.uncertain_s > 0, now)
        interval = self.interval_us = max(interval_s * 1e6, span / within)
        bundle, share = ask.together, ask.express_share
        reach, step = horizon / 2, bundle * interval
        begun = self._state_at(now, horizon)
        tail, kept, log = begun.tail, begun.kept, list(begun.log)
        express = ask.queue == "express" and share > 0
        private = express and kept <= now + horizon
        first, ahead = tail, tail - now
        if most > 0 and ahead <= (horizon if private else reach):
            if log and log[0][0] < now - span - span / 4:
                log = [entry for entry in log if entry[0] > now - span]
            if log:
                first = max(tail, log[-1][0] + interval)
            first = _earliest(log, first, bundle, most, span)
            ahead = max(ahead, first - now - (bundle - 1) * interval)
        opened = max(0, math.floor((reach - ahead) / step) + 1)
        again, room = ahead - reach, opened
        if private:
            reserve_open = math.floor((horizon - (kept - now)) * share / step) + 1
            further = max(0, math.floor((horizon - ahead) / step) + 1) - opened
            room += min(reserve_open, further)
        if express:
            again = min(again, max(ahead, kept - now) - horizon)
        if not room:
            self.state = self.state or begun
            return 0, max(1, math.ceil(again))
        granted = min(max(1, ask.segments // bundle), math.ceil(room / 2))
        if most > 0:
            granted = _write_down(log, first, step, bundle, granted, most, span)
        if granted > opened:
            kept += (granted - opened) * step / share
        self.state = State(now, tail + granted * step, kept, tuple(log) if most > 0 else ())
        return granted * bundle, max(0, math.ceil(first - now))

    def _widest(self, span: float, wide: bool, now: float) -> float:
        period, (at, present, before) = int(now // WIDE_US), self.wide
        if period > at:
            before, present = (present if period == at + 1 else 0.0), 0.0
        if wide:
            self.wide = (max(period, at), max(present, span), before)
        return max(span, present, before)

    def _state_at(self, now: float, horizon: float) -> State:
        if self.state is None:
            return State(now, now + horizon, now)
        seen, tail, kept, log = self.state
        back = max(0.0, seen - now)
        moved = tuple((moment - back, segments) for moment, segments in log)
        return State(now, max(tail - back, now), max(kept - back, now), moved)


def _earliest(log: Sequence[tuple[float, int]], at: float, segments: int, most: int, span: float) -> float:
    for moment, size in reversed(log):
        segments += size
        if segments > most:
            return max(at, moment + span)
    return at


def _write_down(
    log: list[tuple[float, int]],
    first: float,
    step: float,
    bundle: int,
    bundles: int,
    most: int,
    span: float,
) -> int:
    for n in range(bundles):
        at = first + n * step
        if n and _earliest(log, at, bundle, most, span) > at + 1:
            return n
        log.append((at, bundle))
    return bundles


class Sent(NamedTuple):
    at_s: float
    segments: int
    worker: int


class Sender:
    """A worker as the engine has them, in simulated time: late, slow to be answered, sometimes frozen."""

    def __init__(
        self,
        number: int,
        queue: Queue,
        rate: float,
        sizes: Iterator[int],
        *,
        arrivals: Callable[[float], int] | None = None,
        share: float = 0.2,
    ) -> None:
        """`arrivals`: messages that have come by a time; None: there is always another."""
        self.number = number
        self.queue: Queue = queue
        self.allowance = Allowance(rate, stocks=queue == "express")
        self.sizes = sizes
        self.arrivals = arrivals
        self.share = share
        self.waiting: deque[int] = deque()
        self.come = 0
        self.asks = 0

    def refill(self, now_s: float) -> None:
        most = max(600, int(self.allowance.rate))
        count = most - len(self.waiting) if self.arrivals is None else self.arrivals(now_s) - self.come
        self.come += max(0, count)
        self.waiting.extend(itertools.islice(self.sizes, max(0, count)))

    def send(self, now_s: float) -> list[Sent]:
        sent = []
        while self.waiting and self.allowance.take(self.waiting[0], now_s):
            sent.append(Sent(now_s, self.waiting.popleft(), self.number))
        return sent

    def ask(self, now_s: float) -> SlotRequest | None:
        sizes = tuple(itertools.islice(self.waiting, self.allowance.clock.look_ahead(self.allowance.rate)))
        wanted = self.allowance.wanted(sum(self.waiting), now_s, sizes)
        if not wanted:
            return None
        self.asks += 1
        return request(self.allowance, "p", self.queue, wanted, self.share)


def next_at(allowance: Allowance, now_s: float) -> float | None:
    """When a worker turns to this provider again though nothing happens; None: not at all."""
    goes_at_s = allowance.goes_at_s(now_s)
    at_s = min(math.inf if goes_at_s is None else goes_at_s, allowance.asks_at_s(now_s))
    return None if at_s == math.inf else max(at_s, now_s)


class Weather(NamedTuple):
    """How late things are, seconds: a small lateness always, a large one now and then."""

    late_s: float = 0.001
    round_trip_s: float = 0.002
    freeze_s: float = 0.0
    freeze_chance: float = 0.0
    # Clocks of workers differ by up to so much from each other and from that of Redis, and run faster or
    # slower by up to so much, seconds a second.
    clocks_s: float = 1000.0
    drift: float = 0.0
    # What an answer always takes, seconds, beside the round trip by chance.
    answer_s: float = 0.0


def simulate(
    senders: Sequence[Sender],
    until_s: float,
    rng: Random,
    weather: Weather,
    timeline: Timeline,
    from_s: float = 0.0,
) -> list[Sent]:
    """What was sent when, in true time."""
    offsets = [rng.uniform(-weather.clocks_s, weather.clocks_s) for _ in senders]
    drifts = [rng.uniform(-weather.drift, weather.drift) if weather.drift else 0.0 for _ in senders]
    numbers = itertools.count()
    # (time, order, sender, what comes, when it was asked)
    events: list[tuple[float, int, int, SlotRequest | Slots | None, float]] = []
    # When each wakes next; an answer may come before and change that.
    awake = [from_s + rng.uniform(0, 0.01) for _ in senders]
    sent: list[Sent] = []

    def shown(index: int, at_s: float) -> float:
        """What the clock of a worker shows."""
        return at_s * (1 + drifts[index]) + offsets[index]

    def late() -> float:
        if rng.random() < weather.freeze_chance:
            return rng.uniform(0, weather.freeze_s)
        return rng.uniform(0, weather.late_s)

    def put(at_s: float, index: int, what: SlotRequest | Slots | None, asked_s: float = 0.0) -> None:
        heapq.heappush(events, (at_s, next(numbers), index, what, asked_s))

    for index, wake_s in enumerate(awake):
        put(wake_s, index, None)
    while events and events[0][0] < until_s:
        now_s, _, index, what, asked_s = heapq.heappop(events)
        sender, local_s = senders[index], shown(index, now_s)
        if isinstance(what, SlotRequest):
            segments, delay_us = timeline.reserve(what, now_s * 1e6)
            back_s = now_s + weather.answer_s + rng.uniform(0, weather.round_trip_s / 2) + late()
            # Redis's clock is not at 0, which would mean that it does not say.
            redis_us = int(now_s * 1e6) + 1
            slots = Slots(segments, delay_us, timeline.interval_us, what.together, redis_us)
            put(back_s, index, slots, asked_s)
            continue
        if isinstance(what, Slots):
            sender.allowance.granted(what, shown(index, asked_s), local_s)
        elif now_s != awake[index]:
            continue
        sender.refill(now_s)
        sent += [s._replace(at_s=now_s) for s in sender.send(local_s)]
        ask = sender.ask(local_s)
        if ask is not None:
            put(now_s + rng.uniform(0, weather.round_trip_s / 2), index, ask, now_s)
        at_s = next_at(sender.allowance, local_s)
        wakes_s = now_s + 0.01 if at_s is None else max(now_s, (at_s - offsets[index]) / (1 + drifts[index]))
        awake[index] = wakes_s + late() + 1e-6
        put(awake[index], index, None)
    return sent


def most_in(sent: Sequence[Sent], window_s: float) -> int:
    """Segments in the fullest window (closed at its beginning, open at its end)."""
    ordered = sorted(sent)
    sums = [0, *itertools.accumulate(s.segments for s in ordered)]
    times = [s.at_s for s in ordered]
    # A nanosecond: what is exactly a window apart is not in it, however the clocks were rounded.
    ends = (bisect.bisect_left(times, t + window_s - 1e-9) for t in times)
    return max((sums[end] - sums[begin] for begin, end in enumerate(ends)), default=0)


def rate_between(sent: Sequence[Sent], from_s: float, to_s: float) -> float:
    """Segments a second."""
    return sum(s.segments for s in sent if from_s <= s.at_s < to_s) / (to_s - from_s)
