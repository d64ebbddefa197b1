"""When an archiver counts for reports first, on virtual time: one that is restarted often counts too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from engine.activity.report_rolling import EVERY_S, MARGIN_MS, VISIBLE_S, Series, roll_reports
from tests.delivery.turns import VirtualTime

# Rounds take no time here, and it is looked every two seconds whose turn it is.
_TURNS_MAX = 50


class Stream:
    """Streams in which nothing waits."""

    async def backlog(self) -> list[object]:
        return []


class Periods:
    """A series of UTC in memory, and when it was counted, virtual seconds."""

    def __init__(self, virtual: VirtualTime) -> None:
        self._virtual = virtual
        self.series_of_utc: list[Series] = []
        self.counted: list[float] = []

    async def ready(self) -> bool:
        return True

    async def zones(self) -> list[str]:
        return []

    async def series(self) -> list[Series]:
        return list(self.series_of_utc)

    async def tidy(self) -> None:
        pass

    async def begin(self, zone: str, from_ms: int) -> None:
        self.series_of_utc = [Series(zone=zone, from_ms=from_ms, filled=False, until_ms=from_ms, narrow=True)]

    async def fill(self, series: Series) -> AsyncGenerator[float, None]:
        yield 1.0
        self.series_of_utc = [msgspec.structs.replace(series, filled=True)]

    async def roll(self, series: Series, until_ms: int) -> None:
        self.counted.append(self._virtual.clock.now)
        self.series_of_utc = [msgspec.structs.replace(series, until_ms=until_ms)]

    async def drop(self, series: Series) -> None:
        raise AssertionError("Nothing is dropped.")


def begun(virtual: VirtualTime, periods: Periods, *, turn_after_s: float = 0.0) -> asyncio.Event:
    """Start an archiver that gets its turn after so long; what stops it."""
    draining, turn_s = asyncio.Event(), virtual.clock.now + turn_after_s
    virtual.start(
        roll_reports(
            periods, Stream(), draining,  # type: ignore[arg-type]
            active=lambda: virtual.clock.now >= turn_s, now_us=virtual.clock.now_us,
        )
    )  # fmt: skip
    return draining


def test_an_archiver_that_is_restarted_more_often_than_once_a_minute_counts() -> None:
    with VirtualTime() as virtual:
        periods = Periods(virtual)
        for _ in range(6):
            draining = begun(virtual, periods)
            virtual.pass_s(VISIBLE_S + 10.0, turns_max=_TURNS_MAX)
            draining.set()
            virtual.pass_s(0.1, turns_max=1000)
        # The first began the series.
        assert len(periods.counted) == 5
        [series] = periods.series_of_utc
        assert virtual.clock.now_ms() - series.until_ms < MARGIN_MS + (VISIBLE_S + 11) * 1000


def test_it_counts_half_a_minute_after_its_turn_came_and_then_once_a_minute() -> None:
    with VirtualTime() as virtual:
        periods = Periods(virtual)
        before_ms = virtual.clock.now_ms() - 2 * MARGIN_MS
        periods.series_of_utc = [
            Series(zone="UTC", from_ms=before_ms, filled=True, until_ms=before_ms, narrow=True)
        ]
        begun(virtual, periods, turn_after_s=3.5)
        virtual.pass_s(3.5 + 3 * EVERY_S, turns_max=_TURNS_MAX)
        first_s, *later_s = periods.counted
        assert VISIBLE_S <= first_s - 3.5 <= VISIBLE_S + 5.0
        assert [round(at_s - first_s) for at_s in later_s] == [60, 120]


def test_an_archiver_without_the_turn_does_little() -> None:
    with VirtualTime() as virtual:
        periods = Periods(virtual)
        begun(virtual, periods, turn_after_s=10_000.0)
        virtual.pass_s(3600.0, turns_max=5)
        assert not periods.counted
