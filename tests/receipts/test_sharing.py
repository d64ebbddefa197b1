"""Matchers that share the shards, killed, frozen and drained at any step by chance: each receipt counts once.

Redis is real. The store is a model of what ClickHouse promises, and rows get there late and in part.
`SEEDS=100 pytest tests/receipts/test_sharing.py` tries more than the suite does.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from engine.boot.archiver import assemble_matcher
from engine.clocks.waits import happens
from engine.errors import Fenced
from engine.receipts.homes import home_of, likely_home
from engine.receipts.ports import Recording
from engine.receipts.records import Receipt
from engine.records import ActivityRow
from engine.redis_keys import MATCHER_LOCK, activity_key, receipts_key, receipts_lock_key
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.receipt_sink import RedisReceiptSink
from engine.stores.redis.receipt_stream import RedisReceiptStream
from tests.activity.archiver_process import Gated
from tests.activity.living import Living
from tests.activity.living_scene import LivingScene
from tests.activity.world import REDIS_DATABASE, SHARDS, World, blob_of, in_database, until
from tests.receipts.model_store import ModelStore
from tests.receipts.world import QUICK_MATCH, message_id, now_us
from tests.receipts.world import home_of as shard_of_organisation

SEEDS = int(os.environ.get("SEEDS", "2"))
STEPS = 12
# Between any two steps of a round, and where shards change hands.
POINTS = [
    "give_back:before", "give_back:after", "begin:before", "begin:after", "read:after", "due:after",
    "archived_before:after", "filed:after", "record:before", "record:after", "hand_on:before",
    "hand_on:after", "finish:before", "finish:after",
]  # fmt: skip


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    world = World(in_database(redis_url, REDIS_DATABASE), "http://127.0.0.1:1/never-asked")
    await world.redis.flushdb()
    yield world
    await world.close()


class LivingMatcher(Living):
    """A matcher with connections of its own."""

    def __init__(self, world: World, store: ModelStore, name: str, limits: Any = QUICK_MATCH) -> None:
        super().__init__()
        self._links = [RedisLink(world.redis_url, timeout_s=60, name=f"{name} {n}") for n in range(2)]
        stream: Any = Gated(RedisReceiptStream(*self._links, shards=SHARDS), self.gate)
        gated: Any = Gated(store, self.gate)
        self.matcher, self.rounds = assemble_matcher(
            stream, gated, name, limits, shards=SHARDS, receipt_ids={}, now_us=now_us
        )
        self.start(self.matcher.run, self.close)

    async def close(self) -> None:
        for link in self._links:
            await link.close()


class Scene(LivingScene[LivingMatcher]):
    """Matchers by chance, and messages of one segment or three, whose receipts come in any order, some twice
    and some before their message."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(seed, POINTS, 0.3)
        self.world = world
        self.store = ModelStore(self.rng)
        self.link = RedisLink(world.redis_url, timeout_s=60, name="scene")
        self._sink = RedisReceiptSink(self.link, SHARDS)
        self._numbers = 0
        # (message id, event, segment) that are to be recorded.
        self.expected = Counter[tuple[str, str, int]]()

    def make(self, name: str, limits: Any) -> LivingMatcher:
        return LivingMatcher(self.world, self.store, name, limits or QUICK_MATCH)

    async def load(self) -> None:
        """Some messages are sent, and all their receipts come, by the sink or as versions of before put
        them."""
        rows, receipts = list[ActivityRow](), list[Receipt]()
        for _ in range(self.rng.randint(1, 8)):
            self._numbers += 1
            row = sent(self._numbers, self.rng.choice((1, 3)))
            rows.append(row)
            receipts += [receipt_for(row, segment) for segment in range(row.segments)]
            self.expected[row.message_id, "delivered", 0] += 1
            self.expected[row.message_id, "receipt", -1] += row.segments - 1
        receipts += self.rng.sample(receipts, len(receipts) // 2)
        self.rng.shuffle(receipts)
        late = self.rng.random() < 0.3
        if not late:
            await self._send(rows)
        for first in range(0, len(receipts), 5):
            await self._tell(receipts[first : first + 5])
        if late:
            await self._send(rows)
        if self.rng.random() < 0.5:
            await self.archive(self.rng.random() < 0.5)

    async def _send(self, rows: list[ActivityRow]) -> None:
        for row in rows:
            shard = shard_of_organisation(row.organisation_id)
            await self.link.call("XADD", activity_key(shard), "*", "b", blob_of([row]))

    async def _tell(self, receipts: list[Receipt]) -> None:
        if self.rng.random() < 0.5:
            kept = asyncio.get_running_loop().create_future()
            self._sink.put(receipts, kept.set_result)
            assert await kept
        else:
            blob = (
                b"\xdd" + len(receipts).to_bytes(4, "big") + b"".join(map(msgspec.msgpack.encode, receipts))
            )
            await self.link.call("XADD", receipts_key(self.rng.randrange(SHARDS)), "*", "b", blob)

    async def archive(self, whole: bool = True) -> None:
        """What is on the streams, or on some of them, goes to the store."""
        for shard in range(SHARDS):
            if whole or self.rng.random() < 0.5:
                for entry_id, fields in await self.link.call("XRANGE", activity_key(shard), "-", "+"):
                    self.store.archive(fields[1])
                    await self.link.call("XDEL", activity_key(shard), entry_id)

    async def is_done(self) -> bool:
        await self.archive()
        redis = self.world.redis
        keys = [receipts_key(shard) for shard in range(SHARDS)]
        entries = sum([await redis.xlen(key) for key in keys])
        return not entries + sum([await redis.zcard(key + b":later") for key in keys])

    async def check(self) -> None:
        await self.archive()
        recorded = Counter[tuple[str, str, int]]()
        for row in self.store.rows:
            if row.event != "sent":
                recorded[row.message_id, row.event, -1 if row.segment else 0] += 1
        assert recorded == +self.expected


def sent(number: int, segments: int) -> ActivityRow:
    """A message that carrier "one" took."""
    letters = [""] if segments == 1 else [f"-{n}" for n in range(segments)]
    return ActivityRow(
        at_us=now_us(), organisation_id=1000 + number % 5, message_id=message_id(number),
        accepted_at_us=now_us(), event="sent", queue="normal", to=f"+98912{number:07}", sender="ACME",
        encoding="GSM-7", segments=segments, units=segments, attempt=1, provider="one",
        provider_message_id=",".join(f"x{number}{letter}" for letter in letters), code="0", latency_us=1,
    )  # fmt: skip


def receipt_for(row: ActivityRow, segment: int) -> Receipt:
    return Receipt(
        provider=row.provider, provider_message_id=row.provider_message_id.split(",")[segment].upper(),
        state="delivered", code="DELIVRD", at_us=now_us(), to=row.to[1:],
    )  # fmt: skip


@asynccontextmanager
async def playing(world: World, seed: int) -> AsyncIterator[Scene]:
    """A scene, at whose end all is matched."""
    scene = Scene(world, seed)
    try:
        await load_functions(scene.link)
        async with scene.playing():
            yield scene
    finally:
        await scene.link.close()


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_happens_to_matchers_each_receipt_counts_once(world: World, seed: int) -> None:
    async with playing(world, seed) as scene:
        for _ in range(STEPS):
            await scene.load()
            await scene.step()


async def test_two_matchers_share_the_shards_and_one_that_goes_leaves_them(world: World) -> None:
    async with playing(world, 1) as scene:
        first, second = scene.begin(), scene.begin()
        await until(lambda: _is([len(m.matcher.shards) for m in (first, second)] == [SHARDS // 2] * 2))
        counts = [matcher.rounds.counts for matcher in (first, second)]
        while not all(c.recorded and c.handed_on for c in counts):
            await scene.load()
            await scene.archive()
            await asyncio.sleep(0.02)
        await scene.drain(first)
        await until(lambda: _is(len(second.matcher.shards) == SHARDS))


async def test_one_that_has_its_shards_again_begins_anew_when_others_recorded_meanwhile(world: World) -> None:
    async with playing(world, 2) as scene:
        late = scene.begin()
        await until(lambda: _is(len(late.matcher.shards) == SHARDS))
        late.point = "record:before"
        await scene.load()
        while not late.stopped.is_set():
            await scene.archive()
            await happens(late.stopped, 0.05)
        other = scene.begin()
        await until(scene.is_done)
        await scene.drain(other)
        late.ask()
        await until(lambda: _is(len(late.matcher.shards) == SHARDS))


async def test_where_a_version_with_one_matcher_has_begun_nobody_else_records(world: World) -> None:
    """It writes its token to the field `token`, and holds the lock by its name."""
    async with playing(world, 3) as scene:
        stream = RedisReceiptStream(scene.link, scene.link, SHARDS)
        await stream.begin("new", range(SHARDS))
        recording = {0: Recording([sent(1, 1)], [], {0})}
        await world.redis.hset("receipts:{0}:applied", mapping={"token": "old", "number": 0, "id": ""})
        with pytest.raises(Fenced):
            await stream.record({0: "new"}, 1, recording)
        # Another home begins anew; what had begun before the old one may not record for that.
        await stream.begin("newer", [1])
        with pytest.raises(Fenced):
            await stream.record({0: "new"}, 1, recording)
        await world.redis.set(MATCHER_LOCK, "old", px=300_000)
        assert not any(await stream.lease("m", 600_000))
        await world.redis.delete(MATCHER_LOCK)
        assert (await stream.lease("m", 600_000)).shards == set(range(SHARDS))
        assert await world.redis.get(MATCHER_LOCK) == b"shards"
        await stream.release("m")
        assert not await world.redis.exists(MATCHER_LOCK, receipts_lock_key(0))


def test_the_sink_and_the_matcher_agree_about_the_home_of_a_message_of_one_segment() -> None:
    for number in range(100):
        row = sent(number, 1)
        assert likely_home(receipt_for(row, 0), "auto", 16) == home_of(row, 16)
    assert len({home_of(sent(number, 1), 16) for number in range(200)}) == 16


async def _is(value: bool) -> bool:
    return value
