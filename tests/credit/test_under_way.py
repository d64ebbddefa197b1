"""A submission ends by a callback: its client is told once, or not at all when it has given up."""

from __future__ import annotations

import asyncio
from typing import Any

from engine.intake.under_way import Submitted
from tests.credit.test_credit import accepted, drafts, eventually, render, world


async def test_a_fault_of_one_client_keeps_nothing_from_the_others(streams_url: str, books_url: str) -> None:
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    try:
        async with world(streams_url, books_url) as w, asyncio.timeout(60):
            await w.ledger()
            ingest, _ = await w.holder("h1")
            org = await w.organisation(100)
            assert accepted(await ingest.submit(org, drafts(1), render=render)) == 1
            answer: asyncio.Future[Submitted | Exception] = loop.create_future()
            ingest.begin(org, drafts(1), lambda outcome: 1 / 0, render=render)  # type: ignore[arg-type, return-value]
            ingest.begin(org, drafts(2), answer.set_result, render=render)
            submitted = await answer
            assert isinstance(submitted, Submitted)
            assert accepted(submitted) == 2
            await w.clean()
    finally:
        loop.set_exception_handler(None)
    assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError]


async def test_what_was_given_up_in_time_is_not_admitted_and_nobody_is_told(
    streams_url: str, books_url: str
) -> None:
    told: list[object] = []
    async with world(streams_url, books_url) as w, asyncio.timeout(60):
        await w.ledger()
        ingest, quota = await w.holder("h1")
        org = await w.organisation(100)
        # Waits for credit.
        ingest.begin(org, drafts(1), told.append, render=render).give_up()
        assert accepted(await ingest.submit(org, drafts(1), render=render)) == 1
        left = quota.credit.remaining(org)
        # Waits for its flush.
        given_up = ingest.begin(org, drafts(3), told.append, render=render)
        assert quota.credit.remaining(org) == left - 3
        given_up.give_up()
        assert quota.credit.remaining(org) == left
        assert accepted(await ingest.submit(org, drafts(2), render=render)) == 2

        async def posted() -> bool:
            return (await w.directory.balance(org)).held == 3

        await eventually(posted)
        await w.clean()
    assert told == []
