"""What a process notes of its providers reaches Redis, once for each, whatever Redis does meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
import structlog

from engine.boot.problem_flush import ProblemFlush
from engine.errors import Unavailable
from engine.problem_records import Noted, ProblemKind
from engine.providers.problems import SAMPLES_KEPT, Problems
from engine.stores.redis import problems as stored
from engine.stores.redis.link import RedisLink
from engine.stores.redis.problems import RedisProblems

KIND = ProblemKind.receipt_unread


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(redis_url.rpartition("/")[0] + "/12", timeout_s=5, name="problems")
    await link.call("FLUSHDB")
    yield link
    await link.close()


def flush_of(problems: Problems, link: RedisLink) -> ProblemFlush:
    return ProblemFlush(problems, RedisProblems(link).add, structlog.get_logger(), period_s=3600)


async def test_every_problem_is_counted_and_the_newest_samples_are_kept(link: RedisLink) -> None:
    problems, read = Problems(), RedisProblems(link)
    flush = flush_of(problems, link)
    for batch in range(6):
        for number in range(1000):
            problems.note("acme", KIND, f"id:{batch}-{number} text:hello")
        await flush.flush()
    problems.note("other", ProblemKind.protocol_broken, b"\0\1")
    await flush.flush()
    (found,) = await read.of("acme")
    assert (found.kind, found.total, found.last_hour, found.last_day) == (KIND, 6000, 6000, 6000)
    assert found.hours[-1] + found.hours[-2] == sum(found.hours) == 6000
    newest = [f"id:{batch}-{number} text:***" for batch in range(6) for number in range(995, 1000)]
    assert [one.sample for one in found.samples] == newest[::-1][: stored.SAMPLES_KEPT]
    assert found.samples[0].at_us == found.last_at_us
    every = await read.counts(["acme", "other", "silent"])
    assert [(one.provider, one.total) for one in every] == [("acme", 6000), ("other", 1)]
    assert await read.last_hour(["acme", "other", "silent"]) == 6001
    for key in await link.call("KEYS", "*"):
        assert await link.call("TTL", key) > 0


async def test_counts_fall_out_of_the_hour_and_the_day_as_time_goes_on(link: RedisLink) -> None:
    at_s = 1_700_000_000
    read = RedisProblems(link, lambda: at_s * 1_000_000)
    for ago_s in (0, 3500, 3700, 23 * 3600, 25 * 3600):
        at_s = 1_700_000_000 - ago_s
        await read.add([Noted("acme", KIND, 1, ())])
    at_s = 1_700_000_000
    (found,) = await read.counts(["acme"])
    assert (found.last_hour, found.last_day, found.total) == (2, 4, 5)
    assert sum(found.hours) == 5
    assert await read.last_hour(["acme"]) == 2


async def test_while_redis_is_away_counts_add_up_and_nothing_piles_up(link: RedisLink) -> None:
    away, kept = True, list[Noted]()

    async def keep(noted: Sequence[Noted]) -> None:
        if away:
            raise Unavailable("away")
        kept.extend(noted)

    problems = Problems()
    flush = ProblemFlush(problems, keep, structlog.get_logger(), period_s=3600)
    for number in range(100):
        problems.note("acme", KIND, f"id:{number}")
        await flush.flush()
    away = False
    await flush.flush()
    await flush.flush()
    (one,) = kept
    assert (one.count, len(one.samples), one.samples[-1].sample) == (100, SAMPLES_KEPT, "id:99")


async def test_a_full_redis_gets_the_counts_when_it_has_room_again(link: RedisLink) -> None:
    problems, read = Problems(), RedisProblems(link)
    flush = flush_of(problems, link)
    problems.note("acme", KIND, "x")
    await link.call("CONFIG", "SET", "maxmemory", "1")
    try:
        await flush.flush()
    finally:
        await link.call("CONFIG", "SET", "maxmemory", "0")
    assert await read.counts(["acme"]) == []
    await flush.flush()
    assert [one.total for one in await read.counts(["acme"])] == [1]


async def test_what_was_noted_last_is_kept_when_the_process_drains(link: RedisLink) -> None:
    problems = Problems()
    async with flush_of(problems, link):
        problems.note("acme", KIND, "x")
    assert await RedisProblems(link).last_hour(["acme"]) == 1
