"""What comes where nobody waits is given at once, beside the reading of a backlog, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from engine.delivery.ports import Apart
from engine.delivery.settlement import RetryPauses, after_verdict
from engine.records import Entry, Verdict
from engine.stores.redis import reads
from engine.stores.redis.queue import QueueStreams
from tests.stores.redis.kit import QueueKit, message, now_us

_HEAVY, _LIGHT = 0, 1
_MANY = 2000
_PAUSES = RetryPauses(first_us=1000, max_us=1000)


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


async def reading_a_backlog(kit: QueueKit, messages: int) -> tuple[QueueStreams, list[Entry]]:
    """A reader of which it is known that more waits in one shard, and what it has read of that."""
    reader = await kit.reader("w1")
    reader.reads_aside = True
    await kit.put(_HEAVY, *[message(f"heavy{n:04}") for n in range(messages)])
    found = await reader.read(4, 1000)
    assert found
    assert reader.more
    return reader, found


async def held_up_read(
    kit: QueueKit, reader: QueueStreams, seconds: float
) -> tuple[asyncio.Task[object], asyncio.Task[list[Entry]]]:
    """Let nothing on the connection of the commands be answered for so long, and begin to read meanwhile."""
    held = asyncio.create_task(kit.commands["w1"].call("BLPOP", "nothing", seconds))
    reading = asyncio.create_task(reader.read(4, 1000))
    await asyncio.sleep(0.05)
    return held, reading


def names(entries: list[Entry]) -> list[str]:
    return [entry.message.id for entry in entries]


async def settle(reader: QueueStreams, entries: list[Entry]) -> None:
    verdict = Verdict(kind="accepted", provider="p", provider_message_id="x1", code="0", latency_us=5)
    done = [after_verdict(entry, verdict, now_us(), _PAUSES, Random(1)) for entry in entries]
    assert await reader.settle(done) == len(entries)


async def test_what_comes_where_nobody_waits_does_not_wait_for_the_answer_to_a_read_of_a_backlog(
    kit: QueueKit,
) -> None:
    reader, found = await reading_a_backlog(kit, 40)
    held, reading = await held_up_read(kit, reader, 1)
    await kit.put(_LIGHT, message("light"))
    assert names(await reading) == ["light"]
    assert not held.done()
    # The other read goes on, and is answered in its time, and nothing of it is lost.
    while len(found) < 40:
        found += await reader.read(4, 1000)
    assert held.done()
    assert names(found) == [f"heavy{n:04}" for n in range(40)]


async def test_what_comes_where_nobody_waits_is_given_while_time_passes_before_a_read_of_a_backlog(
    kit: QueueKit,
) -> None:
    reader, found = await reading_a_backlog(kit, 40)
    reader.apart = Apart(1.0)
    reading = asyncio.create_task(reader.read(4, 1000))
    await asyncio.sleep(0.05)
    pending = await kit.pending()
    await kit.put(_LIGHT, message("light"))
    assert names(await reading) == ["light"]
    # Nothing more of the backlog was given out.
    assert await kit.pending() == pending + 1
    reader.apart = Apart()
    while len(found) < 40:
        found += await reader.read(4, 1000)
    assert names(found) == [f"heavy{n:04}" for n in range(40)]


async def test_no_read_is_begun_for_a_worker_that_reads_no_more(kit: QueueKit) -> None:
    reader, found = await reading_a_backlog(kit, 40)
    reader.apart = Apart(5.0)
    reading = asyncio.create_task(reader.read(4, 1000))
    await asyncio.sleep(0.05)
    await kit.put(_LIGHT, message("light"))
    found += await reading
    pending = await kit.pending()
    assert await asyncio.wait_for(reader.rest(), 2.0) == []
    assert await kit.pending() == pending == len(found)
    # It may read again, and goes on where it was.
    reader.apart = Apart()
    while len(found) < 41:
        found += await reader.read(4, 1000)
    heavy = [name for name in names(found) if name != "light"]
    assert heavy == [f"heavy{n:04}" for n in range(40)]


async def test_a_backlog_that_ends_while_time_passes_before_its_read_leaves_a_shard_to_that(
    kit: QueueKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "_ASIDE_APART_S", 0.0)
    reader, found = await reading_a_backlog(kit, 4)
    while reader._reads._busy:
        found += await reader.read(4, 1)
    # As far as it knows more waits, and its next read is some time away.
    reader._backlog.note([_HEAVY], [10])
    reader.apart = Apart(0.3)
    reading = asyncio.create_task(reader.read(4, 1000))
    await asyncio.sleep(0.05)
    await kit.put(_LIGHT, message("light"))
    assert names(await reading) == ["light"]
    # Then nobody waits any more, and it reads on before that.
    reader._backlog.note([_HEAVY], [0])

    async def some() -> list[Entry]:
        while not (found := await reader.read(4, 1000)):
            pass
        return found

    reading = asyncio.create_task(some())
    await asyncio.sleep(0.5)
    await kit.put(_HEAVY, message("next"))
    assert names(await asyncio.wait_for(reading, 5.0)) == ["next"]


async def test_what_is_to_be_written_with_a_read_of_a_backlog_is_asked_for_right_before_it(
    kit: QueueKit,
) -> None:
    reader, found = await reading_a_backlog(kit, 40)
    settled = []

    def comes() -> bool:
        settled.append(asyncio.create_task(settle(reader, [] if settled else found)))
        return True

    reader.apart = Apart(0.3, comes)
    reading = asyncio.create_task(reader.read(4, 1000))
    await asyncio.sleep(0.1)
    assert not settled
    more = await reading
    while not more:
        more = await reader.read(4, 1000)
    # Both were one write, so Redis answered both.
    await asyncio.wait_for(settled[0], 0)
    assert await kit.pending() == len(more)
    # While nothing is known to wait there is no such read.
    reader.apart = Apart(0.0, comes)
    while reader.more:
        await reader.read(100, 1)
    asked = len(settled)
    await reader.read(4, 1)
    assert len(settled) == asked


async def test_what_is_under_way_when_no_more_is_read_is_given_and_nothing_stays_pending(
    kit: QueueKit,
) -> None:
    reader, found = await reading_a_backlog(kit, 40)
    held, reading = await held_up_read(kit, reader, 0.3)
    await kit.put(_LIGHT, message("light"))
    found += await reading
    rest = await reader.rest()
    await held
    assert rest
    assert len(names(found + rest)) == len(set(names(found + rest)))
    await settle(reader, found + rest)
    assert await kit.pending() == 0
    assert await reader.rest() == []


async def test_an_answer_that_was_not_taken_for_long_is_looked_for_and_given_once(kit: QueueKit) -> None:
    reader, found = await reading_a_backlog(kit, 40)
    held, reading = await held_up_read(kit, reader, 0.3)
    await kit.put(_LIGHT, message("light0"))
    found += await reading
    await held
    # Meanwhile the worker has no room. The read of the backlog is answered, and nobody takes it.
    await asyncio.sleep(0.3)
    assert await kit.pending() > len(found)
    await kit.put(_LIGHT, message("light1"))
    async with asyncio.timeout(20):
        while len(found) < 42:
            found += await reader.read(4, 50)
    assert sorted(names(found)) == sorted(["light0", "light1", *[f"heavy{n:04}" for n in range(40)]])
    await settle(reader, found)
    assert await kit.waiting() == await kit.pending() == 0


async def test_what_was_in_a_lost_answer_is_not_overtaken_while_a_read_beside_waits(kit: QueueKit) -> None:
    reader, found = await reading_a_backlog(kit, 200)
    held, reading = await held_up_read(kit, reader, 0.3)
    await kit.put(_LIGHT, message("light"))
    light = await reading
    assert names(light) == ["light"]
    await held
    # As while the queue is paused: the read of the backlog is answered, and nobody takes it.
    await asyncio.sleep(0.3)
    async with asyncio.timeout(20):
        while len(found) < 200:
            found += await reader.read(4, 50)
    assert names(found) == [f"heavy{n:04}" for n in range(200)]
    await settle(reader, light + found)
    assert await kit.pending() == 0


async def test_while_a_lost_answer_is_looked_for_nothing_is_read_beside_and_each_message_is_given_once(
    kit: QueueKit,
) -> None:
    reader, found = await reading_a_backlog(kit, 40)
    held, reading = await held_up_read(kit, reader, 0.2)
    reading.cancel()
    await asyncio.wait([reading])
    # What these give has perhaps been given by the canceled reads.
    await kit.put(_LIGHT, *[message(f"light{n}") for n in range(3)])
    await held
    async with asyncio.timeout(20):
        while len(found) < 43:
            found += await reader.read(4, 50)
            await asyncio.sleep(0.001)
    assert sorted(names(found)) == sorted(
        [*[f"light{n}" for n in range(3)], *[f"heavy{n:04}" for n in range(40)]]
    )
    await settle(reader, found)
    assert await kit.waiting() == await kit.pending() == 0


@pytest.mark.parametrize(("seed", "apart_s"), [(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.003), (4, 0.003)])
async def test_messages_of_a_shard_are_given_once_and_in_order_however_its_reads_take_turns(
    kit: QueueKit, seed: int, apart_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The two reads take turns as often as can be.
    monkeypatch.setattr(reads, "_ASIDE_APART_S", 0.0)
    begins, looks = reads.Reads._read_aside, 0

    def look(self: reads.Reads, entries: int) -> None:
        nonlocal looks
        looks += bool(self._main)
        # What a read beside it must not ask is known, once it is written.
        assert self._main.shards or not self._main or apart_s
        begins(self, entries)
        assert not self._aside.shards & self._main.shards

    monkeypatch.setattr(reads.Reads, "_read_aside", look)
    rng = Random(seed)
    reader, found = await reading_a_backlog(kit, _MANY)
    reader.apart = Apart(apart_s)
    light = 300

    async def come() -> None:
        number = 0
        while number < light:
            some = min(rng.choice((1, 1, 1, 8)), light - number)
            await kit.put(_LIGHT, *[message(f"light{number + n:04}") for n in range(some)])
            number += some
            await asyncio.sleep(rng.choice((0, 0, 0.001, 0.008)))

    await settle(reader, found)
    coming = asyncio.create_task(come())
    turns = 0
    async with asyncio.timeout(60):
        while len(found) < _MANY + light:
            some = await reader.read(rng.choice((2, 8)), 20)
            turns += bool(some) and {entry.shard for entry in some} == {_LIGHT}
            await settle(reader, some)
            found += some
            if rng.random() < 0.3:
                await asyncio.sleep(rng.choice((0, 0.002)))
    await coming
    for kind, count in (("heavy", _MANY), ("light", light)):
        of_kind = [name for name in names(found) if name.startswith(kind)]
        assert of_kind == [f"{kind}{n:04}" for n in range(count)]
    assert turns > (0 if apart_s else 10)
    assert looks > 10
