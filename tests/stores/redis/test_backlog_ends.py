"""What an operator is told of the end of a backlog, from a real Redis and the plan of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from engine.delivery.settlement import put_off_in
from engine.limits.records import LimitRow
from engine.organisations import Limits
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.routing import Routing
from engine.stores.status import OrganisationBacklog, StatusReader
from tests.stores.redis.kit import SHARDS, now_us
from tests.stores.redis.test_put_off import PutOffKit, of, sent

SLOW, QUICK = "3 slow", "3 quick"
CONFIGURED = {"slow": 500.0, "quick": None}


class Looks(PutOffKit):
    """What is told of the queue."""

    pool: Pool

    async def told(self) -> dict[int, OrganisationBacklog]:
        # Nobody asks for the activity here.
        reader = StatusReader(self.pool, self.link, cast(Any, None), SHARDS)
        found = await reader.backlog("normal", now_us() // 1000, await reader.takes(CONFIGURED))
        return {o.organisation_id: o for o in found.organisations}


@pytest.fixture
async def looks(redis_url: str, books_url: str) -> AsyncIterator[Looks]:
    looks = Looks(redis_url)
    looks.pool = await Pool.connect(books_url)
    await looks.start()
    yield looks
    await looks.stop()
    await looks.pool.close()


async def test_what_is_left_for_a_slow_provider_ends_when_that_has_taken_it(looks: Looks) -> None:
    routing = Routing(looks.pool, ["slow", "quick"])
    await routing.set_throughput("slow", 2.0)
    reader = await looks.reader("w")
    await looks.put_off(reader, *of(7, 40), way=SLOW)
    await looks.put_off(reader, *of(7, 400, first=100), way=QUICK)
    # Nothing is recalled for the slow one yet.
    assert (await looks.told())[7].ends_in_ms is None
    # All of the other one's has left, and two for the slow one.
    while found := await looks.recalled(reader, 200, way=QUICK):
        await sent(reader, found)
    await sent(reader, await looks.recalled(reader, 2, way=SLOW))
    seen = (await looks.told())[7]
    assert (seen.messages, seen.put_off, seen.segments_in_10_s) == (38, 38, 402)
    # At the pace of the last ten seconds it would be one second.
    assert seen.ends_in_ms == 19_000
    await routing.set_throughput("slow", None)
    assert (await looks.told())[7].ends_in_ms == 76
    await routing.set_paused("slow", True)
    assert (await looks.told())[7].ends_in_ms is None


async def test_organisations_with_messages_put_off_share_their_provider_by_weight(looks: Looks) -> None:
    reader = await looks.reader("w")
    await looks.limit(LimitRow(8, Limits(weight=3.0), paused=False))
    await looks.put_off(reader, *of(7, 101), *of(8, 303), way=SLOW)
    found = await looks.recalled(reader, 4, way=SLOW)
    await sent(reader, found)
    told = await looks.told()
    assert sum(o.put_off for o in told.values()) == 400
    assert {o.ends_in_ms for o in told.values()} == {800}
    # What comes back was not sent.
    await reader.settle([put_off_in(entry, SLOW) for entry in await looks.recalled(reader, 4, way=SLOW)])
    assert {o.ends_in_ms for o in (await looks.told()).values()} == {800}


async def test_what_is_put_off_of_a_paused_organisation_is_told_as_paused(looks: Looks) -> None:
    reader = await looks.reader("w")
    await looks.put_off(reader, *of(7, 30), *of(8, 20), way=SLOW)
    await looks.limit(LimitRow(7, Limits(), paused=True))
    told = StatusReader(looks.pool, looks.link, cast(Any, None), SHARDS)
    now_ms = now_us() // 1000
    backlog = await told.backlog("normal", now_ms)
    status = (await told.queues(now_ms))["normal"]
    assert (backlog.messages, backlog.paused) == (status.waiting, status.paused) == (50, 30)
    await looks.limit()
    assert (await told.backlog("normal", now_ms)).paused == 0
