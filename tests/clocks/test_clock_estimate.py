"""The estimate of the stores' clock: within half a round trip, and never back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.clocks.clock_estimate import Bounds, GivenTime, improved, measured

_AHEAD_US = st.integers(-(10**16), 10**16)
# Round trips: the way there, the way back, and the pause after it, microseconds.
_TRIP = st.tuples(st.integers(0, 5_000_000), st.integers(0, 5_000_000), st.integers(0, 10_000_000))


@given(ahead_us=_AHEAD_US, trips=st.lists(_TRIP, min_size=1, max_size=30))
def test_it_is_wrong_by_half_of_the_quickest_round_trip_at_most(
    ahead_us: int, trips: list[tuple[int, int, int]]
) -> None:
    known, now_us, quickest = None, 0, 1 << 60
    for there_us, back_us, pause_us in trips:
        asked_us, store_us = now_us, now_us + there_us + ahead_us
        answered_us = now_us + there_us + back_us
        drifted_us = 0 if known is None else (answered_us - known.at_us) * 200 // 1_000_000 + 1
        known = improved(known, measured(asked_us, answered_us, store_us))
        # What a quick round trip told is true for as long as the clocks do not drift.
        own_us = there_us + back_us
        quickest = min(quickest + 2 * drifted_us, own_us + 2 * (own_us * 200 // 1_000_000))
        assert known.low_us <= ahead_us <= known.high_us
        assert known.high_us - known.low_us <= quickest
        assert abs(known.middle_us - ahead_us) <= known.half_us
        now_us = answered_us + pause_us


@given(ahead_us=_AHEAD_US, ppm=st.integers(-200, 200), trips=st.lists(_TRIP, min_size=1, max_size=30))
def test_the_bounds_hold_although_the_clocks_drift(
    ahead_us: int, ppm: int, trips: list[tuple[int, int, int]]
) -> None:
    def store_us(at_us: int) -> int:
        return at_us + ahead_us + at_us * ppm // 1_000_000

    known, now_us = None, 0
    for there_us, back_us, pause_us in trips:
        answered_us = now_us + there_us + back_us
        known = improved(known, measured(now_us, answered_us, store_us(now_us + there_us)))
        own_us = store_us(answered_us) - answered_us
        # The clocks show whole microseconds.
        assert known.low_us - 2 <= own_us <= known.high_us + 2
        now_us = answered_us + pause_us


@given(before_us=_AHEAD_US, by_us=st.integers(60_000_000, 10**16), back=st.booleans())
def test_a_clock_that_was_set_is_believed_at_once(before_us: int, by_us: int, back: bool) -> None:
    after_us = before_us - by_us if back else before_us + by_us
    known = improved(None, measured(0, 100, 50 + before_us))
    new = improved(known, measured(1_000_000, 1_000_100, 1_000_050 + after_us))
    assert new == Bounds(after_us - 50, after_us + 50, 1_000_100)


@given(
    st.lists(st.tuples(st.integers(0, 10_000_000), st.integers(-(10**12), 10**12)), min_size=1, max_size=50)
)
def test_time_never_goes_back_and_never_stands_for_long(steps: list[tuple[int, int]]) -> None:
    given_time, steady_us, last_us = GivenTime(), 0, None
    for passed_us, ahead_us in steps:
        steady_us += passed_us
        now_us = given_time.at(steady_us, ahead_us)
        assert now_us >= steady_us + ahead_us
        if last_us is not None:
            assert now_us >= last_us
            assert now_us - last_us >= (passed_us - 1) // 2 or now_us >= steady_us + ahead_us
        last_us = now_us


def test_a_time_that_is_ahead_goes_on_at_half_its_speed() -> None:
    time = GivenTime()
    assert time.at(0, 1000) == 1000
    # Asked with every microsecond, and once after them all: the same.
    assert [time.at(steady_us, 0) for steady_us in range(1, 7)][-1] == 1003
    assert time.at(2000, 0) == 2000
    assert time.at(3000, 0) == 3000
