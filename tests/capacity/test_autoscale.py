"""Autoscaling on virtual time: what is promised of it, on days with peaks, campaigns and outages."""

from __future__ import annotations

import math
from random import Random

import pytest

from engine.capacity.autoscale import Autoscaler
from engine.capacity.autoscale_settings import AutoscaleSettings
from engine.capacity.costs import REFERENCE
from engine.capacity.measured import Measured
from engine.capacity.simulation import Shape
from engine.capacity.wanted import within
from engine.histogram import ANSWER_S
from tests.capacity.days import Day

HOUR = 3600


def fast(_: float) -> float:
    return 0.05


def test_ten_times_as_much_is_on_target_again_within_ten_seconds() -> None:
    day = Day(lambda at_s: 20.0 if at_s < 100 else 200.0, fast, concurrency_min=2)
    day.pass_s(160)
    assert day.late_part(110, 158) < 0.01
    rise = [change for change in day.changed(100) if "more arrives" in change.reason]
    assert rise
    assert rise[0].before.concurrency / 0.05 < 200, "what it had would never have sent it"
    assert day.scaler.shape.processes == 1
    assert day.scaler.shape.concurrency <= 60, "not as much as it may"


def test_a_provider_that_slows_down_is_answered_by_concurrency_and_not_by_processes() -> None:
    day = Day(lambda _: 100.0, lambda at_s: 0.05 if at_s < 100 else 2.0, concurrency_min=5)
    day.pass_s(130)
    assert {change.after.processes for change in day.changed(0)} == {1}
    assert day.scaler.shape.concurrency >= 200, "as Little's law says"
    assert day.unread <= 150
    assert any("providers take longer" in change.reason for change in day.changed(100))


def test_what_one_loop_cannot_send_takes_another_process_and_the_reason_says_so() -> None:
    day = Day(lambda at_s: 1000.0 if at_s < 60 else 50_000.0, fast, concurrency_max=10_000)
    day.pass_s(90)
    assert day.scaler.shape.processes in (2, 3)
    assert "more arrives" in day.changed(60)[0].reason
    assert day.late_part(70, 88) < 0.01


def test_a_provider_that_is_down_changes_nothing() -> None:
    day = Day(
        lambda _: 100.0, lambda at_s: None if 600 <= at_s < 1200 else 0.05, concurrency_min=5, calm_s=60
    )
    day.pass_s(1199)
    assert day.unread > 50_000
    assert day.changed(600) == []
    day.pass_s(120)
    assert day.unread < 200, "what waited is sent when it comes back"
    assert day.scaler.shape.processes == 1
    before = day.scaler.shape.concurrency
    day.pass_s(200)
    assert day.scaler.shape.concurrency < before, "and what that took is given back"


def test_an_hour_of_noise_does_not_make_it_flap() -> None:
    noise = Random(1)
    minutes = [100 * math.exp(noise.gauss(0, 0.3)) for _ in range(61)]
    takes = [0.05 * math.exp(noise.gauss(0, 0.3)) for _ in range(121)]
    day = Day(lambda at_s: minutes[int(at_s // 60)], lambda at_s: takes[int(at_s // 30)], concurrency_min=2)
    day.pass_s(HOUR)
    falls = [change for change in day.changed(0) if change.after.concurrency < change.before.concurrency]
    assert len(day.changed(600)) <= 8
    assert len(falls) <= 3
    assert day.late_part(60, HOUR) < 0.005
    assert day.scaler.planned < HOUR / 10, "a plan is made only for what was not met before"


def _made_day(at_s: float) -> float:
    """A day in which an hour has six minutes: a quiet night, a peak at noon, and three campaigns."""
    hour = at_s / 360
    rate = 20 + 280 * math.exp(-(((hour - 12) / 2.5) ** 2))
    return rate + (1500.0 if int(hour) in (9, 15, 20) and hour % 1 < 0.1 else 0.0)


def _made_answers(at_s: float) -> float | None:
    hour = at_s / 360
    if 10.5 <= hour < 10.8 or 18 <= hour < 18.2:
        return None
    return 1.5 if 13 <= hour < 13.7 else 0.06


def test_a_day_of_peaks_campaigns_and_outages() -> None:
    day = Day(_made_day, _made_answers, concurrency_min=5, concurrency_max=3000, calm_s=60)
    day.pass_s(24 * 360)
    up = [s for s in range(30, 24 * 360) if not _near_an_outage(s)]
    late = sum(day.late.get(s, 0.0) for s in up) / sum(day.messages[s] for s in up)
    assert late < 0.03
    assert not day.changed(10.5 * 360 + 2, 10.8 * 360 - 1)
    assert not day.changed(18 * 360 + 2, 18.2 * 360 - 1)
    assert {change.after.processes for change in day.changed(0)} == {1}
    assert len(day.changes) < 60, "by the campaigns, the peak, the outages and the slow provider"
    most = max(change.after.concurrency for change in day.changed(0))
    assert day.slot_seconds < 0.6 * most * 24 * 360, "the rest of the day it has much less"


def _near_an_outage(at_s: int) -> bool:
    return any(begin - 0.02 <= at_s / 360 < begin + 0.6 for begin in (10.5, 18.0))


def test_at_its_bounds_it_is_not_calm_and_nothing_is_taken_away() -> None:
    def rate(at_s: float) -> float:
        return 20.0 if at_s < 50 else 4000.0

    day = Day(rate, fast, concurrency_min=2, concurrency_max=40, calm_s=20)
    day.pass_s(49)
    day.scaler.rest()
    day.pass_s(120)
    assert day.scaler.shape == Shape(processes=4, concurrency=40)
    assert all(change.after.concurrency >= change.before.concurrency for change in day.changed(50))


def test_a_campaign_in_the_queue_that_has_time_is_spread() -> None:
    day = Day(lambda at_s: 5.0 if at_s != 100 else 50_000.0, fast, queue="normal", concurrency_min=5)
    day.pass_s(700)
    assert day.late_part(90, 110) < 0.05
    assert max(change.after.concurrency for change in day.changed(0)) < 100


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_measured_the_bounds_are_never_left(seed: int) -> None:
    random = Random(seed)
    low = random.randint(1, 4)
    settings = AutoscaleSettings(
        processes_min=low, processes_max=low + random.randint(0, 3),
        concurrency_min=random.randint(1, 100), concurrency_max=random.randint(100, 500), calm_s=10,
    )  # fmt: skip
    scaler = Autoscaler("express", settings, REFERENCE, Shape(processes=9, concurrency=9000))
    for at_s in range(120):
        answers = [0] * (len(ANSWER_S) + 1)
        answers[random.randrange(len(answers))] = random.randint(0, 100)
        change = scaler.look(
            Measured(
                at_s=at_s, arrivals_per_s=math.exp(random.uniform(-3, 11)),
                unread=math.exp(random.uniform(-3, 14)), answers=random.choice([answers, []]),
                throughput=random.choice([None, 10.0]), window=random.choice([None, 1, 50]),
                part=random.choice([1.0, 0.75]), hold=random.choice(["", "", "down"]),
                calm=random.random() < 0.5,
            )
        )  # fmt: skip
        shape = scaler.shape
        assert within(settings, shape.processes, shape.concurrency) == shape
        assert change is None or change.after == shape


def test_two_nodes_that_see_the_same_settle_and_stay() -> None:
    answers = [0] * 5 + [100] + [0] * (len(ANSWER_S) - 5)
    settings = AutoscaleSettings(concurrency_min=2, calm_s=10)
    first, second = (
        Autoscaler("express", settings, REFERENCE, Shape(processes=1, concurrency=c)) for c in (2, 900)
    )
    for at_s in range(100):
        # Of 400 messages a second each has half, whatever the other does.
        for scaler in (first, second):
            scaler.look(Measured(float(at_s), 200.0, 0.0, answers))
    assert first.shape == second.shape
    assert (first.planned, second.planned) == (1, 1)
