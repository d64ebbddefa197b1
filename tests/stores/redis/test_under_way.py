"""A read that is under way has a beginning and an end."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import Any

from engine.stores.redis.under_way import ReadUnderWay


async def test_a_read_that_is_canceled_before_it_begins_leaves_nothing_that_nobody_awaits() -> None:
    asked: list[str] = []

    async def read() -> list[Any]:
        asked.append("read")
        return [b"found"]

    gc.collect()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        under_way = ReadUnderWay()
        under_way.begin((0,), read)
        under_way.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
    assert (asked, [str(warning.message) for warning in seen]) == ([], [])
    under_way.begin((0,), read)
    await asyncio.wait(under_way.tasks)
    assert under_way.take() == [b"found"]
