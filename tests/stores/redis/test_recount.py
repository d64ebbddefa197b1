"""The messages of a shard are counted piece by piece while they move, to the unit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any, cast

import msgspec
import pytest

from engine import redis_keys as keys
from engine.stores.redis import queue_wire as wire
from engine.stores.redis import recount as counting
from engine.stores.redis import recounting
from engine.stores.redis.audit_cut import instant_of
from engine.stores.redis.link import Argument, RedisLink
from engine.stores.redis.recount import Disturbed, Recount, recount
from engine.stores.redis.wire import ReplyError
from tests.conftest import own_database
from tests.simulation.test_model import Sequence, Side
from tests.stores.redis.kit import message

_DATABASE = 9
_SHARD = 0
# Of the arguments of a step.
_PLACE = 16
# These close the books of the shard, which an audit sees as a loss.
_CLOSING = ("generation", "seal", "close", "begin", "fence")


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, _DATABASE) as link:
        yield link


class Moving:
    """A link to a shard in which all kinds of things happen before each of its calls."""

    def __init__(self, link: RedisLink, rng: Random) -> None:
        self.link = link
        self.rng = rng
        self.steps = 0
        # How much happens before a call.
        self.moves = 0
        self._sequence = Sequence(rng)
        self._side = Side("a run")

    async def begin(self) -> None:
        await self.link.call("SET", keys.generation_key(_SHARD), "g1")
        await self.link.batch([wire.make_group("normal", _SHARD)])
        await self.move(300)

    async def move(self, times: int) -> None:
        for _ in range(times):
            what, *given = self._sequence.next(self._side.entries)  # type: ignore[arg-type]
            if what in _CLOSING:
                continue
            reply = (await self.link.batch([self._side.command(what, *given)]))[0]
            assert not isinstance(reply, ReplyError), (what, reply)
            self._side.remember(what, given, reply)
            if what == "register" and given[0] in self._sequence.sequences:
                self._sequence.sequences[given[0]] = 0
            if what == "admit" and reply[0] == b"applied":
                self._sequence.sequences[given[0]] = given[1].sequence

    async def call(self, *arguments: Argument, timeout_s: float | None = None) -> Any:
        self.steps += 1
        if len(arguments) > 20 and arguments[_PLACE]:
            # The archiver has stored what was read before.
            await self.link.call("XTRIM", keys.activity_key(_SHARD), "MINID", arguments[_PLACE])
        await self.move(self.moves)
        return await self.link.call(*arguments, timeout_s=timeout_s)


async def counted(moving: Moving | RedisLink, messages: int = 1, token: str = "t") -> Recount:
    return await recount(cast(RedisLink, moving), _SHARD, messages, token, 10)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps so small that a count takes many."""
    monkeypatch.setattr(counting, "_MESSAGES", 3)
    monkeypatch.setattr(counting, "_CHUNKS", 1)
    monkeypatch.setattr(counting, "_ENTRIES_MAX", 2)
    monkeypatch.setattr(counting, "_BREATH_S", 0)


@pytest.mark.parametrize("seed", range(2))
async def test_a_count_is_exact_whatever_is_admitted_sent_put_off_and_canceled_meanwhile(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch, small: None, seed: int
) -> None:
    moving = Moving(link, Random(seed))
    await moving.begin()
    parts = 1 + seed % 3
    monkeypatch.setattr(counting, "PART_MAX", 1)
    for moving.moves in (0, 1, 3, 1):
        before = moving.steps
        found = await counted(moving, parts - 1)
        assert found.units == found.held > 0
        assert moving.steps - before > 10 * parts
        assert await link.call("EXISTS", keys.moved_key(_SHARD)) == 0
    # What one message less says.
    await link.call("INCRBY", keys.held_key(_SHARD), -2)
    found = await counted(moving)
    assert found.units == found.held + 2


@pytest.mark.parametrize("where", ["due", "dead", "list", "ready"])
async def test_a_message_that_somebody_has_removed_is_missed(link: RedisLink, where: str) -> None:
    moving = Moving(link, Random(3))
    await moving.begin()
    dead = msgspec.msgpack.encode(message("m1"))
    await link.call("XADD", keys.dead_key(_SHARD, "normal"), "*", "m", dead)
    await link.call("INCRBY", keys.held_key(_SHARD), 2)
    before = await counted(link)
    assert before.units == before.held == (await instant_of(link, _SHARD, None, 10)).cut.recount
    if where == "due":
        assert await link.call("ZPOPMIN", keys.due_key(_SHARD, "normal"))
    elif where == "list":
        wait = keys.wait_key(_SHARD, "normal")
        chunks = [
            field for field in await link.call("HKEYS", wait) if b":" in field[:-1] and field[:1].isdigit()
        ]
        await link.call("HDEL", wait, chunks[0])
    else:
        stream = (keys.dead_key if where == "dead" else keys.queue_key)(_SHARD, "normal")
        assert await link.call("XTRIM", stream, "MAXLEN", await link.call("XLEN", stream) - 1)
    after = await counted(link)
    assert after.held == before.held
    assert after.units < before.units
    assert after.units == (await instant_of(link, _SHARD, None, 10)).cut.recount


async def test_a_count_that_was_not_told_all_that_happened_says_so_instead_of_a_sum(
    link: RedisLink, small: None
) -> None:
    moving = Moving(link, Random(1))
    await moving.begin()
    real = moving.move
    trimmed = False

    async def move(times: int) -> None:
        nonlocal trimmed
        if times and moving.steps > 10 and not trimmed:
            trimmed = True
            await real(20)
            await link.call("XTRIM", keys.activity_key(_SHARD), "MAXLEN", 0)

    moving.move, moving.moves = move, 1  # type: ignore[method-assign]
    with pytest.raises(Disturbed, match="in time"):
        await counted(moving)
    # Whoever gave up begins again at once, and others when the notes are gone.
    with pytest.raises(Disturbed, match="another audit"):
        await counted(link, token="other")
    assert 0 < await link.call("PTTL", keys.moved_key(_SHARD)) <= 20_000
    assert (await counted(link)).units > 0
    assert (await counted(link, token="other")).units > 0


async def test_messages_with_the_same_time_are_all_counted_while_they_are_taken_away(
    link: RedisLink, small: None
) -> None:
    some = [msgspec.msgpack.encode(message(f"m{n:05}")) for n in range(200)]
    due = keys.due_key(_SHARD, "normal")
    await link.call("ZADD", due, *(x for payload in some for x in (77, payload)))
    await link.call("SET", keys.held_key(_SHARD), 400)
    rng, real = Random(5), link.call

    class Losing:
        async def call(self, *arguments: Argument, timeout_s: float | None = None) -> Any:
            # Each time the last one of a page is removed, and recorded as canceled.
            page = await real(*arguments, timeout_s=timeout_s)
            if "due" in arguments and page[7]:
                gone = msgspec.msgpack.decode(page[7])
                await real("ZREM", due, page[7])
                row = [1, 7, gone[0], 1, "canceled", "normal", "+1", "", "", 2, 2]
                await real("XADD", keys.activity_key(_SHARD), "*", "b", msgspec.msgpack.encode([row]))
                await real("DECRBY", keys.held_key(_SHARD), 2)
            await asyncio.sleep(rng.random() / 1000)
            return page

    found = await counted(cast(RedisLink, Losing()))
    assert found.units == found.held < 400


async def test_memory_is_bounded_by_parts_and_a_step_is_short(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0

    class Watched(recounting.UnitsCount):
        def add(self, messages: Any) -> None:
            nonlocal most
            super().add(messages)
            most = max(most, len(self._there))

    monkeypatch.setattr(counting, "UnitsCount", Watched)
    monkeypatch.setattr(counting, "PART_MAX", 2_000)
    due = keys.due_key(_SHARD, "express")
    for n in range(0, 20_000, 1_000):
        payloads = [(n + i, msgspec.msgpack.encode(message(f"m{n + i:06}"))) for i in range(1_000)]
        await link.call("ZADD", due, *(x for pair in payloads for x in pair))
    await link.call("SET", keys.held_key(_SHARD), 40_000)
    await link.call("CONFIG", "RESETSTAT")
    found = await counted(link, 20_000)
    assert found == Recount(40_000, 40_000)
    assert most < 2_600
    [stats] = [
        line
        for line in (await link.call("INFO", "commandstats")).decode().split()
        if line.startswith("cmdstat_fcall:")
    ]
    spent = dict(part.split("=") for part in stats.partition(":")[2].split(","))
    assert float(spent["usec_per_call"]) < 20_000
