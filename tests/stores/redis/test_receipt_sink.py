"""Receipts are in Redis before anybody is told so, and whoever is not told so is told that they are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from engine.receipts.homes import likely_home
from engine.receipts.records import Receipt
from engine.redis_keys import receipts_key
from engine.stores.redis.link import RedisLink
from engine.stores.redis.receipt_sink import RedisReceiptSink
from tests.activity.world import in_database
from tests.receipts.world import receipt

SHARDS = 3
_decode = msgspec.msgpack.Decoder(list[Receipt]).decode


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(in_database(redis_url, 13), timeout_s=5, name="receipts")
    await link.call("FLUSHDB")
    yield link
    await link.call("FLUSHDB")
    await link.close()


async def entries(link: RedisLink) -> list[list[Receipt]]:
    streams = [await link.call("XRANGE", f"receipts:{{{shard}}}", "-", "+") for shard in range(SHARDS)]
    return [_decode(fields[1]) for stream in streams for _, fields in stream]


class Caller:
    """Puts receipts and hears, exactly once each, what became of them."""

    def __init__(self, sink: RedisReceiptSink) -> None:
        self._sink = sink
        self.replies: list[bool] = []
        self.put_now = False

    async def put(self, *receipts: Receipt) -> bool:
        reply: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def stored(kept: bool) -> None:
            assert not self.put_now, "told from inside put"
            self.replies.append(kept)
            # A second word would raise.
            reply.set_result(kept)

        self.put_now = True
        self._sink.put(receipts, stored)
        self.put_now = False
        async with asyncio.timeout(60):
            return await reply


async def test_receipts_that_come_together_are_one_entry_of_each_of_their_homes(link: RedisLink) -> None:
    sink = RedisReceiptSink(link, SHARDS)
    for first in range(0, 300, 100):
        callers = [Caller(sink) for _ in range(100)]
        replies = await asyncio.gather(*(c.put(receipt(first + n)) for n, c in enumerate(callers)))
        assert all(replies)
        assert all(c.replies == [True] for c in callers)
    assert sum(len(entry) for entry in await entries(link)) == 300
    assert await link.batch([("XLEN", f"receipts:{{{s}}}") for s in range(SHARDS)]) == [3, 3, 3]
    for entry in await entries(link):
        assert len({likely_home(r, "auto", SHARDS) for r in entry}) == 1
    assert {r.provider_message_id for e in await entries(link) for r in e} == {
        receipt(n).provider_message_id for n in range(300)
    }


async def test_many_receipts_do_not_wait_to_be_gathered(link: RedisLink) -> None:
    sink = RedisReceiptSink(link, SHARDS)
    assert all(await asyncio.gather(*(Caller(sink).put(receipt(n), receipt(n)) for n in range(1000))))
    sizes = [len(entry) for entry in await entries(link)]
    assert sum(sizes) == 2000
    assert len(sizes) == 4 * SHARDS
    assert await Caller(sink).put()


async def test_what_is_more_than_fits_is_refused_at_once_and_the_rest_is_kept(link: RedisLink) -> None:
    sink = RedisReceiptSink(link, SHARDS)
    many = [receipt(1)] * 1000
    replies = await asyncio.gather(*(Caller(sink).put(*many) for _ in range(25)))
    assert replies.count(True) == 20
    assert (sink.counts.kept, sink.counts.refused) == (20_000, 5_000)
    assert await Caller(sink).put(*many), "there is room again"


async def test_a_redis_that_is_away_or_full_keeps_nothing_and_the_carrier_hears_it(link: RedisLink) -> None:
    away = RedisLink("redis://127.0.0.1:1/0", timeout_s=0.5, name="away")
    assert not await Caller(RedisReceiptSink(away, SHARDS)).put(receipt(1))
    await away.close()
    home = likely_home(receipt(1), "auto", SHARDS)
    await link.call("SET", receipts_key(home), "not a stream")
    assert not await Caller(RedisReceiptSink(link, SHARDS)).put(receipt(1))
    await link.call("DEL", receipts_key(home))
    before = (await link.call("CONFIG", "GET", "maxmemory"))[1]
    await link.call("CONFIG", "SET", "maxmemory", 1)
    try:
        assert not await Caller(RedisReceiptSink(link, SHARDS)).put(receipt(1))
    finally:
        await link.call("CONFIG", "SET", "maxmemory", before)
    assert await entries(link) == []


async def test_a_close_puts_what_has_gathered_and_refuses_what_comes_after(link: RedisLink) -> None:
    sink = RedisReceiptSink(link, SHARDS)
    waiting = [asyncio.create_task(Caller(sink).put(receipt(n))) for n in range(10)]
    await asyncio.sleep(0)
    await sink.close()
    assert all(await asyncio.gather(*waiting))
    assert not await Caller(sink).put(receipt(11))
    assert sum(len(entry) for entry in await entries(link)) == 10
    await sink.close()
