"""However many workers, however late: no second holds more than the limit allows, and little less."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.records import Queue
from engine.routing.ports import SlotRequest, Slots
from engine.routing.throughput import UNANSWERED_S, Allowance
from engine.routing.timing import COUNTED_RATE_MAX, timing
from tests.routing.throughput_model import (
    HORIZON_US,
    Sender,
    Sent,
    Timeline,
    Weather,
    most_in,
    next_at,
    rate_between,
    simulate,
)

FAST, SLOW = 1000.0, 10.0


def allowed(rate: float, widest: int) -> float:
    """Segments in any second. One message is never divided, so it may be more by itself."""
    return max(math.floor(1.05 * rate + 1e-9), math.ceil(rate), widest)


def drawn(rng: Random, sizes: Sequence[int]) -> Iterator[int]:
    while True:
        yield rng.choice(sizes)


def senders(
    queues: Sequence[str],
    rate: float,
    sizes: Sequence[int] = (1,),
    *,
    arrivals: Callable[[float], int] | None = None,
    seed: int = 1,
) -> list[Sender]:
    """`arrivals` are those of express."""
    return [
        Sender(
            n,
            cast(Queue, queue),
            rate,
            drawn(Random(seed + n), sizes),
            arrivals=arrivals if queue == "express" else None,
        )
        for n, queue in enumerate(queues)
    ]


def of_queue(sent: Sequence[Sent], workers: Sequence[Sender], queue: Queue) -> list[Sent]:
    return [s for s in sent if workers[s.worker].queue == queue]


def given_slots(
    allowance: Allowance, segments: int, delay_us: int, asked_s: float, answered_s: float
) -> None:
    interval_us = timing(allowance.rate).interval_s * 1e6
    allowance.granted(Slots(segments, delay_us, interval_us, allowance.together), asked_s, answered_s)


# -- what follows from a rate


@given(st.floats(0.01, 1e6))
def test_the_timeline_uses_the_rate_and_tolerates_some_lateness(rate: float) -> None:
    interval_s, tolerance_s, *_ = timing(rate)
    assert 0.95 * rate <= 1 / interval_s <= rate
    assert 0.02 <= tolerance_s <= 0.05


@given(st.floats(0.01, 1e6))
def test_single_segments_at_their_latest_and_earliest_keep_to_the_limit(rate: float) -> None:
    interval_s, tolerance_s, most, *_ = timing(rate)
    within = math.ceil((1 + tolerance_s) / interval_s - 1e-9)
    assert within <= allowed(rate, 1)
    assert most in (0, allowed(rate, 1))


# -- the whole, in simulated time


@settings(max_examples=150, deadline=None)
@given(
    rate=st.sampled_from((0.5, 1.0, 2.5, 3.0, 10.0, 19.0, 20.0, 35.0, 100.0, 200.0, 201.0, 300.0, 1500.0)),
    queues=st.lists(st.sampled_from(("express", "normal")), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=4),
    late_s=st.floats(0, 0.06),
    round_trip_s=st.sampled_from((0.002, 0.01, 0.08, 0.4)),
    answer_s=st.sampled_from((0.0, 0.0, 0.05, 0.2)),
    freeze_chance=st.floats(0, 0.1),
    seed=st.integers(0, 2**32),
)
def test_no_second_holds_more_than_the_limit_allows(
    rate: float,
    queues: list[Queue],
    sizes: list[int],
    late_s: float,
    round_trip_s: float,
    answer_s: float,
    freeze_chance: float,
    seed: int,
) -> None:
    weather = Weather(
        late_s=late_s,
        round_trip_s=round_trip_s,
        answer_s=answer_s,
        freeze_s=0.5,
        freeze_chance=freeze_chance,
        drift=0.0005,
    )
    until_s = 3.0 if rate >= 100 else 8.0
    sent = simulate(senders(queues, rate, sizes, seed=seed), until_s, Random(seed), weather, Timeline())
    assert most_in(sent, 1.0) <= allowed(rate, max(sizes))


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("rate", [0.5, 1.0, 10.0, 37.5, 100.0, 200.0, 201.0, 1000.0, 5000.0])
def test_under_load_the_limit_is_used(rate: float, workers: int) -> None:
    until_s = 40 / rate + 4
    sent = simulate(senders(["normal"] * workers, rate), until_s, Random(1), Weather(), Timeline())
    # From the first to the last, so that where the interval falls does not count.
    first, last = min(s.at_s for s in sent), max(s.at_s for s in sent)
    assert (len(sent) - 1) / (last - first) >= 0.96 * rate
    assert most_in(sent, 1.0) <= allowed(rate, 1)


@pytest.mark.parametrize(("rate", "workers"), [(50.0, 1), (500.0, 2), (1000.0, 1)])
@pytest.mark.parametrize(("answer_s", "part"), [(0.001, 0.98), (0.01, 0.98), (0.05, 0.95), (0.2, 0.82)])
def test_a_redis_that_answers_late_costs_no_more_than_what_is_unknown_of_its_clock(
    rate: float, workers: int, answer_s: float, part: float
) -> None:
    weather = Weather(answer_s=answer_s)
    sent = simulate(senders(["normal"] * workers, rate), 5.0, Random(1), weather, Timeline())
    assert rate_between(sent, 2.0, 5.0) >= part * rate
    assert most_in(sent, 1.0) <= rate


@pytest.mark.parametrize("rate", [10.0, 50.0, 500.0])
def test_a_worker_that_uses_its_slots_late_sends_no_more_than_the_limit_in_any_second(rate: float) -> None:
    weather = Weather(late_s=0.002, freeze_s=0.045, freeze_chance=0.01)
    [worker] = senders(["normal"], rate)
    sent = simulate([worker], 8.0, Random(1), weather, Timeline())
    assert most_in(sent, 1.0) <= rate
    assert rate_between(sent, 1.0, 8.0) >= 0.95 * rate


@pytest.mark.parametrize(
    ("rate", "sizes"), [(20.0, (3,)), (100.0, (1, 2, 3, 6)), (300.0, (1, 2, 3, 6)), (2000.0, (1, 2, 3, 6))]
)
def test_long_messages_use_it_too(rate: float, sizes: Sequence[int]) -> None:
    workers = senders(["normal"] * 4, rate, sizes)
    sent = simulate(workers, 8.0, Random(1), Weather(), Timeline())
    assert rate_between(sent, 0.5, 8.0) >= 0.95 * rate
    assert most_in(sent, 1.0) <= allowed(rate, max(sizes))
    assert sum(w.allowance.lost for w in workers) < 0.01 * rate * 8


def test_a_message_larger_than_the_limit_goes_alone_and_pays_for_all_its_segments() -> None:
    sent = simulate(senders(["normal"] * 2, 1.0, (3,)), 40.0, Random(1), Weather(), Timeline())
    times = sorted(s.at_s for s in sent)
    assert len(times) >= 12
    assert all(later - earlier > 3.0 for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("rate", [10.0, 50.0, 200.0, 1000.0, 5000.0])
@pytest.mark.parametrize("sizes", [(1,), (1, 2, 3, 6)])
def test_workers_of_a_queue_all_get_some(rate: float, sizes: Sequence[int]) -> None:
    sent = simulate(
        senders(["normal"] * 4, rate, sizes), 30.0 if rate < 200 else 6.0, Random(1), Weather(), Timeline()
    )
    each = [sum(s.segments for s in sent if s.worker == n) for n in range(4)]
    assert min(each) > 0.12 * sum(each), each


@pytest.mark.parametrize("rate", [SLOW, 50.0])
def test_long_messages_of_one_worker_are_not_starved_by_short_ones_of_others(rate: float) -> None:
    workers = [Sender(n, "normal", rate, itertools.repeat(5 if n == 0 else 1)) for n in range(4)]
    sent = simulate(workers, 30.0, Random(1), Weather(), Timeline())
    assert sum(s.segments for s in sent if s.worker == 0) > 0.2 * sum(s.segments for s in sent)
    assert most_in(sent, 1.0) <= allowed(rate, 5)


@pytest.mark.parametrize("rate", [SLOW, 100.0, FAST])
def test_the_others_use_what_a_killed_worker_leaves(rate: float) -> None:
    workers = senders(["normal"] * 3, rate)
    until_s = 8.0
    killed = workers[0]
    ask, send = killed.ask, killed.send
    begun = 0

    def once(now_s: float) -> SlotRequest | None:
        nonlocal begun
        begun += 1
        return ask(now_s) if begun < 20 else None

    killed.ask = once  # type: ignore[method-assign]
    killed.send = lambda now_s: send(now_s) if begun < 20 else []  # type: ignore[method-assign]
    sent = simulate(workers, until_s, Random(1), Weather(), Timeline())
    assert begun >= 20
    assert rate_between(sent, 4.0, until_s) >= 0.95 * rate


def test_a_worker_asks_far_less_often_than_it_sends() -> None:
    workers = senders(["normal"] * 4, 5000.0)
    sent = simulate(workers, 3.0, Random(1), Weather(), Timeline())
    assert sum(w.asks for w in workers) < len(sent) / 15


def test_a_limit_lowered_meanwhile_holds_a_horizon_later() -> None:
    workers = senders(["normal"] * 3, FAST)
    timeline, rng = Timeline(), Random(1)
    simulate(workers, 2.0, rng, Weather(clocks_s=0), timeline)
    for worker in workers:
        worker.allowance.change_rate(100.0)
    sent = simulate(workers, 6.0, rng, Weather(clocks_s=0), timeline, from_s=2.0)
    after = [s for s in sent if s.at_s > 2.0 + HORIZON_US / 1e6]
    assert most_in(after, 1.0) <= allowed(100.0, 1)
    assert rate_between(after, 3.5, 6.0) >= 0.95 * 100.0


# -- express and normal


@pytest.mark.parametrize("rate", [1.0, SLOW, 100.0, FAST, 5000.0])
@pytest.mark.parametrize("normal", [1, 8])
def test_express_gets_at_least_its_share_when_both_want_all(rate: float, normal: int) -> None:
    workers = senders(["express", *["normal"] * normal], rate)
    until_s = 60.0 if rate <= SLOW else 5.0
    sent = simulate(workers, until_s, Random(1), Weather(), Timeline())
    assert rate_between(of_queue(sent, workers, "express"), 1.0, until_s) >= 0.95 * 0.2 * rate
    assert rate_between(of_queue(sent, workers, "normal"), 1.0, until_s) > 0.2 * rate
    assert rate_between(sent, 1.0, until_s) >= 0.95 * rate


@pytest.mark.parametrize("rate", [100.0, FAST])
def test_what_express_does_not_want_normal_gets(rate: float) -> None:
    workers = senders(["express", "normal", "normal"], rate, arrivals=lambda now_s: int(0.05 * rate * now_s))
    sent = simulate(workers, 8.0, Random(1), Weather(clocks_s=0), Timeline())
    assert rate_between(of_queue(sent, workers, "express"), 1.0, 8.0) == pytest.approx(0.05 * rate, rel=0.1)
    assert rate_between(of_queue(sent, workers, "normal"), 1.0, 8.0) >= 0.95 * 0.95 * rate


def test_express_within_its_share_waits_no_longer_than_a_horizon_and_a_slots_tolerance() -> None:
    rate, waits = FAST, []
    workers = senders(["express", *["normal"] * 4], rate, arrivals=lambda now_s: int(0.15 * rate * now_s))
    sent = simulate(workers, 6.0, Random(1), Weather(clocks_s=0), Timeline())
    for n, s in enumerate(sorted(of_queue(sent, workers, "express"))):
        if s.at_s > 1.0:
            waits.append(s.at_s - (n + 1) / (0.15 * rate))
    assert max(waits) < HORIZON_US / 1e6 + timing(rate).tolerance_s
    # Most of them in much less.
    assert sorted(waits)[len(waits) // 2] < HORIZON_US / 1e6


def drawn_arrivals(rate: float, seed: int) -> tuple[Callable[[float], int], list[float]]:
    """Messages that come at random, `rate` a second; and when each comes."""
    rng, times = Random(seed), [0.0]
    while times[-1] < 10:
        times.append(times[-1] + rng.expovariate(rate))
    return (lambda now_s: bisect.bisect_right(times, now_s) - 1), times[1:]


@pytest.mark.parametrize("normal", [1, 4])
@pytest.mark.parametrize("rate", [1000.0, 5000.0])
def test_express_goes_at_once_beside_a_backlog_of_normal(rate: float, normal: int) -> None:
    """Its slots are kept for it; a few are lost."""
    arrivals, times = drawn_arrivals(0.08 * rate, 1)
    workers = senders(["express", *["normal"] * normal], rate, arrivals=arrivals)
    sent = simulate(workers, 6.0, Random(1), Weather(clocks_s=0), Timeline())
    express = sorted(of_queue(sent, workers, "express"))
    waits = sorted(s.at_s - came_s for s, came_s in zip(express, times, strict=False) if s.at_s > 1.0)
    # The next free slot lies 20 to 40 ms ahead.
    assert waits[len(waits) // 2] < 0.003
    assert waits[int(len(waits) * 0.9)] < 0.03
    assert rate_between(sent, 1.0, 6.0) >= 0.95 * rate
    assert most_in(sent, 1.0) <= allowed(rate, 1)


def test_what_express_keeps_is_given_up_when_nothing_comes_any_more() -> None:
    workers = senders(["express", "normal"], FAST, arrivals=lambda now_s: int(0.1 * FAST * min(now_s, 2.0)))
    sent = simulate(workers, 8.0, Random(1), Weather(clocks_s=0), Timeline())
    lost = workers[0].allowance.lost
    assert rate_between(sent, 4.0, 8.0) >= 0.98 * FAST
    workers[0].allowance.wanted(0, 100.0)
    assert workers[0].allowance.lost - lost <= 1
    assert not workers[0].allowance.held


def test_without_a_share_express_is_one_among_others() -> None:
    workers = senders(["express", *["normal"] * 3], FAST)
    for worker in workers:
        worker.share = 0.0
    sent = simulate(workers, 5.0, Random(1), Weather(), Timeline())
    assert 0.12 < rate_between(of_queue(sent, workers, "express"), 1.0, 5.0) / FAST < 0.4


# -- what becomes of the timeline


def ask(segments: int, rate: float = FAST, queue: Queue = "normal", together: int = 1) -> SlotRequest:
    return SlotRequest("p", queue, segments, rate, 0.2, together)


def test_a_fresh_timeline_begins_where_no_slot_of_the_one_before_can_lie() -> None:
    timeline = Timeline()
    last = max(sum(timeline.reserve(ask(10_000, queue="express"), 1e12 + ms * 1000)[1:]) for ms in range(200))
    assert last <= HORIZON_US
    first = min(
        delay for n, delay in (Timeline().reserve(ask(1, queue="express"), 0.0) for _ in range(3)) if n
    )
    assert first >= HORIZON_US


def test_a_clock_set_back_neither_stops_the_timeline_nor_gives_a_slot_twice() -> None:
    timeline, now = Timeline(), 1e15
    timeline.reserve(ask(1), now)
    segments, delay = timeline.reserve(ask(10_000), now + 1e6)
    end = delay + segments * timing(FAST).interval_s * 1e6
    segments, delay = timeline.reserve(ask(1), now - 3600e6)
    assert segments == 1
    assert delay == pytest.approx(end, abs=2)


def test_no_call_gets_more_than_half_of_what_is_free_or_one_message() -> None:
    for rate in (100.0, FAST):
        timeline = Timeline()
        timeline.reserve(ask(1, rate), 1e12)
        segments = timeline.reserve(ask(10_000, rate), 1e12 + 1e6)[0]
        assert segments == math.ceil((HORIZON_US / 2 / 1e6 / timing(rate).interval_s + 1) // 1 / 2)
    timeline.reserve(ask(1, together=500), 1e12 + 2e6)
    assert timeline.reserve(ask(500, together=500), 1e12 + 4e6)[0] == 500


# -- one worker


@pytest.mark.parametrize("rate", [SLOW, FAST])
def test_a_slot_is_used_neither_before_nor_too_long_after_its_time(rate: float) -> None:
    tolerance_s = timing(rate).tolerance_s
    for at_s, goes in (
        (100.0299, False),
        (100.0301, True),
        (100.028 + tolerance_s - 0.0001, True),
        (100.028 + tolerance_s + 0.0001, False),
    ):
        allowance = Allowance(rate)
        assert allowance.wanted(1, 100.0) == 1
        # Redis was asked at 100 and had answered at 100.002: its slot is at 100.028 to 100.030.
        given_slots(allowance, 1, 28_000, 100.0, 100.002)
        assert allowance.take(1, at_s) is goes
        assert not allowance.take(1, at_s)


@pytest.mark.parametrize("rate", [SLOW, FAST])
def test_an_answer_that_took_longer_than_the_tolerance_gives_nothing(rate: float) -> None:
    allowance = Allowance(rate)
    allowance.wanted(5, 100.0)
    given_slots(allowance, 5, 0, 100.0, 100.0001 + timing(rate).tolerance_s)
    assert not any(allowance.take(1, 100.0 + ms / 1000) for ms in range(1000))
    assert allowance.lost == 5
    assert allowance.wanted(5, 101.0) == 5


@pytest.mark.parametrize("rate", [SLOW, FAST])
def test_after_a_freeze_nothing_that_is_too_old_is_used(rate: float) -> None:
    allowance = Allowance(rate)
    allowance.wanted(20, 100.0)
    given_slots(allowance, 20, 10_000, 100.0, 100.001)
    assert allowance.take(1, 100.0111)
    assert not allowance.take(1, 110.0)
    assert (allowance.held, allowance.lost) == (0, 19)
    assert next_at(allowance, 110.0) in (None, 110.0)
    assert allowance.wanted(3, 110.0) > 0


def test_a_late_worker_uses_at_once_what_it_may_still_use() -> None:
    allowance = Allowance(FAST)
    allowance.wanted(500, 100.0)
    given_slots(allowance, 500, 0, 100.0, 100.0)
    gone = sum(allowance.take(1, 100.2) for _ in range(500))
    assert gone == pytest.approx(timing(FAST).tolerance_s / timing(FAST).interval_s, abs=2)


def test_a_message_takes_as_many_slots_as_it_has_segments() -> None:
    allowance = Allowance(FAST)
    allowance.wanted(7, 100.0)
    given_slots(allowance, 7, 0, 100.0, 100.0)
    assert allowance.take(3, 100.0)
    assert allowance.held == 4
    assert not allowance.take(3, 100.0)
    # Its first slot is three after that of the one before.
    at_s = next_at(allowance, 100.0)
    assert at_s == pytest.approx(100.0 + 3 * timing(FAST).interval_s)
    assert at_s is not None
    assert allowance.take(3, at_s)
    assert not allowance.take(3, at_s + 0.01)
    assert allowance.take(1, at_s + 0.01)


def test_slots_far_apart_are_not_joined_for_one_message() -> None:
    allowance = Allowance(FAST)
    allowance.wanted(6, 100.0)
    given_slots(allowance, 1, 0, 100.0, 100.0)
    given_slots(allowance, 5, 80_000, 100.0, 100.0)
    assert not allowance.take(3, 100.0)
    assert not allowance.take(3, 100.04)
    assert allowance.take(3, 100.081)
    assert (allowance.held, allowance.lost) == (2, 1)


def test_a_bundle_of_a_slow_timeline_is_neither_divided_nor_joined() -> None:
    allowance = Allowance(SLOW)
    assert allowance.wanted(7, 100.0, (3, 3, 1)) == 6
    assert allowance.together == 3
    given_slots(allowance, 6, 0, 100.0, 100.0)
    assert not allowance.take(4, 100.0)
    assert allowance.take(1, 100.0)
    assert not allowance.take(1, 100.0)
    assert allowance.held == 3


def test_it_asks_for_what_waits_and_is_not_held_yet() -> None:
    allowance = Allowance(SLOW)
    assert allowance.wanted(0, 100.0) == 0
    assert allowance.wanted(5, 100.0, (1, 3, 1)) == 1
    given_slots(allowance, 1, 0, 100.0, 100.001)
    assert allowance.wanted(5, 100.01, (1, 3, 1)) == 3
    assert allowance.together == 3


def test_it_asks_again_only_when_the_answer_is_overdue() -> None:
    allowance = Allowance(FAST)
    assert allowance.wanted(9, 100.0) == 9
    assert allowance.wanted(9, 100.02) == 0
    assert next_at(allowance, 100.02) == pytest.approx(100.0 + UNANSWERED_S)
    assert allowance.wanted(9, 100.001 + UNANSWERED_S) == 9


def test_an_answer_that_comes_after_the_next_ask_is_not_taken_for_its_answer() -> None:
    allowance, interval_us = Allowance(SLOW), timing(SLOW).interval_s * 1e6
    assert allowance.wanted(3, 100.0, (1, 2)) == 1
    asked_s = 100.01 + UNANSWERED_S
    assert allowance.wanted(2, asked_s, (2,)) == 2
    allowance.granted(Slots(1, 100_000, interval_us, together=1), asked_s - 0.01, asked_s + 0.001)
    assert not allowance.take(2, asked_s + 0.102)
    assert allowance.take(1, asked_s + 0.102)
    assert not allowance.take(1, asked_s + 0.102)


def test_told_to_come_later_it_comes_later() -> None:
    allowance = Allowance(SLOW)
    allowance.wanted(1, 100.0)
    given_slots(allowance, 0, 300_000, 100.0, 100.001)
    at_s = next_at(allowance, 100.001)
    assert at_s is not None
    assert 100.301 <= at_s <= 100.32
    assert allowance.wanted(1, at_s - 0.001) == 0
    assert allowance.wanted(1, at_s) == 1


def test_with_nothing_to_wait_for_there_is_no_timer() -> None:
    allowance = Allowance(FAST)
    assert next_at(allowance, 100.0) is None
    allowance.wanted(1, 100.0)
    given_slots(allowance, 1, 0, 100.0, 100.0)
    assert allowance.take(1, 100.0)
    assert allowance.wanted(0, 100.0) == 0
    assert next_at(allowance, 100.0) is None


@settings(max_examples=100, deadline=None)
@given(
    rate=st.sampled_from((1.0, SLOW, 150.0, 300.0, FAST)),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
)
def test_the_timer_never_spins(rate: float, sizes: list[int], seed: int) -> None:
    """When it is told "now", something happens: a message goes, or Redis is asked."""
    allowance, timeline, rng = Allowance(rate), Timeline(), Random(seed)
    now_s, waiting, idle = 100.0, list(sizes), 0
    for _ in range(20_000):
        if not waiting:
            return
        moved = False
        while waiting and allowance.take(waiting[0], now_s):
            waiting.pop(0)
            moved = True
        segments = allowance.wanted(sum(waiting), now_s, tuple(waiting[:16]))
        if segments:
            moved = True
            asked_s, now_s = now_s, now_s + rng.uniform(0, 0.003)
            slots = timeline.reserve(ask(segments, rate, together=allowance.together), now_s * 1e6)
            given_slots(allowance, *slots, asked_s, now_s)
        at_s = next_at(allowance, now_s)
        if waiting:
            assert at_s is not None
            idle = 0 if moved or at_s > now_s else idle + 1
            assert idle < 2
            now_s = max(now_s, at_s)
    pytest.fail("the messages never went")


# -- how much it gets, and how it slows down


def saturated(allowance: Allowance, timeline: Timeline, from_s: float, to_s: float) -> int:
    """One worker that always has messages; segments sent."""
    sent, now_s = 0, from_s
    while now_s < to_s:
        while allowance.take(1, now_s):
            sent += 1
        if segments := allowance.wanted(10_000, now_s):
            slots = timeline.reserve(ask(segments, allowance.rate, together=allowance.together), now_s * 1e6)
            given_slots(allowance, *slots, now_s, now_s)
        at_s = next_at(allowance, now_s)
        assert at_s is not None
        now_s = max(at_s, now_s + 1e-4)
    return sent


def test_the_rate_seen_is_the_whole_rate_until_there_is_less() -> None:
    assert Allowance(FAST).rate_seen(100.0) == FAST
    workers = senders(["normal"] * 4, FAST)
    simulate(workers, 6.0, Random(1), Weather(clocks_s=0), Timeline())
    for worker in workers:
        assert worker.allowance.rate_seen(6.0) == pytest.approx(FAST / 4, rel=0.35)
        worker.allowance.wanted(0, 6.0)
        assert worker.allowance.rate_seen(20.0) == pytest.approx(FAST, rel=0.01)


@pytest.mark.parametrize("rate", [100.0, FAST])
def test_a_throttled_worker_halves_its_rate_and_has_it_back_in_ten_seconds(rate: float) -> None:
    allowance, timeline = Allowance(rate), Timeline()
    before = saturated(allowance, timeline, 100.0, 103.0) / 3
    for _ in range(50):
        allowance.slow_down(103.0)
    slowed = saturated(allowance, timeline, 103.1, 104.1)
    assert slowed == pytest.approx(before * 0.56, rel=0.1)
    saturated(allowance, timeline, 104.1, 110.0)
    assert saturated(allowance, timeline, 110.0, 112.0) / 2 == pytest.approx(before, rel=0.05)


def test_throttled_again_and_again_it_still_sends_a_little_and_recovers() -> None:
    allowance, timeline = Allowance(FAST), Timeline()
    saturated(allowance, timeline, 100.0, 102.0)
    for second in range(10):
        allowance.slow_down(102.0 + second)
        assert saturated(allowance, timeline, 102.0 + second, 103.0 + second) > 0.05 * FAST
    assert saturated(allowance, timeline, 112.0, 113.0) < 0.4 * FAST
    saturated(allowance, timeline, 113.0, 122.0)
    assert saturated(allowance, timeline, 122.0, 123.0) > 0.95 * FAST


def test_a_rate_on_the_other_side_of_the_border_begins_anew() -> None:
    allowance = Allowance(COUNTED_RATE_MAX)
    allowance.wanted(5, 100.0)
    given_slots(allowance, 5, 0, 100.0, 100.0)
    allowance.change_rate(COUNTED_RATE_MAX + 1)
    assert (allowance.held, allowance.lost) == (0, 5)
    assert allowance.wanted(5, 100.01) > 0
