"""A node that is cut off from Redis: its clients get 503 at once, and what they were refused is not sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from engine.credit.group_commit import UNKNOWN_S
from engine.credit.quota import Quota
from engine.credit.redis_answers import SILENT_S
from engine.errors import Unavailable, Undecided
from engine.intake.ingest import Ingest
from engine.redis_keys import queue_key, wait_key
from engine.stores.redis.link import load_functions
from tests.adversity.proxy import Proxy
from tests.credit.test_credit import World, accepted, drafts, eventually, render, world
from tests.failover.servers import messages_on, until


async def queued(w: World) -> int:
    """How many messages wait in the queue, in its streams and in the lists behind them."""
    ready = [await messages_on(w.link, queue_key(s, "normal")) for s in range(4)]
    behind = await w.link.batch([("HGET", wait_key(s, "normal"), "messages") for s in range(4)])
    return sum(int(count or 0) for count in (*ready, *behind))


async def idle(quota: Quota) -> None:
    """Until nothing is on its way to Redis, not even a request for quota."""

    async def nothing() -> bool:
        return all(box.idle for box in quota._commits.outboxes)

    await until(nothing)


@asynccontextmanager
async def behind_a_proxy(
    streams_url: str, books_url: str
) -> AsyncIterator[tuple[Proxy, World, Ingest, Quota, int]]:
    """A holder whose way to Redis is the proxy's, and an organisation that had 1,000 units and sent 10."""
    async with Proxy.to(streams_url) as proxy, world(streams_url, books_url) as w:
        await load_functions(w.link)
        await w.ledger()
        ingest, quota = await w.holder("h1", await w.open_link(proxy.url(streams_url)))
        org = await w.organisation(1000)
        assert accepted(await ingest.submit(org, drafts(10), render=render)) == 10
        await idle(quota)
        yield proxy, w, ingest, quota, org


async def refused_in_s(submitting: asyncio.Task[object]) -> tuple[type[BaseException], float]:
    """(the error, seconds until it came)"""
    begun_s = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        await submitting
    return refused.type, time.monotonic() - begun_s


@pytest.mark.parametrize("cut", ["swallowed", "refused"])
async def test_clients_get_503_at_once_and_what_they_were_refused_is_not_sent_later(
    streams_url: str, books_url: str, cut: str
) -> None:
    async with behind_a_proxy(streams_url, books_url) as (proxy, w, ingest, quota, org):
        if cut == "swallowed":
            proxy.swallow()
        else:
            proxy.refuse()

        def submit() -> asyncio.Task[object]:
            return asyncio.create_task(ingest.submit(org, drafts(1), render=render))  # type: ignore[arg-type]

        sent = submit()

        async def under_way() -> bool:
            return any(box.under_way and box.under_way.submissions for box in quota._commits.outboxes)

        await until(under_way)
        # They wait behind the flush that is not answered, until Redis counts as away.
        waiting = [submit() for _ in range(12)]
        for task in waiting:
            kind, took_s = await refused_in_s(task)
            assert kind is Unavailable
            assert took_s < SILENT_S + 1
        kind, took_s = await refused_in_s(submit())
        assert kind is Unavailable
        assert took_s < 0.2
        # Of the flush that was sent nobody knows. Its client is told so, and does not wait for ever.
        kind, took_s = await refused_in_s(sent)
        assert kind is Undecided
        assert took_s < UNKNOWN_S + 1
        proxy.heal()
        proxy.admit()

        async def accepts() -> bool:
            try:
                return accepted(await ingest.submit(org, drafts(1), render=render)) == 1
            except Unavailable:
                return False

        await eventually(accepts)
        # Not one of the 13; and all their units can be spent.
        assert await queued(w) == 11
        assert accepted(await ingest.submit(org, drafts(1000), render=render)) == 989
        await w.clean()


async def test_what_arrived_before_the_cut_was_accepted_and_is_charged(
    streams_url: str, books_url: str
) -> None:
    async with behind_a_proxy(streams_url, books_url) as (proxy, w, ingest, quota, org):
        # The flush arrives, its answer does not.
        proxy.stall()
        with pytest.raises(Undecided):
            await ingest.submit(org, drafts(20), render=render)
        proxy.flow()
        await idle(quota)
        assert await queued(w) == 30
        assert accepted(await ingest.submit(org, drafts(1000), render=render)) == 970
        await w.clean()


async def test_a_client_that_gives_up_takes_its_submission_out_of_the_queue(
    streams_url: str, books_url: str
) -> None:
    async with behind_a_proxy(streams_url, books_url) as (proxy, w, ingest, quota, org):
        proxy.stall()
        first = asyncio.create_task(ingest.submit(org, drafts(1), render=render))

        async def under_way() -> bool:
            return any(box.under_way and box.under_way.submissions for box in quota._commits.outboxes)

        await until(under_way)
        second = asyncio.create_task(ingest.submit(org, drafts(5), render=render))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        proxy.flow()
        assert accepted(await first) == 1
        assert await queued(w) == 11
        assert accepted(await ingest.submit(org, drafts(1000), render=render)) == 989
