"""The rows of reports are those that plain Python makes of the same sums, to the octet."""

from __future__ import annotations

import math
from array import array
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from engine.activity.report_rows import rows_of
from engine.activity.reports import SUMMED, TIMED, Group, ReportRow, Sums
from tests.activity import plain_reports
from tests.activity.plain_reports import EventSum

BEGIN_S = int(datetime(2026, 3, 28, tzinfo=UTC).timestamp())
VALUES: dict[str, tuple[Any, ...]] = {
    "queue": ("normal", "express"), "provider": ("", "one", "two", "drei ü"),
    "country": (1, 49, 1416, 883, 65000), "reference": ("", "spring", "é"), "organisation": (1, 2, 2**40),
    "hour": tuple(BEGIN_S + 3600 * n for n in range(30)), "minute": (BEGIN_S, BEGIN_S + 60),
}  # fmt: skip
GROUPS: tuple[tuple[Group, ...], ...] = (
    (), ("status",), ("provider",), ("hour", "provider"), ("provider", "status", "queue"),
    ("organisation", "country"), ("country", "hour", "provider", "queue"), ("reference", "status"),
    ("minute",),
)  # fmt: skip


def some_sums(group_by: tuple[Group, ...], rng: Random) -> list[EventSum]:
    """Events of groups, as they may come or not at all: a receipt without its `sent`, and the like."""
    named = [name for name in group_by if name != "status"]
    groups = {tuple(rng.choice(VALUES[name]) for name in named) for _ in range(rng.randrange(40))}
    found = []
    for group in sorted(groups, key=lambda _: rng.random()):
        for event in rng.sample(SUMMED, rng.randrange(len(SUMMED) + 1)):
            # Small ones too: most rates of these lie in the middle of two numbers of six places.
            most = rng.choice((1, 3, 64, 1000, 10**12))
            times = [
                tuple(sorted(rng.lognormvariate(10, 3) for _ in range(3)))
                if "status" not in group_by and rng.random() < 0.7 and (event, of) in TIMED
                else ()
                for of in ("answer_us", "age_us")
            ]
            found.append(
                EventSum(
                    group=group, event=event, events=rng.randrange(most), segments=rng.randrange(2 * most),
                    units=rng.randrange(5 * most), answer_us=times[0], age_us=times[1],
                )
            )  # fmt: skip
    return found


def packed(sums: list[EventSum]) -> Sums:
    places: dict[tuple[Any, ...], int] = {}
    for found in sums:
        places.setdefault(found.group, len(places))
    numbers = array("q", bytes(24 * len(SUMMED) * len(places)))
    times = array("d", [math.nan]) * (3 * len(TIMED) * len(places))
    for found in sums:
        at = 3 * (places[found.group] * len(SUMMED) + SUMMED.index(found.event))
        numbers[at : at + 3] = array("q", (found.events, found.segments, found.units))
        for i, (event, of) in enumerate(TIMED):
            if event == found.event and (quantiles := getattr(found, of)):
                at = 3 * (places[found.group] * len(TIMED) + i)
                times[at : at + 3] = array("d", quantiles)
    return Sums(list(places), numbers.tobytes(), times.tobytes())


@pytest.mark.parametrize("group_by", GROUPS)
def test_rows_are_those_of_plain_python(group_by: tuple[Group, ...]) -> None:
    rng, zone = Random(17), ZoneInfo("Europe/Berlin")
    made: list[ReportRow] = []
    for _ in range(150):
        sums, of_provider = some_sums(group_by, rng), rng.random() < 0.3
        expected = plain_reports.rows_of(sums, group_by, zone, of_provider=of_provider)
        found = rows_of(
            packed(sums),
            group_by,
            lambda at: datetime.fromtimestamp(at, zone).isoformat(),
            of_provider=of_provider,
        )
        assert msgspec.json.encode(found) == msgspec.json.encode(expected)
        assert found == expected
        made += found
    assert len(made) > 100


def test_a_rate_has_six_places_as_python_rounds_them() -> None:
    rng = Random(18)
    parts = [
        (a, b) for b in (1, 2, 3, 7, 64, 128, 2_000_000, 4_000_000, 10**12 + 1) for a in (0, 1, b // 2, b)
    ]
    # A part in 128 has seven places: it lies in the middle.
    parts += [(rng.randrange(of + 1), of) for of in (128, 640, 3_200_000, 99_999_989) for _ in range(300)]
    sums = [
        EventSum(group=(i,), event=event, events=events, segments=0, units=0)
        for i, (some, of) in enumerate(parts)
        for event, events in (("delivered", some), ("undelivered", of - some))
    ]
    rows = rows_of(packed(sums), ("organisation",), str)
    assert [row.delivery_rate for row in rows] == [round(some / of, 6) for some, of in parts]


def test_times_of_groups_are_made_once_each() -> None:
    asked: list[int] = []

    def begins(at: int) -> str:
        asked.append(at)
        return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(at)).isoformat()

    sums = [
        EventSum(group=(day, country), event="sent", events=1, segments=1, units=1)
        for day in range(5)
        for country in (1, 49)
    ]
    assert len(rows_of(packed(sums), ("day", "country"), begins)) == 10
    assert asked == [0, 1, 2, 3, 4]


def test_sums_that_are_not_those_of_their_groups_are_refused() -> None:
    whole = packed([EventSum(group=(1,), event="sent", events=1, segments=1, units=1)])
    for wrong in (
        whole._replace(groups=[]),
        whole._replace(numbers=b""),
        whole._replace(times=whole.times[8:]),
    ):
        with pytest.raises(ValueError, match="not those of the groups"):
            rows_of(wrong, ("organisation",), str)
