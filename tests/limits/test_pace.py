"""At which pace a backlog leaves, by what left it lately."""

from __future__ import annotations

import pytest

from engine.limits.pace import LinePace, Part, rate_of


@pytest.mark.parametrize(
    ("moved", "lasted_ms", "since", "rate"),
    [
        # For ten seconds and more: what was moved in the last ten.
        (500, 10_000, 480, 50.0),
        (500, 3_600_000, 180_000, 50.0),
        # It has just begun, or goes on after a pause: what was moved since.
        (100, 2_000, 100, 50.0),
        (420, 2_000, 100, 50.0),
        (51, 1_000, 50, 50.0),
        # For less than a second, or only the step that fills the stream: nobody knows.
        (50, 999, 50, None),
        (4, 5_000, 0, None),
        (0, 60_000, 3_000, None),
        # Written by an older version.
        (100, -1, 0, 10.0),
    ],
)
def test_a_line_has_the_pace_of_the_time_in_which_messages_were_moved(
    moved: int, lasted_ms: int, since: int, rate: float | None
) -> None:
    assert LinePace(moved, lasted_ms, since, 1.0).rate == rate


LINE = LinePace(400, 4_000, 400, 4.0)


def test_an_organisation_has_its_share_of_the_pace_also_when_nothing_of_it_has_left_yet() -> None:
    assert rate_of([Part(LINE, behind=9, put_off=0, left=0)], 1.0) == 25.0
    assert rate_of([Part(LINE, behind=9, put_off=0, left=0)], 3.0) == 75.0
    assert rate_of([Part(LINE, 9, 0, 0), Part(LINE, 9, 0, 0), Part(LINE, 0, 0, 90)], 1.0) == 50.0
    # It began to wait after the weight was counted.
    assert rate_of([Part(LINE._replace(weight=0.0), 9, 0, 0)], 1.0) == 100.0


def test_where_some_are_put_off_it_is_what_left_lately() -> None:
    assert rate_of([Part(LINE, behind=9, put_off=5, left=30)], 1.0) == 3.0
    assert rate_of([Part(LINE, behind=9, put_off=5, left=0)], 1.0) is None


def test_the_pace_is_not_known_where_nothing_waits_or_nothing_is_known_of_the_line() -> None:
    assert rate_of([], 1.0) is None
    assert rate_of([Part(LINE, 0, 0, 50)], 1.0) is None
    assert rate_of([Part(LINE._replace(lasted_ms=500), 9, 0, 50)], 1.0) is None
