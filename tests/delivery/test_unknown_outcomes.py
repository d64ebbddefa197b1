"""Sends of unknown outcome are counted wherever a message goes, and end it at the bound of its queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from random import Random

import pytest

from engine.delivery.settlement import RetryPauses, UnknownOutcomes
from engine.delivery.settler import Settler
from engine.records import Message
from engine.routing.records import Route
from tests.delivery.carrier import Carrier
from tests.delivery.test_worker_routes import plan, settled, working
from tests.stores.redis.kit import QueueKit, log, message, now_us, until


@pytest.fixture
async def kit(redis_url: str) -> AsyncIterator[QueueKit]:
    kit = QueueKit(redis_url)
    await kit.start()
    yield kit
    await kit.stop()


async def events(kit: QueueKit) -> list[tuple[str, str, int]]:
    return [(r.event, r.code, r.attempt) for r in await kit.rows()]


async def test_a_provider_that_is_never_understood_gets_a_message_three_times(kit: QueueKit) -> None:
    odd = Carrier("odd", lambda _: "unknown")
    await kit.put(0, message("m"))
    async with working(kit, [odd], plan()):
        await settled(kit, 3)
    assert [m.unknown_sends for m in odd.submitted] == [0, 1, 2]
    assert await events(kit) == [("retrying", "", 1), ("retrying", "", 2), ("outcome_unknown", "", 3)]
    assert await kit.usage() == {7: (2, 0)}
    assert await kit.held() == 0


async def test_all_providers_together_get_it_so_often_and_a_known_outcome_does_not_count(
    kit: QueueKit,
) -> None:
    answers = iter(("unknown", "temporary", "unknown", "throttled", "unknown"))
    a, b = (Carrier(name, lambda _: next(answers)) for name in "ab")  # type: ignore[arg-type, return-value]
    await kit.put(0, message("m"))
    async with working(kit, [a, b], plan()):
        await settled(kit, 5)
    assert len(a.submitted) + len(b.submitted) == 5
    assert (await events(kit))[-1] == ("outcome_unknown", "", 5)


async def test_a_hedge_counts_and_is_not_made_when_it_would_end_the_message(kit: QueueKit) -> None:
    silent, other = Carrier("silent"), Carrier("other")
    silent.latency_s = None
    await kit.put(0, message("first"), message("last", unknown_sends=2))
    async with working(kit, [silent, other], plan(), hedge=True, timeout_s=8.0):
        await until(lambda: other.submitted, "the hedge of the one")
        await settled_but(kit, 1)
        # The other is still waited for: its answer comes, and it is sent.
        assert [(m.id, m.unknown_sends) for m in other.submitted] == [("first", 1)]
        silent.finish(2)
        await settled(kit, 3)
    assert sorted((r.message_id, r.event, r.provider) for r in await kit.rows()) == [
        ("first", "retrying", "silent"), ("first", "sent", "other"), ("last", "sent", "silent"),
    ]  # fmt: skip


async def settled_but(kit: QueueKit, waiting: int) -> None:
    """Until all but so many messages have left the queue and the due set."""

    async with asyncio.timeout(60):
        while await kit.waiting() != waiting or await kit.due():  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.01)


async def test_at_most_once_holds_when_a_worker_is_killed(kit: QueueKit) -> None:
    stuck, other = Carrier(), Carrier()
    stuck.latency_s = None
    await kit.put(0, message("m"))
    async with working(kit, [stuck], plan(), at_most_once=True):
        await until(lambda: stuck.submitted, "the send")
    await kit.fence("w1")
    async with working(kit, [other], plan(), at_most_once=True, name="w2"):
        await settled(kit, 1)
    assert other.submitted == []
    assert await events(kit) == [("outcome_unknown_released", "taken_over", 1)]
    assert await kit.usage() == {7: (0, 2)}


async def test_at_least_once_counts_the_sends_of_killed_workers(kit: QueueKit) -> None:
    carriers = [Carrier() for _ in range(4)]
    carriers[0].answer = lambda _: "unknown"
    carriers[0].latency_s = 0.0
    await kit.put(0, message("m"))
    # The first answers nonsense once; then workers are killed with it in flight.
    async with working(kit, [carriers[0]], plan(), name="w0"):
        await until(lambda: carriers[0].submitted, "the first send")
        carriers[0].latency_s = None
        await until(lambda: len(carriers[0].submitted) == 2, "the second send")
    await kit.fence("w0")
    carriers[1].latency_s = None
    async with working(kit, [carriers[1]], plan(), name="w1"):
        await until(lambda: carriers[1].submitted, "the third send")
    await kit.fence("w1")
    async with working(kit, [carriers[2]], plan(), name="w2"):
        await settled(kit, 2)
    assert carriers[2].submitted == []
    assert await events(kit) == [("retrying", "", 1), ("outcome_unknown", "taken_over", 2)]


@pytest.mark.parametrize("at_most_once", [False, True])
async def test_a_message_taken_over_is_remembered_as_such_when_it_is_put_off(
    kit: QueueKit, at_most_once: bool
) -> None:
    await kit.put(0, message("m"))
    assert await (await kit.reader("dead")).read(10, 1000)
    await kit.fence("dead")
    # Its provider is paused, and the other one is not on its route.
    paused, open_ = Carrier("paused"), Carrier("open")
    routes = plan(Route(prefix="+98", providers=("paused",)), paused=("paused",))
    async with working(kit, [paused, open_], routes, at_most_once=at_most_once, name="heir"):
        if at_most_once:
            await settled(kit, 1)
            assert await events(kit) == [("outcome_unknown_released", "taken_over", 1)]
        else:
            waiting = await until_put_off(kit)
            assert waiting.unknown_sends == 1
    assert paused.submitted == open_.submitted == []


async def until_put_off(kit: QueueKit) -> Message:
    """The one message, once it is put off."""
    async with asyncio.timeout(60):
        while not (found := await kit.put_off_messages()):  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.01)
    return found[0]


@pytest.mark.parametrize("at_most_once", [False, True])
async def test_a_draining_worker_hands_back_what_it_took_over_with_its_count_or_ends_it(
    kit: QueueKit, at_most_once: bool
) -> None:
    await kit.put(0, message("m"))
    assert await (await kit.reader("dead")).read(10, 1000)
    await kit.fence("dead")
    heir = await kit.reader("heir")
    unknown = UnknownOutcomes(sends_max=1 if at_most_once else 3, charged=not at_most_once)
    settler = Settler(
        heir, pauses=RetryPauses(first_us=1, max_us=1), hand_s=30.0, now_us=now_us, clock_s=time.monotonic,
        rng=Random(1), log=log(), unknown=unknown,
    )  # fmt: skip
    entries = await heir.take_over(60_000, 10)
    settler.took(len(entries))
    for entry in entries:
        settler.put_back(entry)
    running = asyncio.create_task(settler.run())
    await asyncio.wait_for(settler.settled.wait(), 60)
    running.cancel()
    assert await events(kit) == [("outcome_unknown_released", "taken_over", 1)] * at_most_once
    left = await (await kit.reader("next")).read(10, 50)
    assert [e.message.unknown_sends for e in left] == [1] * (not at_most_once)
    assert settler.counts.outcome_unknown == at_most_once
