"""A Redis at its limit of memory: nothing new comes in, all else goes on, and it heals by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import pytest
import structlog

from engine import redis_keys as keys
from engine.config import Config, Redis, Store
from engine.delivery.settlement import RetryPauses, after_verdict
from engine.errors import ConfigError, Full
from engine.records import Entry, Verdict
from engine.routing.ports import SlotRequest
from engine.shards import shard_of
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.memory import memory_of
from engine.stores.redis.queue import QueueStreams
from engine.stores.redis.throughput import RedisSlots
from engine.stores.redis.wire import OutOfMemory
from supervisor.cli.checks import _NotOk, _redis
from supervisor.embedded.servers import Server, start_redis
from supervisor.prepare import _migrate
from tests.credit.test_credit import SHARDS, World, accepted, drafts, eventually, now_us, render, world

PAUSES = RetryPauses(first_us=1000, max_us=1000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = start_redis(tmp_path)
    yield server
    server.stop(10)


@pytest.fixture
async def full(server: Server, books_url: str) -> AsyncIterator[World]:
    """A world on a Redis of its own, whose memory a test may limit."""
    link = RedisLink(server.url, timeout_s=5, name="test")
    await load_functions(link)
    await link.close()
    async with world(server.url, books_url) as w:
        yield w


async def limit(w: World, share: float) -> None:
    """Set the limit so that this share of it is used; 0: no limit."""
    used = memory_of(await w.link.call("INFO", "memory")).used_bytes
    await w.link.call("CONFIG", "SET", "maxmemory", int(used / share) if share else 0)


async def worker(w: World, name: str, *, accepted_on: int = 1) -> QueueStreams:
    reader = QueueStreams(
        await w.open_link(),
        await w.open_link(),
        queue="normal",
        shards=SHARDS,
        worker_name=name,
        timeout_s=5.0,
        log=structlog.get_logger(),
        accepted_on=accepted_on,
    )
    await reader.join()
    return reader


async def send_all(reader: QueueStreams, count: int) -> int:
    """Read and settle until `count` have been; how many of the settlements counted."""
    counted = 0
    verdict = Verdict(kind="accepted", provider="p", provider_message_id="x", code="0", latency_us=5)
    async with asyncio.timeout(60):
        while counted < count:
            entries: list[Entry] = await reader.read(50, 50)
            settlements = [after_verdict(e, verdict, now_us(), PAUSES, Random(1)) for e in entries]
            counted += await reader.settle(settlements)
    return counted


async def test_at_the_limit_messages_are_refused_and_everything_else_goes_on(full: World) -> None:
    w = full
    await w.ledger()
    ingest, _ = await w.holder("h1")
    _, leaving = await w.holder("h2")
    org = await w.organisation(1000)
    assert accepted(await ingest.submit(org, drafts(60), render=render)) == 60
    dead = await worker(w, "w1")
    assert len(await dead.read(10, 50)) > 0
    # More is used than there may be: a write that is not allowed then is refused.
    await limit(w, 1.1)
    with pytest.raises(OutOfMemory):
        await w.link.call("SET", "more", "x")
    with pytest.raises(Full, match="little memory left") as refused:
        await ingest.submit(org, drafts(1), render=render)
    assert refused.value.retry_after == 5.0
    # A worker is fenced, another starts, takes over what it left and sends all there is.
    await leaving._store.fence("w1")
    reader = await worker(w, "w2")
    await reader.beat()
    # A bundle is taken apart, and its messages are read again.
    reader.drop(await reader.take_over(60_000, 100))
    assert await RedisSlots(await w.open_link()).reserve([SlotRequest("p", "normal", 1, 100.0, 0.2)])
    assert await send_all(reader, 60) == 60
    assert await reader.promote(now_us(), 10) == 0

    async def booked() -> bool:
        balance = await w.directory.balance(org)
        return (balance.posted, balance.held) == (940, 0)

    await eventually(booked)
    await limit(w, 0)

    async def admits() -> bool:
        try:
            return accepted(await ingest.submit(org, drafts(1), render=render)) == 1
        except Full:
            return False

    await eventually(admits)
    await w.clean()


async def test_from_the_mark_on_nothing_is_taken_in_though_redis_still_would(full: World) -> None:
    w = full
    await w.ledger()
    ingest, quota = await w.holder("h1")
    org = await w.organisation(1000)
    assert accepted(await ingest.submit(org, drafts(1), render=render)) == 1
    await limit(w, 0.93)

    async def refuses() -> bool:
        try:
            quota.memory.check()
        except Full:
            return True
        return False

    await eventually(refuses)
    await w.link.call("SET", "more", "x")
    with pytest.raises(Full):
        await ingest.submit(org, drafts(1), render=render)
    await limit(w, 0.5)

    async def admits() -> bool:
        return not await refuses()

    await eventually(admits)
    assert accepted(await ingest.submit(org, drafts(1), render=render)) == 1
    await w.clean()


async def test_a_holder_that_leaves_and_one_that_comes_do_so_at_the_limit(full: World) -> None:
    w = full
    await w.ledger()
    ingest, quota = await w.holder("h1")
    org = await w.organisation(1000)
    assert accepted(await ingest.submit(org, drafts(5), render=render)) == 5
    await limit(w, 1.1)
    async with asyncio.timeout(60):
        await quota.leave()
        second, _ = await w.holder("h2")
    with pytest.raises(Full):
        await second.submit(org, drafts(1), render=render)

    async def returned() -> bool:
        return await w.link.call("EXISTS", keys.inbox_key(shard_of(org, SHARDS), "h1")) == 0

    await eventually(returned)
    await w.clean()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_redis_that_deletes_keys_when_it_is_full_is_refused(server: Server, policy: str) -> None:
    link = RedisLink(server.url, timeout_s=5, name="test")
    await link.call("CONFIG", "SET", "maxmemory-policy", policy)
    config = Config(redis=Redis(url=server.url), postgres=Store(url="postgresql://127.0.0.1:9/x"))
    # Without a limit it deletes nothing.
    await link.call("CONFIG", "SET", "maxmemory", "0")
    with pytest.raises(_NotOk, match="functions"):
        await _redis(server.url)
    await link.call("CONFIG", "SET", "maxmemory", "1gb")
    with pytest.raises(_NotOk, match=f"maxmemory-policy {policy}.*set maxmemory-policy to noeviction"):
        await _redis(server.url)
    with pytest.raises(ConfigError, match="set maxmemory-policy to noeviction"):
        await _migrate(config)
    await link.close()
