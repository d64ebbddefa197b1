"""What a flush is told of the limits of its organisations, by a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from random import Random

import msgspec
import pytest

from engine.credit.flush import Admitted, Flush
from engine.limits.records import Backlog, LimitRow, ShardLimits
from engine.organisations import Limits
from engine.records import Addressed, Submission
from engine.redis_keys import wait_key
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.limits import RedisLimits, limit
from engine.stores.redis.link import RedisLink
from tests.conftest import own_database
from tests.simulation.fair_load import SHARD, FairLoad


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    async with own_database(redis_url, 8) as link:
        yield link


class Holder:
    """One that flushes, to one shard."""

    def __init__(self, link: RedisLink) -> None:
        self.load = FairLoad(link.batch, Random(1))
        self._store = RedisAdmission(link, link, 1)
        self._sequence = 0

    async def flush(self, *submissions: Submission, again: bool = False) -> Admitted:
        self._sequence += not again
        flush = Flush(SHARD, self.load._epoch, self._sequence, list(enumerate(submissions)), [])
        [outcome] = await self._store.admit("h", [flush], 5.0)
        assert isinstance(outcome, Admitted)
        return outcome

    def of(self, organisation_id: int, messages: int, rate_max: float = 0.0) -> Submission:
        addressed = [
            Addressed(queue="normal", message=self.load.message(organisation_id, 1)) for _ in range(messages)
        ]
        self.load.waiting.setdefault(organisation_id, []).extend(a.message for a in addressed)
        return Submission(
            organisation_id=organisation_id, messages=addressed, units=messages, rate_max=rate_max
        )


async def test_a_bucket_is_drawn_from_once_for_each_flush(link: RedisLink) -> None:
    holder = Holder(link)
    await holder.load.begin()
    # So slow that nothing comes back meanwhile.
    first = await holder.flush(holder.of(7, 3, 0.1), holder.of(7, 2, 0.1), holder.of(8, 1))
    [level] = first.levels
    assert (level.organisation_id, level.messages) == (7, pytest.approx(1 - 5, abs=0.1))
    # Sent again, because its answer was lost: it is not drawn again, and says nothing.
    assert (await holder.flush(again=True)).levels == ()
    [level] = (await holder.flush(holder.of(7, 1, 0.1))).levels
    assert level.messages == pytest.approx(1 - 6, abs=0.5)
    # One that has come back is full, and no fuller.
    [level] = (await holder.flush(holder.of(8, 10, 1e6))).levels
    assert level.messages == 1e6 - 10
    # One that had a low rate has filled at the high one.
    await holder.flush(holder.of(10, 1, 0.1))
    await asyncio.sleep(0.05)
    [level] = (await holder.flush(holder.of(10, 1, 1e6))).levels
    assert level.messages > 10_000
    # A debt of a second stays one of a second at a rate that is a thousandth of it.
    [level] = (await holder.flush(holder.of(9, 2000, 1000.0))).levels
    assert level.messages == 1000 - 2000
    [level] = (await holder.flush(holder.of(9, 1, 1.0))).levels
    assert -2 <= level.messages <= 0


async def test_a_flush_is_told_what_its_organisations_have_waiting(link: RedisLink) -> None:
    holder, limits = Holder(link), RedisLimits(link, 1, lambda _: SHARD)
    await holder.load.begin()
    await holder.load.refill(4)
    assert (await holder.flush(holder.of(7, 2))).backlogs == ()
    told = await holder.flush(holder.of(7, 100), holder.of(8, 50), holder.of(9, 1))
    # The stream takes two, and one because its turn is now; of 8 and of 9 one too.
    assert [list(b) for b in told.backlogs] == [[7, 97], [8, 49]]
    assert await limits.backlogs([7, 8, 9]) == [
        Backlog(7, 97, 97, None, paused=False),
        Backlog(8, 49, 49, None, paused=False),
        Backlog(9, 0, 0, None, paused=False),
    ]
    await link.call(*limit(ShardLimits(SHARD, "", "1", True, [LimitRow(7, Limits(), True)])))
    holder.load.paused.add(7)
    told = await holder.flush(holder.of(7, 10))
    assert [list(b) for b in told.backlogs] == [[7, 107]]
    while (await limits.backlogs([8]))[0].messages:
        await holder.load.settle(await holder.load.read(10), 4)
    seen = {b.organisation_id: b for b in await limits.backlogs([7, 8])}
    assert seen[7] == Backlog(7, 107, 107, None, paused=True)
    assert seen[8].messages == 0


async def test_the_pace_of_a_backlog_is_known_after_a_second_and_anew_after_a_pause(link: RedisLink) -> None:
    holder, limits = Holder(link), RedisLimits(link, 1, lambda _: SHARD)
    await holder.load.begin()
    await holder.load.refill(4)
    # The first step fills the stream.
    await holder.flush(holder.of(7, 900), holder.of(8, 900))

    async def rates() -> list[float | None]:
        return [b.rate for b in await limits.backlogs([7, 8])]

    async def sends(steps: int) -> float:
        """Send four messages a step; at which pace, segments a second."""
        began_s, before = time.monotonic(), sum(b.messages for b in await limits.backlogs([7, 8]))
        for _ in range(steps):
            await holder.load.settle(await holder.load.read(4), 4)
            await asyncio.sleep(0.05)
        left = before - sum(b.messages for b in await limits.backlogs([7, 8]))
        return left / (time.monotonic() - began_s)

    for _ in range(2):
        await sends(4)
        assert await rates() == [None, None]
        pace = await sends(26)
        assert await rates() == pytest.approx([pace / 2, pace / 2], rel=0.25)
        await asyncio.sleep(3.0)
    # One that begins to wait has its share at once.
    await sends(26)
    await holder.flush(holder.of(9, 900))
    [new] = await limits.backlogs([9])
    assert new.rate == pytest.approx((await sends(10)) / 2, rel=0.4)


async def test_beside_an_older_version_the_pace_is_that_of_the_last_ten_seconds(link: RedisLink) -> None:
    holder, limits = Holder(link), RedisLimits(link, 1, lambda _: SHARD)
    await holder.load.begin()
    await holder.load.refill(4)
    await holder.flush(holder.of(7, 900))
    wait = wait_key(SHARD, "normal")
    # What an older version writes: when the window began, and the segments that were moved in it and before.
    now_s = int(time.time())
    await link.call("HSET", wait, "moved", msgspec.msgpack.encode([now_s - now_s % 10, 300, 300]))
    for _ in range(3):
        await holder.load.settle(await holder.load.read(4), 4)
        [seen] = await limits.backlogs([7])
        assert seen.rate is not None
        assert 30 <= seen.rate <= 62
