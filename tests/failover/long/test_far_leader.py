"""A leader far from PostgreSQL: everybody waits for its round trips, so they are few."""

from __future__ import annotations

import asyncio

from engine.credit.ledger_records import LostSpan, StreamMark
from engine.credit.posting import close_books
from engine.stores.postgres.ledger import PostgresLedger
from engine.stream_id import STREAM_START
from tests.adversity.proxy import Proxy
from tests.credit.test_credit import accepted, drafts, render, world
from tests.credit.test_locked_accounts import Books, books

__all__ = ["books"]

# The step under way and those that follow are two each. Once a second comes one for events.
ROUND_TRIPS_MAX = 7


async def test_a_customer_waits_for_few_round_trips(streams_url: str, books_url: str) -> None:
    """At 50 ms each that is 350 ms at the worst."""
    async with Proxy.to(books_url) as proxy, world(streams_url, books_url) as w:
        organisations = [await w.organisation(100) for _ in range(60)]
        w.postgres_url = proxy.url(books_url)
        proxy.delay_s = 0.05
        await w.ledger()
        ingest, _ = await w.holder("h1")
        # The ledger leads now.
        assert accepted(await ingest.submit(await w.organisation(100), drafts(1), render=render)) == 1

        async def client(mine: list[int]) -> list[int]:
            waited = []
            for organisation_id in mine:
                before = proxy.answered
                assert accepted(await ingest.submit(organisation_id, drafts(5), render=render)) == 5
                waited.append(proxy.answered - before)
            return waited

        waited = await asyncio.gather(*[client(organisations[n::6]) for n in range(6)])
        assert max(map(max, waited)) <= ROUND_TRIPS_MAX, waited
        proxy.delay_s = 0.0


async def test_a_ledger_that_closes_a_large_shard_keeps_the_lead(books: Books, books_url: str) -> None:
    """It speaks while it decides for much longer than it may be silent."""
    await books.organisation(1, 100)
    await books.store.resign()
    store = PostgresLedger(books_url, timeout_s=5, silence_s=0.5)
    async with asyncio.timeout(5):
        while not await store.lead():  # noqa: ASYNC110 - the server drops the first one's lock
            await asyncio.sleep(0.01)
    await store.recover()
    loop = asyncio.get_running_loop()

    def slow(closing: object) -> None:
        """Decide only after the session would have ended three times."""
        begun_s = store._spoke_s

        async def spoke() -> None:
            while store._spoke_s < begun_s + 1.5:  # noqa: ASYNC110 - the ledger does not tell
                await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(spoke(), loop).result(10)
        close_books(closing, 1, {})  # type: ignore[arg-type]

    span = LostSpan(1, "redis", "a trial", STREAM_START)
    await store.close_shard("new", StreamMark(), slow, span)
    assert await books.beside.fetchval("SELECT generation FROM shards WHERE shard = 1") == "new"
    assert await books.beside.fetchval("SELECT available FROM accounts") == 100
    await store.resign()


async def test_a_leader_that_has_nothing_to_do_keeps_the_lead(books_url: str) -> None:
    silence_s = 0.3
    leader, standby = (PostgresLedger(books_url, timeout_s=5, silence_s=silence_s) for _ in range(2))
    assert await leader.lead()
    begun_s = leader._spoke_s
    while leader._spoke_s < begun_s + 4 * silence_s:
        assert not await standby.lead()
        await asyncio.sleep(0.01)
    assert await leader.lead()
    await leader.resign()
    await standby.resign()
