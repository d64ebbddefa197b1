"""A worker that does not run in time keeps its slots longer, within the limit, and as long as it is late."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.routing.ports import Slots
from engine.routing.throughput import Allowance
from engine.routing.timing import timing
from tests.routing.test_throughput import allowed, senders
from tests.routing.throughput_model import Sender, Sent, Timeline, Weather, most_in, rate_between, simulate

# One clock for all, so that a simulation can go on in another weather.
IN_TIME = Weather(clocks_s=0.0)
LATE = Weather(clocks_s=0.0, freeze_s=0.2, freeze_chance=0.1)
# After so long a worker has found how late it is, and some time later that it is not any more, seconds.
FOUND_S, OVER_S = 16.0, 32.0


def late_s(worker: Sender) -> float:
    return worker.allowance.clock.late_s


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("rate", [50.0, 200.0, 500.0])
def test_workers_that_are_late_use_most_of_the_throughput_and_all_of_it_when_they_are_in_time_again(
    rate: float, workers: int
) -> None:
    some, timeline, rng = senders(["normal"] * workers, rate), Timeline(), Random(1)
    sent = simulate(some, 24.0, rng, LATE, timeline)
    assert rate_between(sent, FOUND_S, 24.0) >= 0.7 * rate
    assert any(late_s(worker) for worker in some)
    sent += simulate(some, 24.0 + OVER_S, rng, IN_TIME, timeline, from_s=24.0)
    assert not any(late_s(worker) for worker in some)
    assert rate_between(sent, 20.0 + OVER_S, 24.0 + OVER_S) >= 0.96 * rate
    assert most_in(sent, 1.0) <= (rate if workers == 1 else allowed(rate, 1))


def test_one_freeze_changes_nothing() -> None:
    [worker], timeline, rng = senders(["normal"], 500.0), Timeline(), Random(1)
    sent: list[Sent] = []
    for from_s, until_s in ((0.0, 7.0), (7.3, 15.0), (17.0, 25.0), (60.0, 67.0)):
        sent += simulate([worker], until_s, rng, IN_TIME, timeline, from_s=from_s)
        assert late_s(worker) == 0.0
    assert most_in(sent, 1.0) <= 500


@pytest.mark.parametrize("stocks", [False, True])
def test_what_express_keeps_for_what_may_come_is_not_lost_by_lateness(stocks: bool) -> None:
    allowance, interval_us = Allowance(500.0, stocks=stocks), timing(500.0).interval_s * 1e6
    for n in range(200):
        now_s = 100.0 + n / 10
        if wanted := allowance.wanted(20, now_s):
            slots = Slots(wanted, 0, interval_us, allowance.together)
            allowance.granted(slots, now_s, now_s + 0.001)
    assert allowance.lost > 0.05 * 500 * 20
    assert (allowance.clock.late_s > 0) is not stocks


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from((3.0, 10.0, 20.0, 100.0, 200.0, 201.0)),
    queues=st.lists(st.sampled_from(("express", "normal")), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=3),
    weathers=st.lists(
        st.builds(
            Weather,
            late_s=st.floats(0, 0.2),
            freeze_s=st.just(0.4),
            freeze_chance=st.sampled_from((0.0, 0.02, 0.1)),
            round_trip_s=st.sampled_from((0.002, 0.08)),
            answer_s=st.sampled_from((0.0, 0.05)),
            clocks_s=st.just(0.0),
            drift=st.just(0.0),
        ),
        min_size=1,
        max_size=3,
    ),
    seed=st.integers(0, 2**32),
)
def test_no_second_holds_more_than_the_limit_however_late_workers_are_and_whenever_that_changes(
    rate: float, queues: list[str], sizes: list[int], weathers: list[Weather], seed: int
) -> None:
    some, timeline, rng = senders(queues, rate, sizes, seed=seed), Timeline(), Random(seed)
    sent: list[Sent] = []
    for n, weather in enumerate(weathers):
        sent += simulate(some, 8.0 * (n + 1), rng, weather, timeline, from_s=8.0 * n)
    assert most_in(sent, 1.0) <= allowed(rate, max(sizes))
