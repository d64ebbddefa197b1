"""While the ledger cannot write the books, who needs units is refused at once, and nobody else notices."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
import pytest

from engine import redis_keys as keys
from engine.credit.ledger_records import BookedNote
from engine.credit.standstill import LOST_MS, NOTED_MS
from engine.errors import Unavailable
from engine.intake.ingest import Ingest
from engine.shards import shard_of
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.redis import admission
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.link import RedisLink
from engine.stores.redis.usage import RedisUsage
from engine.stream_id import StreamId
from tests.adversity.proxy import Proxy
from tests.credit.test_credit import SHARDS, World, accepted, drafts, eventually, render, world
from tests.credit.test_locked_accounts import two_organisations_apart
from tests.failover.test_locked_books import left_open

# The sentence of a refusal that came with the ledger's word. Another comes when the client's time is over.
KNOWN = "cannot be looked up now, so nothing of this request was accepted"


async def served(ingest: Ingest, organisation_id: int, count: int) -> bool:
    try:
        return accepted(await ingest.submit(organisation_id, drafts(count), render=render)) == count
    except Unavailable:
        return False


async def held(w: World, organisation_id: int) -> int:
    """The units of its messages in the queues."""
    shard = shard_of(organisation_id, SHARDS)
    return int(await w.link.call("HGET", keys.held_by_key(shard), organisation_id) or 0)


async def refuses(w: World, ingest: Ingest, organisation_id: int) -> None:
    """One client hears it from the ledger, ten more at once, and nothing of them is sent."""
    before = await held(w, organisation_id)
    with pytest.raises(Unavailable, match=KNOWN) as refused:
        await ingest.submit(organisation_id, drafts(7), render=render)
    assert refused.value.retry_after >= 1
    for _ in range(10):
        submitting = asyncio.create_task(ingest.submit(organisation_id, drafts(7), render=render))
        # It waits for nothing but its turns in the loop.
        for _ in range(5):
            await asyncio.sleep(0)
        assert submitting.done()
        with pytest.raises(Unavailable, match=KNOWN):
            await submitting
    assert await held(w, organisation_id) == before


async def test_a_customer_of_a_locked_account_is_refused_at_once_and_the_others_are_served(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        locked, other = await two_organisations_apart(w)
        async with left_open(books_url, f"SELECT FROM accounts WHERE organisation_id = {locked} FOR UPDATE"):
            refusing = asyncio.create_task(refuses(w, ingest, locked))
            while not refusing.done():
                fresh = await w.organisation(5)
                if shard_of(fresh, SHARDS) == shard_of(other, SHARDS):
                    assert await served(ingest, fresh, 5)
            await refusing
        await eventually(partial(served, ingest, locked, 3))
        assert await held(w, locked) == 3
        await eventually(partial(served, ingest, locked, 997))
        await w.clean()


@pytest.mark.parametrize("statement", ["LOCK TABLE journal", "SELECT FROM ledger_term FOR UPDATE"])
async def test_what_everybody_needs_is_locked_and_who_has_quota_is_served(
    streams_url: str, books_url: str, statement: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        rich, poor = await w.organisation(1000), await w.organisation(1000)
        assert await served(ingest, rich, 1)
        async with left_open(books_url, statement):
            await refuses(w, ingest, poor)
            assert await served(ingest, rich, 5)
        await eventually(partial(served, ingest, poor, 3))
        await w.clean()


@pytest.mark.parametrize("away", ["silent", "refusing"])
async def test_without_postgresql_who_needs_units_is_refused_at_once_and_who_has_quota_is_served(
    streams_url: str, books_url: str, away: str
) -> None:
    async with Proxy.to(books_url) as proxy, world(streams_url, books_url) as w:
        w.postgres_url = proxy.url(books_url)
        await w.ledger()
        ingest, _ = await w.holder("h1")
        rich, poor = await w.organisation(1000), await w.organisation(1000)
        assert await served(ingest, rich, 1)
        if away == "silent":
            proxy.stall()
        else:
            proxy.refuse()
        await refuses(w, ingest, poor)
        assert await served(ingest, rich, 5)
        proxy.flow()
        proxy.admit()
        await eventually(partial(served, ingest, poor, 3))
        w.postgres_url = books_url
        await w.clean()


async def test_the_word_of_a_ledger_that_lost_the_lead_does_not_count_nor_does_an_old_one(
    streams_url: str,
) -> None:
    link = RedisLink(streams_url, timeout_s=5, name="test")
    usage, holder = RedisUsage(link, link, SHARDS), RedisAdmission(link, link, SHARDS)
    note = BookedNote("g", StreamId(9, 0), 5, frozenset({"f"}))
    await usage.note_waits([0, 1], 5)
    # Nobody has led here.
    assert not any(await holder.standing())
    await usage.send([], {}, dict.fromkeys(range(SHARDS), note))
    await usage.note_waits([0, 1], 4)
    assert not any(await holder.standing())
    await usage.note_waits([0, 1], 5)
    assert await holder.standing() == ({0, 1}, frozenset())
    # Books that are written end it.
    await usage.send([], {}, {0: note})
    assert await holder.standing() == ({1}, frozenset())
    noted_ms = int(await link.call("HGET", keys.usage_head_key(1), "waits"))
    await link.call("HSET", keys.usage_head_key(1), "waits", noted_ms - NOTED_MS)
    assert not any(await holder.standing())
    # A ledger that leads says so; when it has not for long, nobody leads.
    await usage.note_lead(4)
    assert await link.call("HGET", keys.usage_head_key(1), "leads") is None
    await usage.note_lead(5)
    assert not any(await holder.standing())
    for shard in (0, 2):
        term, said = (await link.call("HGET", keys.usage_head_key(shard), "leads")).split()
        await link.call("HSET", keys.usage_head_key(shard), "leads", f"{int(term)} {int(said) - LOST_MS}")
    assert await holder.standing() == ({0, 2}, frozenset())
    # One of an older version has led since, and does not say so.
    await usage.send([], {}, {0: msgspec.structs.replace(note, term=6)})
    assert await holder.standing() == ({2}, frozenset())
    # Single accounts may be locked, although their shard goes on.
    await usage.note_unclosed({1: [7, 8], 3: [9]}, 5)
    assert await holder.standing() == ({2}, {7, 8, 9})
    await usage.note_unclosed({1: [8], 3: []}, 4)
    assert await holder.standing() == ({2}, {7, 8, 9})
    await usage.note_unclosed({1: [8], 3: []}, 5)
    assert await holder.standing() == ({2}, {8})
    noted_ms, *others = (await link.call("HGET", keys.usage_head_key(1), "unclosed")).decode().split()
    past = " ".join([str(int(noted_ms) - NOTED_MS), *others])
    await link.call("HSET", keys.usage_head_key(1), "unclosed", past)
    assert await holder.standing() == ({2}, frozenset())
    await link.close()


async def test_a_customer_whose_account_is_locked_when_its_shard_is_closed_is_refused_at_once(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        locked, other = await two_organisations_apart(w)
        while shard_of(other, SHARDS) != shard_of(locked, SHARDS):
            other = await w.organisation(1000)
        assert await served(ingest, locked, 1)
        async with left_open(books_url, f"SELECT FROM accounts WHERE organisation_id = {locked} FOR UPDATE"):
            # Redis has lost data of that shard alone: a close of another one would register the holder anew.
            await w.link.call("DEL", keys.generation_key(shard_of(locked, SHARDS)))
            await eventually(partial(served, ingest, other, 1))
            await refuses(w, ingest, locked)
            assert await served(ingest, other, 1)
        await eventually(partial(served, ingest, locked, 3))
        found = {c.name: c.verdict for c in (await w.audit()).checks if c.verdict != "clean"}
        assert found == {"activity": "not_checked"}


async def test_where_no_ledger_leads_who_needs_units_is_refused_at_once_and_who_has_quota_is_served(
    streams_url: str, books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    class Ending(PostgresLedger):
        async def resign(self) -> None:
            await super().resign()
            ended.set()

    async with world(streams_url, books_url) as w:
        draining = await w.ledger(store=Ending)
        ingest, _ = await w.holder("h1")
        rich, poor = await w.organisation(1000), await w.organisation(1000)
        assert await served(ingest, rich, 1)

        async def said() -> bool:
            return await w.link.call("HGET", keys.usage_head_key(0), "leads") is not None

        await eventually(said)
        ended.clear()
        draining.set()
        await ended.wait()
        with monkeypatch.context() as patched:
            patched.setattr(admission, "LOST_MS", 0)
            await refuses(w, ingest, poor)
            assert await served(ingest, rich, 5)
        await w.ledger()
        await eventually(partial(served, ingest, poor, 3))
        await w.clean()
