"""How long Redis has room for what waits for ClickHouse, as the status says it."""

from __future__ import annotations

import pytest

from engine.redis_keys import activity_key, receipts_key
from engine.stores.memory_status import lasts_ms, memory_status
from engine.stores.redis.link import RedisLink
from engine.stores.redis.memory import RedisMemory

MINUTE_MS = 60_000


def test_the_room_lasts_as_long_as_what_came_until_now_goes_into_it() -> None:
    memory = RedisMemory(used_bytes=300, limit_bytes=1000, policy="noeviction")
    # 200 came in ten minutes, and 600 are left until 90 %.
    assert lasts_ms(memory, 0.9, 200, 10 * MINUTE_MS) == 30 * MINUTE_MS
    full = RedisMemory(used_bytes=950, limit_bytes=1000, policy="noeviction")
    assert lasts_ms(full, 0.9, 200, 10 * MINUTE_MS) == 0


@pytest.mark.parametrize(
    ("limit", "waiting", "waited_ms"), [(0, 200, MINUTE_MS), (9, 0, MINUTE_MS), (9, 1, 59_999)]
)
def test_nobody_says_how_long_it_lasts_where_nothing_is_bound_or_has_waited_long(
    limit: int, waiting: int, waited_ms: int
) -> None:
    memory = RedisMemory(used_bytes=1, limit_bytes=limit, policy="noeviction")
    assert lasts_ms(memory, 0.9, waiting, waited_ms) is None


async def test_what_waits_for_clickhouse_is_told_apart_from_all_else(streams_url: str) -> None:
    link = RedisLink(streams_url, timeout_s=5, name="test")
    try:
        before = await memory_status(link, range(2), 0.9, 0)
        assert before.waiting_mb == 0
        await link.call("SET", "other", b"x" * (5 << 20))
        for key in (activity_key(1), receipts_key(0)):
            await link.batch([("XADD", key, "*", "b", b"x" * 4000) for _ in range(800)])
        found = await memory_status(link, range(2), 0.9, 10 * MINUTE_MS)
        assert found.waiting_mb in (6, 7)
        assert found.used_mb - before.used_mb >= 11
    finally:
        await link.close()
