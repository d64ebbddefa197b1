"""An organisation that falls below its threshold is told once: real PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import asyncpg
import msgspec
import pytest

from engine import redis_keys, shards
from engine.credit.ledger import Ledger
from engine.credit.ledger_records import BalanceEvent
from engine.credit.retention import Retention
from engine.errors import Refusal, Unavailable
from engine.intake.ingest import Ingest
from engine.records import ActivityRow
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.redis.usage import RedisUsage
from tests.credit.test_credit import SHARDS, World, accepted, drafts, eventually, render, world

_decode = msgspec.msgpack.Decoder(list[ActivityRow]).decode


async def events_of(w: World, organisation_id: int) -> list[ActivityRow]:
    """Its low-balance events on the activity stream."""
    key = redis_keys.activity_key(shards.shard_of(organisation_id, SHARDS))
    entries = await w.link.call("XRANGE", key, "-", "+")
    rows = [row for _, fields in entries for row in _decode(fields[1])]
    return [r for r in rows if r.event == "low_balance" and r.organisation_id == organisation_id]


async def send(ingest: Ingest, organisation_id: int, count: int) -> None:
    """Send so many. While no ledger leads nothing is accepted, and a client is asked to send it again."""
    while True:
        try:
            made = await ingest.submit(organisation_id, drafts(count), render=render)
        except Unavailable:
            continue
        assert accepted(made) == count
        return


async def booked(w: World, organisation_id: int, available: int) -> None:
    """Until the books have come so far."""

    async def so() -> bool:
        return (await w.directory.balance(organisation_id)).available == available

    await eventually(so)


async def unsent(w: World) -> int:
    connection = await asyncpg.connect(w.postgres_url)
    count: int = await connection.fetchval("SELECT count(*) FROM balance_events")
    await connection.close()
    return count


async def test_falling_below_is_told_once_and_again_after_a_top_up(streams_url: str, books_url: str) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org, other = await w.organisation(1000), await w.organisation(1000)
        await w.directory.set_low_balance(org, 900)
        for available, events in ((950, 0), (900, 0), (850, 1), (800, 1)):
            await send(ingest, org, 50)
            await send(ingest, other, 50)
            await booked(w, org, available)

            async def as_many(events: int = events) -> bool:
                return len(await events_of(w, org)) == events

            await eventually(as_many)
        await w.directory.top_up(org, 100, "up to the threshold")
        await send(ingest, org, 1)

        async def twice() -> bool:
            return len(await events_of(w, org)) == 2

        await eventually(twice)
        first, second = await events_of(w, org)
        assert (first.units, second.units) == (850, 899)
        assert (first.message_id, first.to, first.segments) == ("", "", 0)
        assert abs(first.at_us - time.time_ns() // 1000) < 60_000_000
        assert first.at_us < second.at_us
        assert await events_of(w, other) == []

        async def forgotten() -> bool:
            return await unsent(w) == 0

        await eventually(forgotten)
        await w.clean()


async def test_without_a_threshold_nothing_is_told_and_one_set_too_late_waits(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        draining = await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(100)
        await send(ingest, org, 60)
        await booked(w, org, 40)
        # It is below already: told when it falls below the next time.
        await w.directory.set_low_balance(org, 50)
        await send(ingest, org, 10)
        await booked(w, org, 30)
        await w.directory.set_low_balance(org, None)
        await w.directory.top_up(org, 100, "up")
        await send(ingest, org, 120)
        await booked(w, org, 10)
        draining.set()
        await eventually(lambda: _drained(w))
        assert await events_of(w, org) == []


async def _drained(w: World) -> bool:
    """Whether nobody leads: what a ledger leaves behind is written by then."""
    connection = await asyncpg.connect(w.postgres_url)
    try:
        return not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')"
        )
    finally:
        await connection.close()


class Trouble(RedisUsage):
    """Redis that fails while events are announced: `before` they are there, or after."""

    before = True
    troubles = 3

    async def announce(self, events: Sequence[BalanceEvent]) -> None:
        if self.before and self.troubles:
            self.troubles -= 1
            raise Unavailable("Redis is away.")
        await super().announce(events)
        if self.troubles:
            self.troubles -= 1
            raise Unavailable("The answer is lost.")


@pytest.mark.parametrize("before", [True, False])
async def test_a_ledger_that_ends_between_commit_and_sending_neither_loses_nor_doubles(
    streams_url: str, books_url: str, before: bool
) -> None:
    async with world(streams_url, books_url) as w:
        usage = Trouble(await w.open_link(), await w.open_link(), SHARDS)
        usage.before = before
        draining, ready = asyncio.Event(), asyncio.Event()
        ledger = Ledger(
            PostgresLedger(books_url, timeout_s=5), usage, shards=SHARDS,
            fresh_generation=lambda: f"g{random.getrandbits(64)}", overdue_s=15.0,
            clock_s=time.monotonic, gather_s=0.05, retention=Retention(0.0, 1000),
        )  # fmt: skip
        running = asyncio.create_task(ledger.run(draining, ready.set))
        await ready.wait()
        ingest, _ = await w.holder("h1")
        organisations = [await w.organisation(100) for _ in range(6)]
        for org in organisations:
            await w.directory.set_low_balance(org, 100)
            await send(ingest, org, 1)

        async def all_told() -> bool:
            found = [await events_of(w, org) for org in organisations]
            return not usage.troubles and all(found) and await unsent(w) == 0

        await eventually(all_told)
        for org in organisations:
            assert [row.units for row in await events_of(w, org)] == [99]
        draining.set()
        await running


async def test_a_drained_ledger_leaves_no_event_behind(streams_url: str, books_url: str) -> None:
    async with world(streams_url, books_url) as w:
        draining = await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(100)
        await w.directory.set_low_balance(org, 100)
        await send(ingest, org, 1)
        draining.set()
        await eventually(lambda: _drained(w))
        assert [row.units for row in await events_of(w, org)] == [99]


async def test_a_ledger_that_wakes_late_puts_nothing_on_the_stream_again(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        usage = RedisUsage(w.link, w.link, SHARDS)
        events = [
            BalanceEvent(row_id=i, shard=i % 2, organisation_id=i, event="low_balance", units=i, at_us=i)
            for i in range(1, 9)
        ]
        await usage.announce(events)
        await usage.announce(events[2:5])
        await usage.announce([*events, msgspec.structs.replace(events[0], row_id=10**15)])
        entries = [
            await w.link.call("XRANGE", redis_keys.activity_key(shard), "-", "+") for shard in range(SHARDS)
        ]
        rows = [row for stream in entries for _, fields in stream for row in _decode(fields[1])]
        assert sorted(row.units for row in rows) == [1, 1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_threshold_has_its_bounds(streams_url: str, books_url: str) -> None:
    async with world(streams_url, books_url) as w:
        org = await w.organisation(0)
        for units in (0, -1, 4_000_000_001, 2**70):
            with pytest.raises(Refusal) as refused:
                await w.directory.set_low_balance(org, units)
            assert (refused.value.status, refused.value.field) == (422, "low_balance")
        with pytest.raises(Refusal) as refused:
            await w.directory.set_low_balance(org + 1, 5)
        assert refused.value.status == 404
        assert (await w.directory.set_low_balance(org, 4_000_000_000)).low_balance == 4_000_000_000
        [listed] = [o for o in await w.directory.organisations(0, 100) if o.id == org]
        assert listed.low_balance == 4_000_000_000
