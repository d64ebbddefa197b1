"""Anybody may ask for the readiness: it costs the stores one look a second, however many ask."""

from __future__ import annotations

import asyncio

import pytest

from engine.api import readiness
from engine.api.readiness import Readiness
from engine.errors import Unavailable


class Part:
    """A part that counts who looks at it, and answers when it may."""

    def __init__(self) -> None:
        self.looks = 0
        self.may = asyncio.Event()
        self.may.set()
        self.seen = asyncio.Event()
        self.away = False

    async def probe(self) -> None:
        self.looks += 1
        self.seen.set()
        await self.may.wait()
        if self.away:
            raise Unavailable("PostgreSQL is away.")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_of_many_that_ask_at_once_one_look_is_made_and_its_answer_is_good_for_a_second() -> None:
    part, clock = Part(), Clock()
    looks = Readiness({"postgres": part.probe}, clock)
    part.may.clear()
    asking = [asyncio.create_task(looks.parts()) for _ in range(200)]
    await part.seen.wait()
    part.may.set()
    assert await asyncio.gather(*asking) == [{"postgres": "ok"}] * 200
    clock.now_s += 0.9
    assert await looks.parts() == {"postgres": "ok"}
    assert part.looks == 1
    part.away = True
    clock.now_s += 0.2
    assert await looks.parts() == {"postgres": "PostgreSQL is away."}
    assert part.looks == 2


async def test_who_gives_up_waiting_takes_the_answer_from_nobody() -> None:
    part = Part()
    looks = Readiness({"postgres": part.probe}, Clock())
    part.may.clear()
    impatient, patient = (asyncio.create_task(looks.parts()) for _ in range(2))
    await part.seen.wait()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    part.may.set()
    assert await patient == {"postgres": "ok"}
    assert part.looks == 1


async def test_a_part_that_hangs_is_away_within_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_ANSWER_S", 0.05)
    hangs, answers = Part(), Part()
    hangs.may.clear()
    looking = Readiness({"redis": answers.probe, "postgres": hangs.probe}, Clock())
    assert await looking.parts() == {"redis": "ok", "postgres": "no answer within 0.05 s"}
