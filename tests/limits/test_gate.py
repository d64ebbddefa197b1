"""Who is over a limit, and when there is room again: one process, and several that share a bucket."""

from __future__ import annotations

from random import Random

import pytest

from engine.errors import TooMany
from engine.limits.gate import Gate, drained_in_s, full
from engine.limits.records import Backlog, RateLevel
from engine.organisations import Limits

RATE = 50.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def gate_of(clock: Clock, **limits: float) -> Gate:
    return Gate(lambda _: Limits(**limits), backlog_max=5000, clock_s=clock)  # type: ignore[arg-type]


def waiting(messages: int, rate: float | None = None, segments: int = 0, *, paused: bool = False) -> Backlog:
    return Backlog(7, messages, segments or messages, rate, paused)


class Bucket:
    """What `draw` in functions/queue does."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self.clock, self.rate = clock, rate
        self.tokens, self.at_s = full(rate), clock.now_s

    def draw(self, messages: int) -> float:
        now_s = self.clock.now_s
        self.tokens = min(full(self.rate), self.tokens + (now_s - self.at_s) * self.rate) - messages
        self.at_s = now_s
        return self.tokens


@pytest.mark.parametrize("processes", [1, 2, 8])
@pytest.mark.parametrize("size", [1, 20, 400])
def test_the_rate_is_exact_on_average_whatever_the_number_of_processes(processes: int, size: int) -> None:
    clock, rng = Clock(), Random(processes * size)
    bucket = Bucket(clock, RATE)
    gates = [gate_of(clock, rate_max=RATE) for _ in range(processes)]
    under_way: list[tuple[float, Gate]] = []
    accepted, most_ahead, began_s = 0, 0.0, clock.now_s
    for _ in range(60_000):
        clock.now_s += 0.005
        while under_way and under_way[0][0] <= clock.now_s:
            _, gate = under_way.pop(0)
            gate.heed((), [RateLevel(7, bucket.draw(size), RATE)])
            gate.leave(7, size)
        gate = rng.choice(gates)
        try:
            assert gate.enter(7, size) == RATE
        except TooMany:
            continue
        accepted += size
        under_way.append((clock.now_s + 0.004, gate))
        most_ahead = max(most_ahead, accepted - (clock.now_s - began_s) * RATE)
    fluid = (clock.now_s - began_s) * RATE
    assert accepted == pytest.approx(fluid, abs=RATE + (processes + 1) * size)
    # One second of the rate at once, and what each process took in before it was told.
    assert most_ahead <= RATE + processes * size


def test_after_the_time_that_a_refusal_names_the_request_is_taken_in() -> None:
    clock = Clock()
    gate = gate_of(clock, rate_max=RATE)
    gate.enter(7, 50)
    with pytest.raises(TooMany) as refused:
        gate.enter(7, 30)
    assert (refused.value.status, refused.value.code, refused.value.window_s) == (429, "rate_limited", 1)
    assert refused.value.retry_after_s == pytest.approx(30 / RATE)
    gate.heed((), [RateLevel(7, 0.0, RATE)])
    gate.leave(7, 50)
    clock.now_s += refused.value.retry_after_s + 1e-6
    gate.enter(7, 30)
    # Another organisation has a bucket of its own.
    gate.enter(8, 50)


@pytest.mark.parametrize(("rate", "room_after_s"), [(0.5, 4.0 + 1 / 0.5), (2 * RATE, 1.5 + 1 / (2 * RATE))])
def test_a_bucket_that_is_overdrawn_has_room_no_later_when_the_rate_changes(
    rate: float, room_after_s: float
) -> None:
    clock, rates = Clock(), {7: RATE}
    gate = Gate(lambda organisation_id: Limits(rate_max=rates[organisation_id]), clock_s=clock)
    gate.enter(7, 300)
    gate.heed((), [RateLevel(7, RATE - 300, RATE)])
    gate.leave(7, 300)
    # Of the five seconds of its debt one has gone, at the higher of the two rates.
    clock.now_s += 1.0
    rates[7] = rate
    with pytest.raises(TooMany) as refused:
        gate.enter(7, 1)
    assert refused.value.retry_after_s == pytest.approx(room_after_s)
    clock.now_s += room_after_s + 1e-6
    gate.enter(7, 1)


def test_what_was_let_in_at_a_high_rate_and_is_drawn_after_a_change_is_a_debt_at_the_high_rate() -> None:
    clock, rates = Clock(), {7: 1000.0}
    gate = Gate(lambda organisation_id: Limits(rate_max=rates[organisation_id]), clock_s=clock)
    gate.enter(7, 3000)
    rates[7] = 1.0
    with pytest.raises(TooMany) as refused:
        gate.enter(7, 1)
    assert refused.value.retry_after_s <= 4.0
    gate.heed((), [RateLevel(7, 1000.0 - 3000, 1000.0)])
    gate.leave(7, 3000)
    with pytest.raises(TooMany) as refused:
        gate.enter(7, 1)
    assert refused.value.retry_after_s == pytest.approx(2.0 + 1.0)
    clock.now_s += refused.value.retry_after_s + 1e-6
    gate.enter(7, 1)


def test_a_request_that_was_not_written_takes_nothing() -> None:
    gate = gate_of(Clock(), rate_max=RATE)
    for _ in range(10):
        gate.enter(7, 50)
        gate.leave(7, 50)


def test_a_backlog_of_half_its_limit_is_watched_and_a_full_one_refused() -> None:
    clock = Clock()
    gate = gate_of(clock)
    gate.heed([(7, 2499)], ())
    assert gate.watched() == []
    gate.heed([(7, 2500), (8, 1)], ())
    assert gate.watched() == [7]
    assert gate.enter(7, 1000) == 0.0
    assert gate.enter(7, 1000) == 0.0
    with pytest.raises(TooMany) as refused:
        gate.enter(7, 501)
    assert (refused.value.code, refused.value.limit, refused.value.quota) == (
        "backlog_full",
        "backlog_max",
        5000,
    )
    assert (refused.value.window_s, refused.value.remaining) == (0, 500)
    gate.enter(7, 500)
    gate.enter(8, 1000)
    # What is looked up counts, and what was added to the look before is in it.
    gate.see([waiting(3000)])
    gate.enter(7, 1000)
    gate.see([waiting(2000)])
    assert gate.watched() == []
    gate.enter(7, 1000)


def test_a_limit_of_its_own_goes_before_that_of_all() -> None:
    gate = gate_of(Clock(), backlog_max=1000)
    gate.heed([(7, 600)], ())
    with pytest.raises(TooMany, match="600 messages waiting, and its limit `backlog_max` is 1000"):
        gate.enter(7, 401)


def test_nobody_is_refused_for_what_nobody_has_looked_up_for_long() -> None:
    clock = Clock()
    gate = gate_of(clock)
    gate.see([waiting(5000)])
    with pytest.raises(TooMany):
        gate.enter(7, 1)
    clock.now_s += 6
    gate.enter(7, 1)


def test_the_time_until_there_is_room_follows_the_pace() -> None:
    # 200 segments in 10 s, two for each message: 10 messages a second.
    assert drained_in_s(waiting(1000, rate=20.0, segments=2000), 150) == pytest.approx(15.0)
    assert drained_in_s(waiting(1000, rate=20.0, segments=2000), 1) == 1.0
    assert drained_in_s(waiting(1000, rate=0.1, segments=2000), 1000) == 3600.0
    assert drained_in_s(waiting(1000), 1) == 60.0
    assert drained_in_s(waiting(1000, rate=20.0, paused=True), 1) == 60.0
