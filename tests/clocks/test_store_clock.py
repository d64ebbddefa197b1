"""The stores' clock in a process: what it shows, and what it says of the machine's own."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from engine.clocks.store_clock import StoreClock
from engine.errors import Broken, Unavailable

_NOW_US = 1_700_000_000_000_000


class Machine:
    """A steady clock, a time of day, and the stores' clock, each to be set."""

    def __init__(self) -> None:
        self.steady_us = 5_000_000
        self.ahead_us = 0
        self.clock = StoreClock(
            structlog.get_logger(),
            steady_us=lambda: self.steady_us,
            wall_us=lambda: self.store_us + self.ahead_us,
        )

    @property
    def store_us(self) -> int:
        return _NOW_US + self.steady_us

    def measure(self, trip_us: int = 200) -> None:
        asked = self.clock.asked()
        self.steady_us += trip_us // 2
        reply = [b"%d" % part for part in divmod(self.store_us, 1_000_000)]
        self.steady_us += trip_us // 2
        self.clock.answered(asked, reply)

    def said(self, ahead_s: float) -> list[Any]:
        self.ahead_us = round(ahead_s * 1e6)
        with capture_logs() as lines:
            self.measure()
            self.measure()
        return [line["event"] for line in lines]


def test_it_is_not_read_before_it_is_measured() -> None:
    with pytest.raises(Broken, match="before it was measured"):
        Machine().clock.now_us()


@pytest.mark.parametrize("ahead_s", [0, 3600, -3600])
def test_it_shows_the_stores_time_whatever_the_machine_shows(ahead_s: float) -> None:
    machine = Machine()
    machine.ahead_us = round(ahead_s * 1e6)
    machine.measure()
    assert machine.clock.now_us() == machine.store_us
    machine.ahead_us = -machine.ahead_us
    machine.steady_us += 10_000_000
    assert machine.clock.now_us() == machine.store_us
    machine.measure()
    assert machine.clock.ahead_us == machine.ahead_us


def test_it_says_once_that_the_clock_is_off_and_once_that_it_is_right() -> None:
    machine = Machine()
    assert machine.said(0.5) == []
    assert machine.said(-2.5) == ["the clock of this node is off"]
    assert machine.said(0.9) == []
    assert machine.said(0.1) == ["the clock of this node is right again"]


def test_a_slow_answer_does_not_count_as_a_clock_that_is_off() -> None:
    machine = Machine()
    machine.ahead_us = 1_500_000
    with capture_logs() as lines:
        machine.measure(trip_us=4_000_000)
    assert lines == []


def test_a_machine_that_is_off_by_more_than_a_minute_is_not_fit() -> None:
    machine = Machine()
    machine.said(59.0)
    machine.clock.check()
    machine.said(-61.5)
    with pytest.raises(Unavailable, match=r"61\.5 s behind that of Redis; more than a minute is not allowed"):
        machine.clock.check()
    machine.said(0.0)
    machine.clock.check()
