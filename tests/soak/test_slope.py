"""The judge of `make soak` sees a growth through noise and through processes that are replaced."""

from __future__ import annotations

import random

from tests.soak.slope import Sample, drawn, fitted, pause_between_samples_s


def series(per_hour: float, *, replaced: bool = False, noise: float = 1.0) -> list[Sample]:
    """An hour of samples, one a minute; with `replaced` a new process begins at 60 every 20 minutes."""
    rng = random.Random(1)
    life = 20 if replaced else 60
    return [
        Sample(
            at_s=60.0 * minute,
            value=60 + per_hour * (minute % life) / 60 + rng.gauss(0, noise),
            source=minute // life,
        )
        for minute in range(60)
    ]


def test_what_is_level_does_not_grow_and_what_leaks_does() -> None:
    level, leak = fitted(series(0), 300), fitted(series(12), 300)
    assert level is not None
    assert leak is not None
    assert not level.grows(4)
    assert leak.grows(4)
    assert abs(leak.per_hour - 12) < 3 * leak.error_per_hour


def test_a_leak_is_seen_although_the_process_is_replaced_again_and_again() -> None:
    leak, level = fitted(series(24, replaced=True), 120), fitted(series(0, replaced=True), 120)
    assert leak is not None
    assert level is not None
    assert leak.grows(4)
    assert not level.grows(4)


def test_one_step_is_no_leak_and_hides_none() -> None:
    def stepping(per_hour: float) -> list[Sample]:
        return [
            Sample(at_s=s.at_s, value=s.value + 10 * (s.at_s > 1800), source=s.source)
            for s in series(per_hour)
        ]

    level, leak = fitted(stepping(0), 300), fitted(stepping(12), 300)
    assert level is not None
    assert leak is not None
    assert not level.grows(4)
    assert leak.grows(4)


def test_steps_again_and_again_are_a_leak() -> None:
    stairs = [Sample(at_s=s.at_s, value=s.value + s.at_s // 600 * 4) for s in series(0)]
    found = fitted(stairs, 300)
    assert found is not None
    assert found.grows(4)


def test_too_few_samples_say_nothing() -> None:
    assert fitted(series(12)[:5], 0) is None
    assert fitted(series(12), 3600) is None


def test_a_series_is_drawn_by_its_largest() -> None:
    assert drawn([0, 1, 2, 4]) == "▁▂▄█"
    assert drawn([]) == ""
    assert drawn([-1, 0, 1]) == "▁▁█"
    assert len(drawn([1.0] * 200)) == 40


def test_a_soak_of_minutes_has_samples_enough_to_show_growth() -> None:
    for minutes in (2, 6, 20):
        pause_s = pause_between_samples_s(minutes * 60)
        some = [Sample(at_s=pause_s * n, value=1.0 + n, source=1) for n in range(int(minutes * 60 / pause_s))]
        assert fitted(some, minutes * 60 / 4) is not None
    assert pause_between_samples_s(3600) == 60
