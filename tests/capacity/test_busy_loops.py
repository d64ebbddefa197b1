"""Autoscaling tells apart what binds, on virtual time: the loops of the workers, or sends in flight."""

from __future__ import annotations

import math
from random import Random

from tests.capacity.busy_days import BusyDay
from tests.capacity.days import Rate

HOUR = 3600
# A worker can do a thousand messages a second.
MESSAGE_S = 0.001


def fast(_: float) -> float:
    return 0.05


def step(before: float, after: float, at_s: float) -> Rate:
    return lambda now_s: before if now_s < at_s else after


def test_loops_that_are_full_are_answered_by_processes_and_not_by_concurrency() -> None:
    day = BusyDay(step(500, 2400, 60), fast, message_s=MESSAGE_S, cores=8)
    day.pass_s(120)
    assert day.scaler.shape.processes in (3, 4)
    rise = [c for c in day.changed(60) if c.after.processes > c.before.processes]
    assert len(rise) <= 2
    assert rise[0].reason.startswith("the loops of the workers are full: ")
    assert "a message 1" in rise[0].reason
    assert "ms of a worker" in rise[0].reason
    assert max(c.after.concurrency for c in day.changed(0)) <= 400, "as many as the provider's time asks for"
    assert day.late_part(70, 118) < 0.01
    assert day.unread < 2400


def test_more_processes_than_there_are_cores_are_not_wanted_for_full_loops() -> None:
    day = BusyDay(step(500, 2400, 60), fast, message_s=MESSAGE_S, cores=2, processes_max=8)
    day.pass_s(180)
    assert day.scaler.shape.processes == 2
    assert max(c.after.concurrency for c in day.changed(0)) <= 400, "and no concurrency that is of no use"
    assert len(day.changed(90)) <= 1


def test_what_a_message_costs_is_known_when_it_is_calm_so_that_processes_do_not_flap() -> None:
    day = BusyDay(step(500, 1300, 60), fast, message_s=MESSAGE_S, cores=8, calm_s=30)
    day.pass_s(60 + 1200)
    assert day.scaler.shape.processes == 2
    processes = [c for c in day.changed(60) if c.after.processes != c.before.processes]
    assert [c.after.processes for c in processes] == [2]
    day._rate = lambda _: 200.0
    day.pass_s(100)
    assert day.scaler.shape.processes == 1


def test_processes_are_not_taken_away_from_loops_that_wait_for_a_cpu() -> None:
    day = BusyDay(step(500, 1300, 60), fast, message_s=MESSAGE_S, cores=8, calm_s=30, cpu_part=0.5)
    day.pass_s(60 + 600)
    processes = [c.after.processes for c in day.changed(60) if c.after.processes != c.before.processes]
    assert processes == [2]
    assert day.late_part(75, 650) < 0.01


def test_a_provider_that_slows_down_beside_busy_loops_is_answered_by_concurrency_alone() -> None:
    day = BusyDay(lambda _: 400.0, lambda s: 0.05 if s < 100 else 2.0, message_s=MESSAGE_S, cores=8,
                  concurrency_max=10_000)  # fmt: skip
    day.pass_s(160)
    assert {c.after.processes for c in day.changed(0)} <= {1}
    assert day.scaler.shape.concurrency >= 800, "as Little's law says"
    assert day.unread <= 800


def test_a_provider_that_is_down_beside_busy_loops_changes_nothing() -> None:
    day = BusyDay(lambda _: 800.0, lambda s: None if 100 <= s < 700 else 0.05, message_s=MESSAGE_S, cores=8)
    day.pass_s(699)
    assert day.unread > 400_000
    assert day.changed(100) == []
    assert day.scaler.shape.processes == 1


def test_more_messages_and_a_slower_provider_at_once_get_processes_and_concurrency() -> None:
    day = BusyDay(
        step(300, 1500, 60), lambda s: 0.05 if s < 60 else 2.0, message_s=MESSAGE_S, cores=8,
        concurrency_max=10_000, calm_s=20,
    )  # fmt: skip
    day.pass_s(180)
    shape = day.scaler.shape
    assert shape.processes in (2, 3)
    assert shape.processes * shape.concurrency >= 3000, "as Little's law says"
    assert day.unread <= 3000


def test_an_hour_of_noise_beside_busy_loops_does_not_make_it_flap() -> None:
    noise = Random(1)
    minutes = [600 * math.exp(noise.gauss(0, 0.2)) for _ in range(61)]
    takes = [0.05 * math.exp(noise.gauss(0, 0.3)) for _ in range(121)]
    day = BusyDay(
        lambda s: minutes[int(s // 60)], lambda s: takes[int(s // 30)], message_s=MESSAGE_S, cores=8
    )
    day.pass_s(HOUR)
    processes = [c for c in day.changed(0) if c.after.processes != c.before.processes]
    assert len(processes) <= 3
    assert len(day.changed(600)) <= 6
    assert day.late_part(60, HOUR) < 0.005


def test_a_step_where_messages_may_wait_is_one_change_with_the_figures_of_the_step() -> None:
    day = BusyDay(step(100, 1000, 100), fast, message_s=1e-5, cores=8, queue="normal", concurrency_min=5)
    day.pass_s(400)
    [change] = day.changed(100)
    assert change.after.concurrency >= 50
    assert change.reason.startswith("more arrives: ")
    arrive = float(change.reason.split(": ")[1].split(" messages/s")[0].replace(",", ""))
    assert 950 <= arrive <= 1050
    assert day.late_part(0, 398) == 0
    assert day.unread < 1000
