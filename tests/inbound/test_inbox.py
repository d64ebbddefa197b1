"""What recipients write, from a provider to its organisation: real Redis, PostgreSQL and ClickHouse."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import clickhouse_connect
import msgspec
import pytest

from engine import redis_keys as keys
from engine.errors import Refusal, Unavailable
from engine.inbound.inbox import Inbox
from engine.inbound.records import InboundMessage, InboundRoute
from engine.inbound.settings import DEFAULTS
from engine.inbound.whole import whole_message
from engine.inbound.words import WordList
from engine.stores.clickhouse.inbound import ClickHouseInbound
from engine.stores.migrate import migrate_clickhouse
from engine.stores.postgres.auto_replies import AutoReplyBook
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.inbound_routes import InboundRouteBook
from engine.stores.postgres.opt_outs import OptOutBook
from engine.stores.redis.auto_replies import RedisReplyQueue
from engine.stores.redis.inbound_sink import RedisInboundSink
from engine.stores.redis.inbound_stream import RedisInboundEvents, RedisInboundStream
from engine.stores.redis.link import RedisLink
from tests.api.world import until

TO, OTHER = "+4915112345678", "+4915112345679"
NOW_US = 1_796_000_000_000_000
NEWEST = (1 << 52, "")
_numbers = itertools.count(1)


class World(NamedTuple):
    link: RedisLink
    sink: RedisInboundSink
    routes: InboundRouteBook
    opt_outs: OptOutBook
    store: ClickHouseInbound
    inbox: Inbox
    directory: Directory

    async def write(self, text: str, sender: str = TO, to: str = "12345", given_id: str = "") -> bool:
        """Have a provider bring a message; whether it is told that it is kept."""
        part = whole_message("acme", sender, to, text, given_id or f"id {next(_numbers)}", NOW_US)
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.sink.put([part], kept.set_result)
        return await kept

    async def of(self, organisation_id: int) -> list[InboundMessage]:
        return await self.store.page(organisation_id, NEWEST, 100)


@pytest.fixture(scope="module")
async def clickhouse(clickhouse_url: str) -> str:
    base = clickhouse_url.rpartition("/")[0] if clickhouse_url.count("/") > 2 else clickhouse_url
    client = await clickhouse_connect.get_async_client(dsn=clickhouse_url)
    await client.command("CREATE DATABASE IF NOT EXISTS inbound_tests")
    await client.close()
    url = f"{base}/inbound_tests"
    await migrate_clickhouse(url)
    return url


@pytest.fixture
async def world(streams_url: str, books_url: str, clickhouse: str) -> AsyncIterator[World]:
    link = RedisLink(streams_url, timeout_s=5, name="inbound")
    await link.start()
    directory = await Directory.connect(books_url, shards=16)
    store = ClickHouseInbound(clickhouse)
    routes, opt_outs = InboundRouteBook(directory.pool), OptOutBook(directory.pool)
    inbox = Inbox(
        RedisInboundStream(link), routes, opt_outs, store, RedisInboundEvents(link, lambda o: o % 16),
        WordList(DEFAULTS), AutoReplyBook(directory.pool), RedisReplyQueue(link), "one",
        part_wait_s=60, now_us=lambda: NOW_US, look_s=0.01,
    )  # fmt: skip
    yield World(link, RedisInboundSink(link, lambda: NOW_US), routes, opt_outs, store, inbox, directory)
    await store.close()
    await directory.close()
    await link.close()


async def organisation(w: World, number: str = "12345", keyword: str = "") -> int:
    """A new organisation with a route. Its id is one that no test before has stored anything of."""
    async with w.directory.pool.connection() as connection:
        await connection.execute("SELECT setval('organisations_id_seq', $1)", 1000 + 100 * next(_numbers))
    made = (await w.directory.create_organisation("one")).id
    await w.routes.put(InboundRoute(number=number, keyword=keyword, organisation_id=made))
    return made


async def test_a_message_is_kept_once_stored_told_and_removed(world: World) -> None:
    one = await organisation(world)
    assert await world.write("hello", given_id="7")
    assert await world.write("hello", given_id="7"), "a provider that sends it again is answered"
    assert await world.link.call("XLEN", keys.INBOUND) == 1
    await world.inbox.round()
    [message] = await world.of(one)
    assert (message.text, message.sender, message.recipient, message.action) == ("hello", TO, "12345", "")
    assert await world.link.call("XLEN", keys.INBOUND) == 0
    [entry] = await world.link.call("XRANGE", keys.webhook_events_key(one % 16), "-", "+")
    [[event_id, of, kind, at_us, data, *_]] = msgspec.msgpack.decode(entry[1][1])
    assert (event_id, of, kind, at_us) == (message.id, one, "message.received", NOW_US)
    assert msgspec.json.decode(data)["from"] == TO
    # Again by the same provider, after it was stored.
    assert await world.write("hello", given_id="7")
    assert await world.link.call("XLEN", keys.INBOUND) == 0
    assert await world.write("hello", given_id="8")
    await world.inbox.round()
    assert [m.text for m in await world.of(one)] == ["hello"] * 2
    assert world.inbox.counts.stored == 2


async def test_stop_opts_out_and_start_in_again_by_number_and_keyword(world: World) -> None:
    one = await organisation(world)
    pizza = await organisation(world, keyword="Pizza")
    for number, text in ((TO, "Stop"), (OTHER, "please stop calling"), ("4915112345670", "STOP PIZZA")):
        await world.write(text, number)
    await world.inbox.round()
    assert [o.number for o in await world.opt_outs.listed(one, 0, 10)] == [TO]
    [opted] = await world.opt_outs.listed(pizza, 0, 10)
    assert (opted.number, opted.source) == ("+4915112345670", "inbound")
    assert [(m.text, m.action) for m in await world.of(pizza)] == [("STOP PIZZA", "stop")]
    # The last word of a sender counts, and who has no number that could be sent to is in no list.
    for number, text in ((TO, "STOP"), (TO, "start"), ("ACME", "stop")):
        await world.write(text, number)
    await world.inbox.round()
    assert await world.opt_outs.listed(one, 0, 10) == []
    assert (world.inbox.counts.stopped, world.inbox.counts.started) == (2, 1)


async def test_stop_to_a_shared_number_is_for_all_who_share_it_and_a_message_of_nobody_is_kept_for_operators(
    world: World,
) -> None:
    a, b = await organisation(world, "777", "A"), await organisation(world, "777", "B")
    before = len(await world.of(0))
    await world.write("stop", to="777")
    await world.write("hello", to="31337")
    await world.inbox.round()
    for one in (a, b):
        assert [o.number for o in await world.opt_outs.listed(one, 0, 10)] == [TO]
    assert len(await world.of(0)) == before + 2
    assert world.inbox.counts.unrouted == 2


async def test_what_was_not_removed_is_done_again_and_is_there_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await organisation(world)
    await world.write("STOP")
    remove = RedisInboundStream.remove

    async def lost(self: RedisInboundStream, stream_ids: Sequence[object]) -> None:
        raise Unavailable("Killed here.")

    monkeypatch.setattr(RedisInboundStream, "remove", lost)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await world.inbox.round()
    monkeypatch.setattr(RedisInboundStream, "remove", remove)
    await world.inbox.round()
    assert [m.action for m in await world.of(one)] == ["stop"]
    assert world.inbox.counts.stopped == 1


async def test_stop_is_heeded_while_clickhouse_is_away_and_the_message_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await organisation(world)
    await world.write("STOP")
    away = ClickHouseInbound("http://127.0.0.1:9")
    monkeypatch.setattr(world.inbox, "_store", away)
    with pytest.raises(Unavailable):
        await world.inbox.round()
    assert [o.number for o in await world.opt_outs.listed(one, 0, 10)] == [TO]
    monkeypatch.setattr(world.inbox, "_store", world.store)
    await world.inbox.round()
    assert [m.text for m in await world.of(one)] == ["STOP"]


async def test_an_entry_that_nobody_can_read_is_set_aside_and_holds_up_no_other(world: World) -> None:
    one = await organisation(world)
    await world.link.call("XADD", keys.INBOUND, "*", "b", b"\xc1")
    await world.write("hello")
    draining = asyncio.Event()
    running = asyncio.create_task(world.inbox.run(draining))
    await until(lambda: world.inbox.counts.stored == 1, 20)
    draining.set()
    await running
    assert [m.text for m in await world.of(one)] == ["hello"]
    assert await world.link.call("XLEN", keys.INBOUND_UNREADABLE) == 1


async def test_a_provider_is_told_to_send_again_when_redis_is_away() -> None:
    nowhere = RedisLink("redis://127.0.0.1:1", timeout_s=0.2, name="none")
    sink = RedisInboundSink(nowhere, lambda: NOW_US)
    kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    sink.put([whole_message("acme", TO, "1", "x", "", NOW_US)], kept.set_result)
    assert await kept is False
    await sink.close()
    later: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    sink.put([whole_message("acme", TO, "1", "x", "", NOW_US)], later.set_result)
    assert (await later, sink.counts.kept, sink.counts.refused) == (False, 0, 2)
    await nowhere.close()


@pytest.mark.parametrize(
    ("number", "keyword", "field"),
    [("", "", "number"), ("1", "", "number"), ("ACME", "", "number"), ("12345", "two words", "keyword"),
     ("12345", "?", "keyword"), ("12345", "x" * 41, "keyword")],
)  # fmt: skip
async def test_what_is_no_route_is_refused(books_url: str, number: str, keyword: str, field: str) -> None:
    directory = await Directory.connect(books_url, shards=16)
    book = InboundRouteBook(directory.pool)
    with pytest.raises(Refusal) as refused:
        await book.put(InboundRoute(number=number, keyword=keyword, organisation_id=1))
    assert refused.value.field == field
    await directory.close()
