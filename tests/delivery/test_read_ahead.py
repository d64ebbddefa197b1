"""How far a worker reads ahead of its only provider, and how much lies ready."""

from __future__ import annotations

import pytest

from engine.delivery.lanes import Lanes
from engine.providers.settings import SimulatedSettings
from engine.records import Entry
from tests.stores.redis.kit import message


def lanes(*throughputs: float | None) -> Lanes:
    settings = [SimulatedSettings(name=f"p{i}", throughput=t) for i, t in enumerate(throughputs)]
    made = Lanes(settings, 200)
    for lane, throughput in zip(made.by_name.values(), throughputs, strict=True):
        lane.limit(throughput)
    return made


def waiting(number: int, segments: int = 1) -> Entry:
    return Entry(shard=0, queue="normal", entry_id=b"1-1", message=message(f"m{number}", segments=segments))


@pytest.mark.parametrize(("rate", "most"), [(20.0, 4), (200.0, 12), (2000.0, 120)])
def test_the_only_lane_takes_no_more_than_it_can_send_soon_and_reads_on_at_half(
    rate: float, most: int
) -> None:
    made = lanes(rate)
    lane = made.by_name["p0"]
    assert made.room(0.0) == most
    for number in range(most):
        lane.add([waiting(number)], 0.0)
    assert made.room(0.0) == 0
    while len(lane.waiting) > most // 2 + 1:
        lane.waiting.popleft()
        lane.waiting_segments -= 1
    assert made.room(0.0) == 0
    lane.waiting.popleft()
    lane.waiting_segments -= 1
    assert made.room(0.0) == most - most // 2


def test_segments_count() -> None:
    made = lanes(20.0)
    made.by_name["p0"].add([waiting(0, segments=7)], 0.0)
    assert made.room(0.0) == 0


def test_a_lane_without_a_limit_and_one_of_several_take_what_the_worker_has_room_for() -> None:
    assert lanes(None).room(0.0) is None
    assert lanes(20.0, 2000.0).room(0.0) is None


def test_nothing_is_worth_reading_while_every_provider_is_paused() -> None:
    made = lanes(None, 20.0)
    for lane in made:
        lane.paused = True
    assert made.room(0.0) == 0
    # Little lies ready then, so that what comes first when they send again is decided late.
    assert made.ready_messages(0.0) == 4


@pytest.mark.parametrize(
    ("throughputs", "ready"),
    [
        ((20.0,), 4),
        ((500.0,), 16),
        ((2000.0,), 64),
        ((20_000.0,), 512),
        ((2000.0, 2000.0), 128),
        ((None,), 128),
    ],
)
def test_about_thirty_milliseconds_of_work_lie_ready(
    throughputs: tuple[float | None, ...], ready: int
) -> None:
    assert lanes(*throughputs).ready_messages(0.0) == ready


@pytest.mark.parametrize(("answer_s", "most"), [(0.0, 100), (10.0, 100), (0.01, 400), (0.001, 800)])
def test_of_a_quick_provider_more_is_in_hand_and_not_where_that_may_be_lost(
    answer_s: float, most: int
) -> None:
    made = lanes(None)
    lane = made.by_name["p0"]
    if answer_s:
        lane.ended(lane.began([waiting(0)], 0.0), "accepted", answer_s)
    assert made.ahead(answer_s, far=True) == most
    assert made.ahead(answer_s, far=False) == 100
    lane.limit(1000.0)
    assert made.ahead(answer_s, far=True) == 100
