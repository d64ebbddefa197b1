"""The sleep of one loop: it can be cut short, and it cannot be talked out of."""

from __future__ import annotations

import math

import pytest

from engine.delivery.alarm import TICK_S, Alarm
from tests.delivery.turns import VirtualTime


def test_a_ring_brings_the_waking_forward_and_never_puts_it_back() -> None:
    with VirtualTime() as virtual:
        alarm = Alarm(virtual.clock_s)
        for rung_s, woken_s in (((), 5.0), ((9.0,), 5.0), ((3.0, 4.0), 3.0), ((-math.inf,), 0.1)):
            began_s = virtual.clock.now
            sleeping = virtual.start(alarm.sleep_until(began_s + 5.0))
            virtual.pass_s(0.1)
            for at_s in rung_s:
                alarm.ring(began_s + at_s)
            virtual.pass_s(woken_s - 0.1 + 0.001)
            assert sleeping.done()
            assert virtual.clock.now - began_s == pytest.approx(woken_s, abs=0.01)


def test_without_a_time_it_sleeps_until_it_is_rung() -> None:
    with VirtualTime() as virtual:
        alarm = Alarm(virtual.clock_s)
        sleeping = virtual.start(alarm.sleep_until(math.inf))
        virtual.pass_s(1000.0, turns_max=1)
        assert not sleeping.done()
        alarm.ring()
        virtual.pass_s(0.001)
        assert sleeping.done()


def test_a_loop_that_rings_itself_and_asks_for_times_that_have_passed_turns_once_a_tick() -> None:
    with VirtualTime() as virtual:
        alarm = Alarm(virtual.clock_s)

        async def spin() -> None:
            while True:
                alarm.ring()
                await alarm.sleep_until(virtual.clock_s() - 1.0)

        virtual.start(spin())
        virtual.pass_s(10.0, turns_max=3 / TICK_S)
