"""What was changed at the supervisor is recorded once, whoever finds it missing."""

from __future__ import annotations

import asyncio

from engine.boot.own_changes import SIGNAL, Recorder
from engine.changes import ChangeFilter
from engine.nodes.records import OwnChange, OwnNode
from engine.stores.postgres.changes import Changes
from engine.stores.postgres.pool import Pool

_EVER = 1 << 62


def own(since_us: int, *numbers: int) -> OwnNode:
    changes = [
        OwnChange(number=number, at_us=1_800_000_000_000_000 + number, action="reload", after={"n": number})
        for number in numbers
    ]
    return OwnNode(since_us=since_us, changes=changes)


async def test_each_change_is_recorded_once_also_by_one_who_takes_over(books_url: str) -> None:
    pool = await Pool.connect(books_url)
    try:
        changes = Changes(pool)
        recorder = Recorder("one", changes)
        await recorder.record(own(5, 1, 2))
        await recorder.record(own(5, 1, 2, 3))
        # Another process of the role, and both at once.
        others = [Recorder("one", changes) for _ in range(3)]
        await asyncio.gather(*(other.record(own(5, 2, 3, 4)) for other in others))
        # Another supervisor begins with 1 again, and so does another node.
        await recorder.record(own(6, 1))
        await Recorder("two", changes).record(own(6, 1))
        found = await changes.page(ChangeFilter(key=SIGNAL), _EVER, 100)
        told = [(change.address, change.request_id) for change in reversed(found)]
        expected = [("one", f"5-{number}") for number in (1, 2, 3, 4)] + [("one", "6-1"), ("two", "6-1")]
        assert told == expected
        assert {change.path for change in found} == {"/nodes/one", "/nodes/two"}
        assert found[-1].at.timestamp() == 1_800_000_000.000001
    finally:
        await pool.close()


async def test_what_cannot_be_recorded_now_is_recorded_later(books_url: str) -> None:
    pool = await Pool.connect(books_url)
    changes = Changes(pool)
    recorder = Recorder("one", changes)
    await pool.close()
    await recorder.record(own(5, 1))
    again = await Pool.connect(books_url)
    try:
        recorder._changes = Changes(again)
        await recorder.record(own(5, 1))
        assert len(await Changes(again).page(ChangeFilter(key=SIGNAL), _EVER, 100)) == 1
    finally:
        await again.close()
