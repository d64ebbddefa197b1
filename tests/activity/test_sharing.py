"""Archivers that share the shards, killed, frozen and drained at any step by chance: each row is in once.

Redis is real. The store is a model of what ClickHouse promises: a block as a whole, once for each token.
`SEEDS=100 pytest tests/activity/test_sharing.py` tries more than the suite does.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random

import pytest

from engine.activity.archiver import Archiver
from engine.activity.records import ActivityBlock
from engine.errors import Unavailable
from engine.redis_keys import activity_key
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stream_id import StreamId
from engine.waits import happens
from tests.activity.archiver_process import Gated
from tests.activity.test_archiver import POINTS
from tests.activity.world import QUICK, REDIS_DATABASE, SHARDS, World, blob_of, in_database, make_row, until

SEEDS = int(os.environ.get("SEEDS", "3"))
STEPS = 12
LIVING_MAX = 4
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


class Living:
    """An archiver that can be stopped at a point, and then goes on, or never does."""

    def __init__(self, world: World, store: TokenStore, name: str) -> None:
        self.point = ""
        self.stopped = asyncio.Event()
        self._may_go_on = asyncio.Event()
        self._may_go_on.set()
        self._dead = False
        self.stream = RedisActivityStream(world.redis_url, SHARDS)
        self.archiver = Archiver(Gated(self.stream, self._gate), Gated(store, self._gate), name, QUICK)
        self.draining = asyncio.Event()
        self.work = asyncio.create_task(self.archiver.run(self.draining))

    async def _gate(self, here: str) -> None:
        if here == self.point:
            self.stop()
        await self._may_go_on.wait()
        if self._dead:
            raise Unavailable("dead")

    def stop(self) -> None:
        """From now on nothing that it does goes in or comes out."""
        self._may_go_on.clear()
        self.stopped.set()

    def go_on(self) -> None:
        self.point = ""
        self.stopped.clear()
        self._may_go_on.set()

    async def die(self) -> None:
        """End without another step."""
        self.stop()
        self._dead = True
        self.work.cancel()
        self._may_go_on.set()
        with suppress(asyncio.CancelledError):
            await self.work
        await self.stream.close()

    async def end(self) -> None:
        """Drain it."""
        self.go_on()
        self.draining.set()
        async with asyncio.timeout(120):
            await self.work
        await self.stream.close()


class Scene:
    """Archivers by chance; `put` has the rows of every entry that was put."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = Random(seed)
        self.store = TokenStore(self.rng)
        self.living: list[Living] = []
        self.put = Counter[Place]()
        self._number = 0

    async def load(self) -> None:
        """Put some entries on some of the streams."""
        pipe, sizes = self.world.redis.pipeline(transaction=False), list[tuple[int, int]]()
        for _ in range(self.rng.randint(1, 12)):
            shard, rows = self.rng.randrange(SHARDS), self.rng.randint(1, 5)
            pipe.xadd(activity_key(shard), {b"b": blob_of([make_row(n) for n in range(rows)])})
            sizes.append((shard, rows))
        ids = map(StreamId.parse, await pipe.execute())
        self.put.update({(shard, i): rows for i, (shard, rows) in zip(ids, sizes, strict=True)})

    async def step(self) -> None:
        """One thing by chance happens to one of them."""
        if not self.living or (len(self.living) < LIVING_MAX and self.rng.random() < 0.4):
            self._number += 1
            self.living.append(Living(self.world, self.store, f"a{self._number}"))
            return
        one = self.rng.choice(self.living)
        what = self.rng.choice(("kill", "freeze", "freeze", "drain"))
        if one.stopped.is_set():
            one.go_on()
            return
        one.point = self.rng.choice(POINTS)
        await happens(one.stopped, 0.5)
        if what == "freeze":
            one.stop()
            return
        self.living.remove(one)
        await (one.die() if what == "kill" else one.end())

    async def end(self) -> None:
        """All go on, and what is there is archived."""
        for one in self.living:
            one.go_on()
        self.living.append(Living(self.world, self.store, "last"))
        await until(self._archived, 120.0)
        for one in self.living:
            await one.end()

    async def _archived(self) -> bool:
        return await self.world.waiting() == 0 and not await self.world.stream.plans(range(SHARDS))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_happens_to_archivers_each_row_is_stored_once(world: World, seed: int) -> None:
    scene = Scene(world, seed)
    for _ in range(STEPS):
        await scene.load()
        await scene.step()
    await scene.end()
    assert scene.store.rows == scene.put
