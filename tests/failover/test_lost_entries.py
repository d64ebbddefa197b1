"""No entry of a ready stream has the id of another, also where Redis lost its last writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from engine import redis_keys as keys
from engine.errors import Unavailable
from tests.failover.servers import Process
from tests.simulation.ready import FIRST, JUMP, jump_of
from tests.stores.redis.kit import now_us
from tests.stores.redis.test_bundles import _SHARD, BundleKit, ids, some
from tests.stores.redis.test_queue import read_all, settlements

_STREAM = keys.queue_key(_SHARD, "express")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Process]:
    """A server that keeps its data when it is told to."""
    server = Process(tmp_path, ["--save", ""])
    server.start()
    await server.ask("PING")
    yield server
    server.kill()


@pytest.fixture
async def kit(server: Process) -> AsyncIterator[BundleKit]:
    kit = BundleKit(server.url)
    await kit.start()
    yield kit
    await kit.stop()


async def restart(server: Process, kit: BundleKit) -> None:
    """Killed, and started again with what it has kept."""
    server.kill()
    server.start()
    await server.ask("PING")
    async with asyncio.timeout(60):
        while True:
            try:
                await kit.link.call("PING")
                return
            except Unavailable:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("count", [1, 5])
async def test_a_worker_with_a_lost_entry_in_hand_settles_no_other(
    server: Process, kit: BundleKit, count: int
) -> None:
    # The clock was ahead. So all that follows has the same milliseconds, also after the restart.
    ahead = msgspec.msgpack.encode(some(1)[0])
    await kit.link.call("XADD", _STREAM, f"{now_us() // 1000 + 3_600_000}-7", "m", ahead)
    await read_all(await kit.reader("w"), 1)
    await kit.admit(*some(2, 8))
    await kit.link.call("SAVE")
    old = await kit.reader("old")
    await read_all(old, 2)
    await kit.admit(*some(count, 9))
    lost = await read_all(old, count)
    await restart(server, kit)
    # The flush is lost, so the next one has its number.
    kit._sequence -= 1
    await kit.admit(*some(count, 10))
    new = await read_all(await kit.reader("new"), 2 + count)
    assert not {entry.entry_id for entry in lost} & {entry.entry_id for entry in new}
    assert await old.settle(settlements(lost)) == 0
    assert await kit.usage() == {}
    assert await (await kit.reader("new")).settle(settlements(new)) == 2 + count
    assert await kit.usage() == {8: (4, 0), 10: (2 * count, 0)}


async def test_the_numbers_move_on_once_in_each_run(server: Process, kit: BundleKit) -> None:
    expected = FIRST
    for n in range(3):
        run = (await kit.link.call("INFO", "server")).partition(b"run_id:")[2][:40]
        assert JUMP <= jump_of(run) < 2 * JUMP
        await kit.admit(*some(1, 7, 2 * n))
        await kit.admit(*some(1, 7, 2 * n + 1))
        expected += jump_of(run) + 2
        assert await kit.number() == expected
        entries = await kit.link.call("XRANGE", _STREAM, "-", "+")
        assert entries[-1][0].endswith(b"-%d" % expected)
        await kit.link.call("SAVE")
        await restart(server, kit)
    assert ids(await read_all(await kit.reader("w"), 6)) == [m.id for m in some(6)]
