"""One timer for many things: each ends in its time, unless it has stopped."""

from __future__ import annotations

import asyncio

from engine.clocks.expiry import Expiry


async def ended(after_s: float, *, count: int) -> tuple[Expiry[str], list[str], asyncio.Event]:
    names: list[str] = []
    all_ended = asyncio.Event()

    def end(name: str) -> None:
        names.append(name)
        if len(names) == count:
            all_ended.set()

    return Expiry(after_s, end), names, all_ended


async def test_things_end_in_the_order_in_which_they_began() -> None:
    expiry, names, all_ended = await ended(0.01, count=4)
    for name in "abc":
        expiry.begin(name)
    async with asyncio.timeout(60):
        await asyncio.sleep(0)
        expiry.begin("d")
        await all_ended.wait()
    assert names == ["a", "b", "c", "d"]


async def test_what_has_stopped_does_not_end_and_may_begin_again() -> None:
    expiry, names, all_ended = await ended(0.01, count=2)
    for name in "abc":
        expiry.begin(name)
    assert expiry.stop("a")
    assert expiry.stop("b")
    assert not expiry.stop("b")
    expiry.begin("b")
    async with asyncio.timeout(60):
        await all_ended.wait()
    assert names == ["c", "b"]
    assert not expiry.stop("c")


async def test_what_began_earlier_ends_earlier() -> None:
    expiry, names, all_ended = await ended(300.0, count=1)
    expiry.begin("now")
    expiry.begin("long ago", ago_s=299.99)
    async with asyncio.timeout(60):
        await all_ended.wait()
    assert names == ["long ago"]
    assert expiry.stop("now")


async def test_the_end_of_one_may_stop_another() -> None:
    names: list[str] = []
    done = asyncio.Event()

    def end(name: str) -> None:
        names.append(name)
        expiry.stop("b")
        if name == "c":
            done.set()

    expiry: Expiry[str] = Expiry(0.01, end)
    for name in "abc":
        expiry.begin(name)
    async with asyncio.timeout(60):
        await done.wait()
    assert names == ["a", "c"]
