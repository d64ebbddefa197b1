"""Each observation is in one bucket: that of the least bound that is not below it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.histogram import ANSWER_S, DELIVERED_S, ROUND_TRIP_S, SENT_S, Histogram

BOUNDS_S = (0.001, 0.01, 0.1, 1.0)
DURATIONS = st.lists(st.one_of(st.floats(-1, 2), st.sampled_from([*BOUNDS_S, 0.0])), max_size=50)


def expected(durations: list[float]) -> list[int]:
    counts = [0] * (len(BOUNDS_S) + 1)
    for duration in durations:
        counts[next((i for i, bound in enumerate(BOUNDS_S) if duration <= bound), len(BOUNDS_S))] += 1
    return counts


@given(DURATIONS)
def test_many_at_once_are_counted_as_one_by_one(durations: list[float]) -> None:
    one_by_one, at_once = Histogram(BOUNDS_S), Histogram(BOUNDS_S)
    for duration in durations:
        one_by_one.add(duration)
    at_once.add_all(durations)
    assert one_by_one.counts == at_once.counts == expected(durations)
    assert one_by_one.sum_s == pytest.approx(sum(max(0.0, d) for d in durations))
    assert at_once.sum_s == pytest.approx(one_by_one.sum_s)


@given(st.lists(st.integers(-10, 3_000_000), max_size=50))
def test_a_unit_of_microseconds_comes_to_the_same(durations_us: list[int]) -> None:
    histogram = Histogram(BOUNDS_S, unit_s=1e-6)
    histogram.add_all(durations_us)
    assert histogram.counts == expected([d / 1e6 for d in durations_us])
    assert histogram.sum_s == pytest.approx(sum(max(0, d) for d in durations_us) / 1e6)


@pytest.mark.parametrize("bounds_s", [ANSWER_S, SENT_S, DELIVERED_S, ROUND_TRIP_S])
def test_a_quantile_that_is_read_between_two_bounds_is_near(bounds_s: tuple[float, ...]) -> None:
    for below, above in pairwise(bounds_s):
        assert 1 < above / below <= 4
