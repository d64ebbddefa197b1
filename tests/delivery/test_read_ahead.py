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


@pytest.mark.parametrize(("rate", "most"), [(1.0, 1), (20.0, 2), (200.0, 12), (2000.0, 120)])
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


def test_a_limited_lane_is_read_for_further_ahead_where_a_read_takes_long() -> None:
    made = lanes(100.0)
    assert made.room(0.0) == 6
    for _ in range(100):
        made.supply.note_read(0.1)
    assert made.room(0.0) == 40
    # Where what is in hand may be lost, it is not.
    assert made.room(0.0, far=False) == 6


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
        ((20.0,), 1),
        ((100.0,), 2),
        ((20.0, 20.0), 4),
        ((500.0,), 8),
        ((2000.0,), 32),
        ((20_000.0,), 512),
        ((2000.0, 2000.0), 64),
        ((200_000.0,), 2048),
        ((None,), 128),
    ],
)
def test_about_twenty_milliseconds_of_work_lie_ready(
    throughputs: tuple[float | None, ...], ready: int
) -> None:
    assert lanes(*throughputs).ready_messages(0.0) == ready


def test_no_more_lies_ready_than_a_worker_that_is_short_of_cpu_sends() -> None:
    made = lanes(200_000.0)
    for turn, now_s in enumerate((0.0, 0.1)):
        made.begun(now_s, more=True)
        made.by_name["p0"].began([waiting(n) for n in range(500 * (1 - turn))], now_s)
    assert made.ready_messages(0.1) == 128


@pytest.mark.parametrize(
    ("answer_s", "most", "least"),
    [(0.0, 100, 100), (10.0, 8, 8), (0.2, 50, 50), (0.01, 300, 100), (0.001, 2000, 100)],
)
def test_of_a_quick_provider_more_is_in_hand_and_not_where_that_may_be_lost(
    answer_s: float, most: int, least: int
) -> None:
    made = lanes(None)
    lane = made.by_name["p0"]
    if answer_s:
        lane.ended(lane.began([waiting(0)], 0.0), "accepted", answer_s)
    assert made.ahead(answer_s, far=True) == most
    assert made.ahead(answer_s, far=False) == least
    lane.limit(1000.0)
    assert made.ahead(answer_s, far=True) == 100


@pytest.mark.parametrize("rate", [None, 2000.0])
def test_for_a_probe_of_the_only_provider_one_message_is_read(rate: float | None) -> None:
    made = lanes(rate)
    made.by_name["p0"].breaker.trip(0.0)
    assert made.room(0.0) == 0
    again_s = made.by_name["p0"].breaker.closed_for(0.0)
    assert made.room(again_s) == 1
    made.by_name["p0"].breaker.began(again_s)
    assert made.room(again_s) == 0


def test_as_much_lies_ready_as_is_read_when_all_of_it_is_put_off() -> None:
    made = lanes(40.0, None)
    for tenth in range(20):
        made.begun(tenth / 10, more=True)
        made.put_off += 200
    # Of 2,000 messages a second as many as in 20 ms, and not the fewest there may be.
    assert made.ready_messages(2.0) == 32
