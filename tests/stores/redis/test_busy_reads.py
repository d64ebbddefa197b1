"""A worker that reads while messages wait fills the streams no oftener than it must, and in few writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import msgspec
import pytest
import structlog

from engine import redis_keys as keys
from engine.histogram import ROUND_TRIP_S, Histogram
from engine.records import Entry, Settlement
from engine.stores.redis import backlog
from engine.stores.redis.backlog import Backlog
from engine.stores.redis.link import RedisLink
from engine.stores.redis.lua_libraries import libraries
from engine.stores.redis.queue import QueueStreams
from tests.conftest import own_database
from tests.simulation.fair_load import SHARD, FairLoad
from tests.stores.redis.kit import message

_DATABASE = 11
_MARK = 8


@pytest.fixture
def url(redis_url: str) -> str:
    return redis_url.rpartition("/")[0] + f"/{_DATABASE}"


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, _DATABASE) as link:
        yield link


def test_a_stream_that_a_settlement_has_filled_is_not_filled_again_by_the_next_read() -> None:
    backlog = Backlog()
    backlog.note([1], [10])
    backlog.fills([2])
    backlog.counted([2], [(3, 20)])
    weights, empty = backlog.take()
    assert (weights, empty) == ({1: 10, 2: 20}, [1])
    # The read gave all that the stream had, so the next one fills it. What Redis has said meanwhile counts.
    backlog.keep(weights)
    backlog.note([1], [0])
    assert backlog.take() == ({2: 20}, [2])


def test_a_stream_of_which_a_read_gave_more_than_a_step_moves_is_filled_by_the_next_read_too() -> None:
    backlog, some = Backlog(), [Entry(shard=0, queue="normal", entry_id=b"1-1", message=message("m"))] * 300
    backlog.fills([0])
    backlog.note([0], [10])
    assert backlog.take() == ({0: 10}, [])
    backlog.gave({0: 6}, some)
    backlog.fills([0])
    backlog.note([0], [10])
    assert backlog.take() == ({0: 10}, [0])
    backlog.gave({0: 6}, some)
    for _ in range(2):
        backlog.fills([0])
    backlog.note([0], [10])
    assert backlog.take() == ({0: 10}, [])
    backlog.gave({0: 5}, some[:250])
    backlog.fills([0])
    backlog.note([0], [10])
    assert backlog.take() == ({0: 10}, [])


def test_a_step_moves_as_many_messages_as_the_backlog_counts_on() -> None:
    assert any(b"\nlocal MOVED_MAX = %d\n" % backlog.MOVED_MAX in code for _, code in libraries())


async def test_reads_of_a_backlog_go_with_the_settlements_and_in_order(link: RedisLink, url: str) -> None:
    load = FairLoad(link.batch, Random(0))
    await load.begin()
    await load.refill(_MARK)
    await load.admit({1: [1] * 200})
    commands, reading = (RedisLink(url, timeout_s=5, name=name) for name in ("commands", "reading"))
    for one in (commands, reading):
        one.round_trips = Histogram(ROUND_TRIP_S)
    reader = QueueStreams(
        commands, reading, queue="normal", shards=1, worker_name="w", timeout_s=5, log=structlog.get_logger()
    )
    reader.ready_max = _MARK
    await reader.join()
    given: list[str] = []
    while len(given) < 200:
        entries = await reader.read(4, 1000)
        given += [entry.message.id for entry in entries]
        await reader.settle(
            [Settlement(entry=entry, row=None, due_at_us=1, message=entry.message) for entry in entries]
        )
    assert given == sorted(set(given), key=lambda name: int(name.lstrip("m")))
    assert reading.round_trips is not None
    assert commands.round_trips is not None
    # The first read waits for whatever comes.
    assert sum(reading.round_trips.counts) < 5 < sum(commands.round_trips.counts)
    for one in (commands, reading):
        await one.close()


async def test_lists_that_an_older_version_wrote_are_read(link: RedisLink) -> None:
    load = FairLoad(link.batch, Random(0))
    await load.begin()
    await load.refill(_MARK)
    await load.admit({o: [1] * 50 for o in (1, 2, 3)})
    wait = keys.wait_key(SHARD, "normal")
    for organisation in (1, 2, 3):
        kept = await link.call("HGET", wait, organisation)
        shortest = msgspec.msgpack.encode(msgspec.msgpack.decode(kept))
        assert len(shortest) < len(kept)
        await link.call("HSET", wait, organisation, shortest)
    while any(load.waiting.values()) or load.unread[-1]:
        await load.settle(await load.read(50), _MARK)
    assert load.broken == []
