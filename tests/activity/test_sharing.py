"""Archivers that share the shards, killed, frozen and drained at any step by chance: each row is in once.

Redis is real. The store is a model of what ClickHouse promises: a block as a whole, once for each token.
`SEEDS=100 pytest tests/activity/test_sharing.py` tries more than the suite does.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import msgspec
import pytest

from engine.activity.archiver import Archiver, Limits
from engine.activity.records import ActivityBlock, BlockPlan
from engine.errors import Unavailable
from engine.redis_keys import activity_key, archiver_lock_key
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stream_id import StreamId
from tests.activity.archiver_process import Gated
from tests.activity.living import Living
from tests.activity.living_scene import LivingScene
from tests.activity.test_archiver import POINTS
from tests.activity.world import QUICK, REDIS_DATABASE, SHARDS, World, blob_of, in_database, make_row, until

SEEDS = int(os.environ.get("SEEDS", "3"))
STEPS = 12
Place = tuple[int, StreamId]


@pytest.fixture
async def world(redis_url: str) -> AsyncIterator[World]:
    world = World(in_database(redis_url, REDIS_DATABASE), "http://127.0.0.1:1/never-asked")
    await world.redis.flushdb()
    yield world
    await world.close()


class TokenStore:
    """Stores a block once for each token; some of its answers are lost."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._tokens = set[str]()
        # By the place of its entry in the streams, how many rows are stored.
        self.rows = Counter[Place]()

    async def insert(self, block: ActivityBlock, token: str) -> None:
        if self._rng.random() < 0.1:
            raise Unavailable("the store is away")
        if token not in self._tokens:
            self._tokens.add(token)
            shards, ms, seq = (
                struct.unpack(f"<{block.rows}{kind}", column)
                for kind, column in zip("HQI", block.columns[-3:], strict=True)
            )
            self.rows.update(zip(shards, map(StreamId, ms, seq), strict=True))
        if self._rng.random() < 0.1:
            raise Unavailable("the answer was lost")


class LivingArchiver(Living):
    """`proposed`: what its proposals were answered with."""

    def __init__(self, world: World, store: TokenStore, name: str, limits: Limits) -> None:
        super().__init__()
        self.proposed: list[bool] = []
        stream = RedisActivityStream(world.redis_url, SHARDS)
        self.archiver = Archiver(Proposing(stream, self), Gated(store, self.gate), name, limits)
        self.start(self.archiver.run, stream.close)


class Proposing(Gated):
    """A stream of which the answers to proposals are noted, whether they come out or not."""

    def __init__(self, stream: RedisActivityStream, living: LivingArchiver) -> None:
        super().__init__(stream, living.gate)
        self._living = living

    async def propose(self, owner: str, plan: BlockPlan) -> bool:
        await self._gate("propose:before")
        self._living.proposed.append(await self._inner.propose(owner, plan))
        await self._gate("propose:after")
        return self._living.proposed[-1]


class Scene(LivingScene[LivingArchiver]):
    """Archivers by chance; `put` has the rows of every entry that was put."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(seed, POINTS, 0.5)
        self.world = world
        self.store = TokenStore(self.rng)
        self.put = Counter[Place]()

    def make(self, name: str, limits: Limits | None) -> LivingArchiver:
        return LivingArchiver(self.world, self.store, name, limits or QUICK)

    async def load(self) -> None:
        """Put some entries on some of the streams."""
        pipe, sizes = self.world.redis.pipeline(transaction=False), list[tuple[int, int]]()
        for _ in range(self.rng.randint(1, 12)):
            shard, rows = self.rng.randrange(SHARDS), self.rng.randint(1, 5)
            pipe.xadd(activity_key(shard), {b"b": blob_of([make_row(n) for n in range(rows)])})
            sizes.append((shard, rows))
        ids = map(StreamId.parse, await pipe.execute())
        self.put.update({(shard, i): rows for i, (shard, rows) in zip(ids, sizes, strict=True)})

    async def is_done(self) -> bool:
        return await self.world.waiting() == 0 and not await self.world.stream.plans(range(SHARDS))

    async def check(self) -> None:
        assert self.store.rows == self.put


@asynccontextmanager
async def playing(world: World, seed: int) -> AsyncIterator[Scene]:
    """A scene, at whose end all is archived."""
    scene = Scene(world, seed)
    async with scene.playing():
        yield scene


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_happens_to_archivers_each_row_is_stored_once(world: World, seed: int) -> None:
    async with playing(world, seed) as scene:
        for _ in range(STEPS):
            await scene.load()
            await scene.step()


async def test_one_that_has_lost_its_shards_may_not_propose_what_it_had_read(world: World) -> None:
    """Also when nothing of it was archived meanwhile."""
    async with playing(world, 1) as scene:
        late = scene.begin()
        await until(lambda: _is(len(late.archiver.shards) == SHARDS))
        late.point = "propose:before"
        await scene.load()
        await late.stopped.wait()
        await until(lambda: _is_free(world))
        # It has all shards for as long as this test takes.
        owner = scene.begin(msgspec.structs.replace(QUICK, lease_s=3600.0))
        owner.point = "propose:before"
        await owner.stopped.wait()
        late.go_on()
        await until(lambda: _is(bool(late.proposed)))
        assert late.proposed == [False]


async def test_one_that_has_its_shards_again_may_not_propose_what_others_archived_meanwhile(
    world: World,
) -> None:
    async with playing(world, 2) as scene:
        late = scene.begin()
        await until(lambda: _is(len(late.archiver.shards) == SHARDS))
        late.point = "propose:before"
        await scene.load()
        await late.stopped.wait()
        other = scene.begin()
        await until(scene.is_done)
        await scene.drain(other)
        await scene.load()
        late.ask()
        await until(lambda: _is(len(late.archiver.shards) == SHARDS))
        late.go_on()
        await until(lambda: _is(bool(late.proposed)))
        assert not late.proposed[0]


async def _is(value: bool) -> bool:
    return value


async def _is_free(world: World) -> bool:
    """Whether nobody has a shard."""
    return not await world.redis.exists(*map(archiver_lock_key, range(SHARDS)))
