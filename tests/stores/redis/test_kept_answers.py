"""Answers are kept under their keys in a real Redis, as those of messages are."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine import redis_keys as keys
from engine.records import Replay
from engine.shards import shard_of
from engine.stores.redis.kept_answers import RedisKeptAnswers
from engine.stores.redis.link import RedisLink
from tests.conftest import own_database

_SHARDS = 4


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, 8) as link:
        yield link


@pytest.mark.parametrize("organisation", [7, None])
async def test_the_first_use_of_a_key_counts_and_its_answer_is_kept_for_a_while(
    link: RedisLink, organisation: int | None
) -> None:
    answers = RedisKeptAnswers(link, _SHARDS, lambda: 100)
    assert await answers.first(organisation, "k") is None
    # Nothing is kept of a key that nobody has used.
    await answers.keep(organisation, "k", b"f", b"never")
    assert await answers.begin(organisation, "k", b"f") is None
    assert await answers.begin(organisation, "k", b"g") == Replay(fingerprint=b"f", answer=b"")
    await answers.keep(organisation, "k", b"f", b"answer")
    kept = Replay(fingerprint=b"f", answer=b"answer")
    assert await answers.begin(organisation, "k", b"f") == await answers.first(organisation, "k") == kept
    assert await answers.first(8, "k") is None
    (name,) = await link.call("KEYS", "idempotency:*")
    assert 90 < await link.call("TTL", name) <= 100


async def test_a_key_that_an_older_version_kept_is_found(link: RedisLink) -> None:
    name = keys.idempotency_key(shard_of(7, _SHARDS), 7, "k")
    await link.call("HSET", name, "f", "print", "a", "{}")
    answers = RedisKeptAnswers(link, _SHARDS, lambda: 100)
    kept = Replay(fingerprint=b"print", answer=b"{}")
    assert await answers.begin(7, "k", b"f") == await answers.first(7, "k") == kept


async def test_a_redis_without_memory_left_stops_no_call(link: RedisLink) -> None:
    answers = RedisKeptAnswers(link, _SHARDS, lambda: 100)
    await link.call("CONFIG", "SET", "maxmemory", "1")
    try:
        assert await answers.begin(7, "k", b"f") is None
        await answers.keep(7, "k", b"f", b"answer")
    finally:
        await link.call("CONFIG", "SET", "maxmemory", "0")
    assert await answers.first(7, "k") is None
