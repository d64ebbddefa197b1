"""What the log says of shards that wait: when it begins and when it is over, however often they wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.credit import standstill
from engine.credit.standstill import Standstill

BEGINS = "organisations without quota are refused for now"
ENDS = "no organisation is refused for want of quota any more"


class Notes:
    """Takes what is noted in Redis, and counts the notes of shards that wait."""

    def __init__(self) -> None:
        self.waits = asyncio.Semaphore(0)

    async def note_waits(self, shards: Collection[int], term: int) -> None:
        if shards:
            self.waits.release()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"LATE_S": 0.02, "_LOOK_S": 0.01, "CALM_S": 0.5}.items():
        monkeypatch.setattr(standstill, name, seconds)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - a log has no signal
            await asyncio.sleep(0.005)


def events(lines: list[Any]) -> list[str]:
    return [line["event"] for line in lines]


@pytest.mark.usefixtures("short")
async def test_shards_that_wait_again_and_again_are_said_once_and_that_they_go_on_is_said() -> None:
    notes = Notes()
    ledger = Standstill(notes, time.monotonic)  # type: ignore[arg-type]
    with capture_logs() as lines:
        running = asyncio.create_task(ledger.run())
        ledger.leads(1, range(2))
        for _ in range(5):
            async with asyncio.timeout(60):
                await notes.waits.acquire()
            ledger.moves(())
        assert events(lines) == [BEGINS]

        def goes_on() -> bool:
            ledger.moves(())
            return len(lines) > 1

        await until(goes_on)
        assert events(lines) == [BEGINS, ENDS]
        assert lines[1]["lasted_s"] >= 0
        # What begins anew is said anew.
        await until(lambda: len(lines) > 2)
        assert events(lines) == [BEGINS, ENDS, BEGINS]
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.usefixtures("short")
async def test_a_ledger_that_leaves_the_lead_says_nothing_of_what_the_next_one_does() -> None:
    notes = Notes()
    ledger = Standstill(notes, time.monotonic)  # type: ignore[arg-type]
    with capture_logs() as lines:
        running = asyncio.create_task(ledger.run())
        ledger.leads(1, range(2))
        async with asyncio.timeout(60):
            await notes.waits.acquire()
        ledger.ends()
        await asyncio.sleep(2 * standstill.CALM_S)
        assert events(lines) == [BEGINS]
        running.cancel()
        await asyncio.wait([running])
