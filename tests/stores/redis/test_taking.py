"""Where messages wait in several shards, a worker takes them out of their lists as it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from engine.delivery.settlement import RetryPauses, after_verdict
from engine.errors import Unavailable
from engine.records import Entry, Verdict
from engine.redis_keys import due_key, queue_key, wait_key
from engine.stores.redis import queue_wire as wire
from engine.stores.redis.queue import QueueStreams
from tests.stores.redis.kit import SHARDS, QueueKit, message, now_us

_PAUSES = RetryPauses(first_us=1000, max_us=1000)
_EACH, _HEAVY, _LIGHT = 40, (1, 2, 3), 9
_TIMEOUT_S = 30


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


async def wait_in(kit: QueueKit, shard: int, organisation: int, messages: int) -> None:
    """Let so many messages become due."""
    due = [
        msgspec.msgpack.encode(message(f"{organisation}-{n:03}-{shard}", organisation_id=organisation))
        for n in range(messages)
    ]
    await kit.link.call("ZADD", due_key(shard, kit.queue), *[part for one in due for part in (1, one)])


async def taking(kit: QueueKit, shards: tuple[int, ...]) -> QueueStreams:
    """A worker that takes what waits, and backlogs of three organisations in each of `shards`."""
    reader = await kit.reader("w1")
    reader.ready_max, reader.reads_aside = 4, True
    for shard in shards:
        for organisation in _HEAVY:
            await wait_in(kit, shard, organisation, _EACH)
    for _ in range(2):
        await reader.promote(5, 200)
    return reader


async def settle(reader: QueueStreams, entries: list[Entry]) -> None:
    verdict = Verdict(kind="accepted", provider="p", provider_message_id="x1", code="0", latency_us=5)
    done = [after_verdict(entry, verdict, now_us(), _PAUSES, Random(1)) for entry in entries]
    assert await reader.settle(done) == len(entries)


async def marks(kit: QueueKit) -> list[int]:
    noted = await kit.link.batch([("HGET", wait_key(s, kit.queue), "mark") for s in range(SHARDS)])
    return [-1 if mark is None else int(mark) for mark in noted]


async def lying(kit: QueueKit, shard: int) -> int:
    """Entries of the stream that no worker was given."""
    _, (pending, *_) = await kit.link.batch([("PING",), ("XPENDING", queue_key(shard, kit.queue), "workers")])
    return int(await kit.link.call("XLEN", queue_key(shard, kit.queue))) - int(pending)


async def test_what_waits_in_several_shards_lies_in_lists_until_it_is_read(kit: QueueKit) -> None:
    reader = await taking(kit, (0, 1))
    taken: list[Entry] = []
    while len(taken) < 2 * len(_HEAVY) * _EACH:
        found = await asyncio.wait_for(reader.read(20, 1000), _TIMEOUT_S)
        assert found
        taken += found
        # What is settled makes room. All the same nothing comes to the streams.
        await settle(reader, found)
        assert max([await lying(kit, shard) for shard in (0, 1)]) <= 4
        if len(taken) <= 100:
            # Messages wait in both as yet.
            assert (await marks(kit))[:2] == [0, 0]
    names = [f"{entry.message.id}" for entry in taken]
    assert len(set(names)) == len(names)
    for shard in (0, 1):
        for organisation in _HEAVY:
            of = [n for n in names if n.startswith(f"{organisation}-") and n.endswith(f"-{shard}")]
            assert of == sorted(of)
    # Nobody waits any more, and the streams are as those in which nobody has waited.
    await reader.promote(5, 200)
    assert await marks(kit) == [4] * SHARDS


async def test_who_sends_little_lies_ready_behind_nothing_and_is_read_before_what_waits(
    kit: QueueKit,
) -> None:
    reader = await taking(kit, (0, 1))
    for _ in range(4):
        await settle(reader, await reader.read(20, 1000))
    for shard in (0, 1):
        assert await lying(kit, shard) == 0
        await wait_in(kit, shard, _LIGHT, 1)
    await reader.promote(5, 200)
    assert [await lying(kit, shard) for shard in (0, 1)] == [1, 1]
    found = await reader.read(8, 1000)
    # One read takes from one of the shards, and asks the other one too.
    assert [entry.message.organisation_id for entry in found].count(_LIGHT) == 2
    assert found[0].message.organisation_id == _LIGHT


async def test_a_worker_that_does_not_take_finds_what_was_left_in_the_lists(kit: QueueKit) -> None:
    reader = await taking(kit, (0, 1))
    taken = await reader.read(20, 1000)
    await settle(reader, taken)
    assert (await marks(kit))[:2] == [0, 0]
    # It is gone, and the other one goes by what lies ready.
    await kit.fence("w1")
    other = await kit.reader("w2")
    other.ready_max = 4
    await other.promote(5, 200)
    while len(taken) < 2 * len(_HEAVY) * _EACH:
        found = await asyncio.wait_for(other.read(20, 1000), _TIMEOUT_S)
        assert found
        await settle(other, found)
        taken += found
    assert len({entry.message.id for entry in taken}) == len(taken)


async def test_several_workers_take_each_message_once(kit: QueueKit) -> None:
    reader, other = await taking(kit, (0, 1, 2)), await kit.reader("w2")
    other.ready_max, other.reads_aside = 4, True
    await other.promote(5, 200)
    taken: list[Entry] = []
    while len(taken) < 3 * len(_HEAVY) * _EACH:
        for worker, found in zip(
            (reader, other),
            await asyncio.wait_for(asyncio.gather(reader.read(15, 50), other.read(15, 50)), _TIMEOUT_S),
            strict=True,
        ):
            await settle(worker, found)
            taken += found
    assert len({entry.message.id for entry in taken}) == len(taken) == 3 * len(_HEAVY) * _EACH


async def test_a_mark_of_lists_is_gone_where_nobody_waits_whoever_says_it_last(kit: QueueKit) -> None:
    reader = await taking(kit, (0, 1))
    taken: list[Entry] = []
    while len(taken) < 2 * len(_HEAVY) * _EACH:
        taken += await asyncio.wait_for(reader.read(60, 1000), _TIMEOUT_S)
    # This settlement does not know yet that nobody waits.
    reader._backlog.note([0, 1], [10, 10])
    await settle(reader, taken)
    assert 0 not in await marks(kit)


async def test_after_a_read_that_redis_refuses_the_next_one_gives_what_waits_without_waiting(
    kit: QueueKit,
) -> None:
    reader = await taking(kit, (0, 1))
    await settle(reader, await reader.read(20, 1000))
    real, refused = wire.read, []

    def wrong(*arguments: Any) -> Any:
        refused.append(arguments)
        return ("XREADGROUP", "GROUP", "workers")

    with patch.object(wire, "read", wrong), pytest.raises(Unavailable):
        await reader.read(20, 1000)
    assert refused
    assert wire.read is real
    # What the steps of the refused read made ready is there as well.
    assert await asyncio.wait_for(reader.read(20, 60_000), 5)
