"""What of lost usage is booked again: never more than was recorded, and in all what the books lack."""

from __future__ import annotations

import itertools

import pytest

from engine.credit.laws import Units
from engine.credit.rebuilding import (
    Recorded,
    is_otherwise_wrong,
    lost_by_redis,
    split,
    units_to_book,
)


@pytest.mark.parametrize(
    ("lacking", "recorded", "booked"),
    [
        (Units(33, 30, 3), Recorded(30, 3, 30), Units(33, 30, 3)),
        # The close had given back what was sent.
        (Units(0, 5, -5), Recorded(5, 0, 5), Units(0, 5, -5)),
        (Units(2, 5, -3), Recorded(5, 0, 5), Units(2, 5, -3)),
        # Some of it was not sent in the lost time.
        (Units(33, 30, 3), Recorded(20, 1, 20), Units(21, 20, 1)),
        (Units(0, 5, -5), Recorded(2, 0, 2), Units(0, 2, -2)),
        # Something else is wrong: the books are ahead, at least in part.
        (Units(28, 29, 0), Recorded(30, 0, 30), Units()),
        (Units(-5, -5, 0), Recorded(30, 0, 30), Units()),
    ],
)
def test_where_only_postgresql_went_back_what_the_books_lack_is_booked_as_far_as_it_was_recorded(
    lacking: Units, recorded: Recorded, booked: Units
) -> None:
    assert units_to_book(lacking, recorded, exactly=True) == booked


def test_books_that_lack_more_than_was_recorded_in_the_lost_time_show_that_redis_was_restored_too() -> None:
    seen = Recorded(30, 3, 30)
    assert not lost_by_redis(Units(33, 30, 3), seen)
    assert not lost_by_redis(Units(0, 5, -5), seen)
    # Messages that events hold are in no queue; some were sent, or failed, after what PostgreSQL lost.
    assert lost_by_redis(Units(35, 30, 3), seen)
    assert lost_by_redis(Units(39, 36, 3), seen)
    assert lost_by_redis(Units(34, 30, 4), seen)
    assert not any(map(is_otherwise_wrong, (Units(35, 30, 3), Units(39, 36, 3), Units(0, 5, -5), Units())))
    assert is_otherwise_wrong(Units(-1, -1, 0))


def test_where_events_are_there_twice_what_was_recorded_in_the_lost_time_is_the_measure() -> None:
    assert units_to_book(Units(70, 60, 5), Recorded(30, 2, 30), exactly=False) == Units(32, 30, 2)
    assert units_to_book(Units(0, 10, -4), Recorded(30, 2, 30), exactly=False) == Units(10, 10, 0)
    assert units_to_book(Units(0, -10, 4), Recorded(30, 2, 30), exactly=False) == Units(2, 0, 2)


def test_what_is_booked_and_what_is_set_aside_are_the_whole_and_nothing_is_booked_that_is_not_there() -> None:
    for captured, released, available in itertools.product(range(6), range(-5, 4), [*range(7), None]):
        if released < -captured:
            continue
        units = Units(captured + released, captured, released)
        booked, rest = split(units, available)
        assert tuple(a + b for a, b in zip(booked, rest, strict=True)) == units
        assert booked.held == booked.captured + booked.released
        assert min(booked.held, booked.captured, rest.held, rest.captured) >= 0
        assert booked.captured <= (available or 0)
        assert rest.captured == max(0, captured - (available or 0))
