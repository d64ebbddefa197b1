"""What a worker knows of the clock of Redis is never wrong, and as narrow as its quickest exchange."""

from __future__ import annotations

from random import Random

import pytest

from engine.routing.slot_clock import SlotClock


def test_a_late_answer_among_quick_ones_is_as_good_as_a_quick_one() -> None:
    clock = SlotClock()
    clock.note(100.0, 100.002, 5.001)
    # Redis looked at the request at once, and the answer took 0.2 s; ours is 95 s ahead.
    clock.note(101.0, 101.2, 6.0)
    earliest_s, latest_s = clock.when_s(6.0)
    assert earliest_s <= 101.0 <= latest_s
    assert latest_s - earliest_s < 0.005


@pytest.mark.parametrize("seed", range(5))
def test_the_true_time_lies_within_the_bounds_however_slow_the_exchanges_and_uneven_the_clocks(
    seed: int,
) -> None:
    rng, clock = Random(seed), SlotClock()
    ahead_s, rate = rng.uniform(-1e6, 1e6), 1 + rng.uniform(-0.0005, 0.0005)
    true_s, widths = 0.0, []
    for _ in range(300):
        true_s += rng.expovariate(10)
        looked_s = true_s + rng.expovariate(1 / rng.choice((0.001, 0.1)))
        answered_s = looked_s + rng.expovariate(1 / rng.choice((0.001, 0.1)))
        clock.note(true_s * rate + ahead_s, answered_s * rate + ahead_s, looked_s)
        true_s = answered_s
        earliest_s, latest_s = clock.when_s(looked_s)
        assert earliest_s - 1e-6 <= looked_s * rate + ahead_s <= latest_s + 1e-6
        widths.append(latest_s - earliest_s)
    assert sorted(widths)[150] < 0.01


def test_when_the_clock_of_redis_was_set_only_what_came_since_counts() -> None:
    clock = SlotClock()
    clock.note(100.0, 100.002, 5.001)
    clock.note(101.0, 101.01, 3606.005)
    assert clock.when_s(3606.0) == (pytest.approx(100.995), pytest.approx(101.005))
    clock.note(102.0, 102.01, 7.005)
    assert clock.when_s(7.0) == (pytest.approx(101.995), pytest.approx(102.005))


def test_before_the_first_exchange_nothing_counts_as_unknown() -> None:
    clock = SlotClock()
    assert (clock.uncertain_s, clock.round_trip_s) == (0.0, 0.0)
    clock.note(100.0, 100.2, 5.0)
    assert clock.uncertain_s == pytest.approx(0.2)
    assert clock.round_trip_s == pytest.approx(0.1)
