"""How a process at rest waits: what is periodic wakes it together."""

from __future__ import annotations

import asyncio

from engine.clocks.waits import happens, next_tick, until_tick_ms
from tests.delivery.turns import VirtualTime


def test_what_is_periodic_wakes_a_process_at_the_same_instants() -> None:
    with VirtualTime() as virtual:
        instants: list[float] = []

        async def look(begins_s: float, period_s: float) -> None:
            await asyncio.sleep(begins_s)
            while True:
                await next_tick(period_s)
                instants.append(round(virtual.clock.now, 3))

        for begins_s, period_s in ((0.0, 1.0), (0.1, 1.0), (0.3, 0.5), (0.45, 0.5), (0.7, 0.25)):
            virtual.start(look(begins_s, period_s))
        virtual.pass_s(2.0)
        instants.clear()
        virtual.pass_s(10.0, turns_max=21)
        assert len(instants) > 90
        assert len(set(instants)) == 40


def test_a_read_that_waits_in_redis_ends_just_before_what_is_periodic_comes() -> None:
    with VirtualTime() as virtual:
        ends: list[float] = []

        async def read() -> None:
            while True:
                await asyncio.sleep(until_tick_ms(0.5) / 1000)
                ends.append(virtual.clock.now)

        for begins_s in (0.05, 0.13, 0.38):
            virtual.start(read())
            virtual.pass_s(begins_s)
        virtual.pass_s(10.0)
        assert len(ends) > 50
        assert all(0 < -end_s % 0.5 < 0.01 for end_s in ends)


def test_a_timer_that_rings_a_little_early_does_not_make_two_of_one_tick() -> None:
    with VirtualTime() as virtual:
        virtual.pass_s(1.0 - virtual.clock.now % 1.0 - 0.001)
        ticking = virtual.start(next_tick(1.0))
        virtual.pass_s(0.9)
        assert not ticking.done()
        virtual.pass_s(0.2)
        assert ticking.done()


def test_whether_something_happens_in_time_is_told_at_once_or_when_the_time_is_over() -> None:
    with VirtualTime() as virtual:
        event = asyncio.Event()
        late, early = (virtual.start(happens(event, within_s)) for within_s in (5.0, 0.5))
        virtual.pass_s(1.0)
        assert not early.result()
        assert not late.done()
        event.set()
        virtual.pass_s(0.001)
        assert late.result()
