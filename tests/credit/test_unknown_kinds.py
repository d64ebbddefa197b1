"""What a newer version writes to the ledger and to holders: it waits, and nobody ends or answers wrongly."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from structlog.testing import capture_logs

from engine import redis_keys, shards
from engine.credit import ledger, posting
from engine.stores.redis.lua_libraries import versioned
from tests.credit.test_credit import SHARDS, World, accepted, drafts, eventually, render, world


async def _append(w: World, shard: int, kind: str) -> None:
    """An entry as a holder of a newer version appends it with its flush."""
    register = ("FCALL", versioned("register"), 2, redis_keys.holder_key(shard, "newer"))
    epoch = await w.link.call(*register, redis_keys.holders_key(shard), "newer")
    touched = [
        redis_keys.holder_key(shard, "newer"),
        *redis_keys.line_keys(shard, "express"),
        *redis_keys.line_keys(shard, "normal"),
        redis_keys.due_key(shard, "express"),
        redis_keys.due_key(shard, "normal"),
        redis_keys.activity_key(shard),
        redis_keys.usage_key(shard),
        redis_keys.usage_head_key(shard),
        redis_keys.held_key(shard),
        redis_keys.held_by_key(shard),
        redis_keys.generation_key(shard),
    ]
    report = ("FCALL", versioned("report"), len(touched), *touched, "newer", epoch, 1, 60, 0, 1, 1, 0)
    assert (await w.link.call(*report, kind, msgspec.msgpack.encode([1, 2])))[0] == b"applied"


async def test_usage_of_an_unknown_kind_stops_its_shard_alone_until_a_ledger_knows_it(
    streams_url: str, books_url: str
) -> None:
    async with world(streams_url, books_url) as w:
        draining = await w.ledger()
        orgs: dict[int, int] = {}
        while len(orgs) < SHARDS:
            org = await w.organisation(1000)
            orgs.setdefault(shards.shard_of(org, SHARDS), org)
        ingest, _ = await w.holder("h1")
        for org in orgs.values():
            assert accepted(await ingest.submit(org, drafts(10), render=render)) == 10
        with capture_logs() as lines:
            await _append(w, 1, "newer_kind")

            async def said() -> bool:
                return any("unknown kind" in line["event"] for line in lines)

            await eventually(said)
        # Quota that is there already is used; in the stopped shard the books do not follow.
        for org in orgs.values():
            assert accepted(await ingest.submit(org, drafts(5), render=render)) == 5

        async def held(shard: int) -> int:
            return (await w.directory.balance(orgs[shard])).held

        for shard in {0, 2, 3}:

            async def follows(shard: int = shard) -> bool:
                return await held(shard) == 15

            await eventually(follows)
        assert await held(1) == 10
        # A ledger of a version that knows it takes the shard up where it stopped.
        draining.set()
        posting._APPLY["newer_kind"] = lambda books, entry: None
        try:
            await w.ledger()

            async def all_follow() -> bool:
                return [await held(shard) for shard in orgs] == [15] * SHARDS

            await eventually(all_follow)
            await w.clean()
        finally:
            del posting._APPLY["newer_kind"]


async def test_an_answer_of_an_unknown_kind_is_passed_over(streams_url: str, books_url: str) -> None:
    async with world(streams_url, books_url) as w:
        await w.ledger()
        ingest, _ = await w.holder("h1")
        org = await w.organisation(1000)
        shard = shards.shard_of(org, SHARDS)
        with capture_logs() as lines:
            for payload in (msgspec.msgpack.encode(["offer", 1, org, 5, 7]), b"\xc1"):
                await w.link.call("XADD", redis_keys.inbox_key(shard, "h1"), "*", "d", payload)
            async with asyncio.timeout(60):
                while sum("cannot be read" in line["event"] for line in lines) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert accepted(await ingest.submit(org, drafts(30), render=render)) == 30


async def test_a_ledger_that_cannot_read_on_leaves_the_lead_to_another(
    streams_url: str, books_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_STOPPED_S", 0.0)
    async with world(streams_url, books_url) as w:
        await w.ledger()
        await w.ledger()
        with capture_logs() as lines:
            await _append(w, 1, "newer_kind")

            async def went_round() -> bool:
                said = [line["event"] for line in lines]
                return "leading" in said and said.index("ledger leaves the lead") < said.index("leading")

            await eventually(went_round)
