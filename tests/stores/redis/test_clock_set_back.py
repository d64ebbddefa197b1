"""What was noted before the clock of Redis was set back an hour counts no longer than what is noted now."""

from __future__ import annotations

import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from engine import redis_keys as keys
from engine.routing.ports import SlotRequest
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.auto_replies import RedisReplyQueue
from engine.stores.redis.inbound_stream import RedisInboundStream
from engine.stores.redis.link import RedisLink
from engine.stores.redis.living import living
from engine.stores.redis.lua_libraries import versioned
from engine.stores.redis.throughput import RedisSlots
from engine.stores.redis.webhook_stream import RedisWebhookStreams
from tests.activity.world import in_database
from tests.conftest import own_database

DATABASE = 14
HOUR_MS = 3_600_000
# Long, so that nothing ends by itself while a machine stands still.
TTL_MS = 600_000

Ask = Callable[[str], Awaitable[bool]]


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, DATABASE) as link:
        yield link


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize("of", ["shard of activity", "inbox", "replies", "shard of webhooks"])
async def test_a_lease_of_one_that_has_died_ends_in_its_time(
    link: RedisLink, redis_url: str, of: str
) -> None:
    archive = RedisActivityStream(in_database(redis_url, DATABASE), 1)
    streams = RedisWebhookStreams(link, link)

    async def own(owner: str) -> bool:
        return bool(await streams.own(owner, [0], TTL_MS))

    async def archived_by(owner: str) -> bool:
        return bool((await archive.lease(owner, TTL_MS)).shards)

    asks: dict[str, tuple[bytes, Ask]] = {
        "shard of activity": (keys.archiver_lock_key(0), archived_by),
        "inbox": (keys.INBOUND_LOCK, lambda owner: RedisInboundStream(link).lease(owner, TTL_MS)),
        "replies": (keys.AUTO_REPLIES_LOCK, lambda owner: RedisReplyQueue(link).lease(owner, TTL_MS)),
        "shard of webhooks": (keys.webhook_lock_key(0), own),
    }
    lock, ask = asks[of]
    try:
        assert await ask("dead")
        assert not await ask("living")
        before_ms = await link.call("PTTL", lock)
        assert TTL_MS / 2 < before_ms <= TTL_MS, "a lease that is as it should be is left alone"
        await link.call("PEXPIRE", lock, HOUR_MS)
        assert not await ask("living")
        assert 0 < await link.call("PTTL", lock) <= TTL_MS
    finally:
        await archive.close()


@pytest.mark.parametrize("key", [keys.NOTIFIERS, keys.ARCHIVERS])
async def test_a_process_that_has_died_lives_no_longer_than_its_note(link: RedisLink, key: bytes) -> None:
    await link.call("ZADD", key, now_ms() + HOUR_MS, "dead", now_ms() - 1, "long dead")
    assert await link.call(*living(key, "living", TTL_MS)) == [b"dead", b"living"]
    ends_ms = float(await link.call("ZSCORE", key, "dead"))
    assert ends_ms <= now_ms() + TTL_MS


async def test_a_holder_that_has_died_is_found_in_its_time(link: RedisLink) -> None:
    await link.call("HSET", keys.holders_key(0), "n.dead", now_ms() + HOUR_MS, "n.silent", now_ms() - HOUR_MS)
    ask = ("FCALL", versioned("overdue"), 1, keys.holders_key(0))
    assert await link.call(*ask, 60_000) == [b"n.silent"]
    assert int(await link.call("HGET", keys.holders_key(0), "n.dead")) <= now_ms()


async def test_books_that_could_not_be_written_an_hour_ahead_can_be_now(link: RedisLink) -> None:
    admission = RedisAdmission(link, link, 1)
    at_ms = now_ms() + HOUR_MS
    await link.call("HSET", keys.usage_head_key(0), "waits", at_ms, "unclosed", f"{at_ms} 7")
    assert await admission.standing() == (frozenset(), frozenset())


async def test_a_worker_that_did_not_know_the_time_slows_nobody_down_for_an_hour(link: RedisLink) -> None:
    pace, ask = RedisSlots(link, answer_s=5.0), SlotRequest("p", "express", 1, 100.0, 1.0, 1)
    [usual] = await pace.reserve([ask])
    period = now_ms() * 1000 // 2_500_000
    wide = struct.pack(">ddd", period + 1440, 30e6, 30e6)
    await link.call("SET", keys.rate_wide_key("p"), wide, "PX", HOUR_MS)
    await link.call("DEL", keys.rate_key("p"))
    [found] = await pace.reserve([ask])
    assert (usual.segments, found.segments) == (1, 1)
    assert found.interval_us == usual.interval_us
