"""A ticker that has nothing to do rests, and goes on as soon as there is something."""

from __future__ import annotations

import math

import pytest

from engine.providers.ticker import Ticker
from tests.delivery.turns import VirtualTime


@pytest.mark.parametrize(("rest_s", "ticks_max"), [(math.inf, 2), (3.0, 4), (0.0, 101), (0.05, 101)])
def test_it_ticks_no_more_often_than_there_is_something_to_do(rest_s: float, ticks_max: int) -> None:
    with VirtualTime() as virtual:
        ticks: list[float] = []

        def tick() -> float:
            ticks.append(virtual.clock.now)
            return rest_s

        Ticker(0.1, tick).start()
        virtual.pass_s(10.0, turns_max=ticks_max / 10)
        assert ticks


def test_a_rest_ends_one_tick_after_it_is_stirred() -> None:
    with VirtualTime() as virtual:
        ticks: list[float] = []
        busy = False

        def tick() -> float:
            ticks.append(virtual.clock.now)
            return 0.0 if busy else math.inf

        ticker = Ticker(0.1, tick)
        ticker.start()
        virtual.pass_s(5.0)
        assert len(ticks) == 1
        busy = True
        ticker.stir()
        ticker.stir()
        virtual.pass_s(0.99)
        assert 8 <= len(ticks) <= 10
        ticker.stop()
        ticker.stir()
        virtual.pass_s(5.0, turns_max=0.2)
