"""New messages are refused as operators wish, and nothing that is under way."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import Closed, Refusal, Unavailable
from engine.intake.closures import Closures
from engine.records import MessageDraft, Queue

NORMAL, EXPRESS = (MessageDraft(to="+1", text="x", queue=queue) for queue in ("normal", "express"))
UNNAMED = MessageDraft(to="+1", text="x")
WRONG = Refusal("invalid_field", 422, "It is wrong.")


class Store:
    """What is wished, as the test says."""

    def __init__(self) -> None:
        self.queues: set[Queue] = set()
        self.node = False
        self.away = False

    async def closed(self) -> tuple[frozenset[Queue], bool]:
        if self.away:
            raise Unavailable("PostgreSQL is away.")
        return frozenset(self.queues), self.node


class World:
    def __init__(self) -> None:
        self.store, self.now_s = Store(), 100.0
        self.closures = Closures(self.store, notice_s=10.0, clock_s=lambda: self.now_s, look_s=0.001)


async def test_a_request_with_a_message_for_a_drained_queue_is_refused_as_a_whole() -> None:
    world = World()
    await world.closures.refresh()
    world.closures.check([NORMAL, EXPRESS])
    world.store.queues = {"normal"}
    await world.closures.refresh()
    world.closures.check([EXPRESS, WRONG])
    for drafts in ([NORMAL], [EXPRESS, NORMAL], [UNNAMED]):
        with pytest.raises(Closed) as refused:
            world.closures.check(drafts)
        assert (refused.value.code, refused.value.retry_after) == ("queue_drained", 30)
    world.store.away = True
    await world.closures.refresh()
    with pytest.raises(Closed):
        world.closures.check([NORMAL])
    world.store.away, world.store.queues = False, set()
    await world.closures.refresh()
    world.closures.check([NORMAL])


async def test_a_drained_node_is_not_ready_at_once_and_refuses_when_balancers_had_time() -> None:
    world = World()
    await world.closures.refresh()
    world.store.node = True
    await world.closures.refresh()
    assert (world.closures.node_drained, world.closures.node_closed) == (True, False)
    world.closures.check([NORMAL])
    world.now_s += 10
    await world.closures.refresh()
    with pytest.raises(Closed) as refused:
        world.closures.check([NORMAL])
    assert refused.value.code == "node_drained"
    world.store.node = False
    await world.closures.refresh()
    world.closures.check([NORMAL])
    # One that starts on a drained node never was ready.
    late = World()
    late.store.node = True
    await late.closures.refresh()
    assert late.closures.node_closed


async def test_the_supervisor_is_told_that_nothing_is_taken_once_nothing_is_under_way() -> None:
    world, told, under_way = World(), asyncio.Queue[bool](), 1
    world.store.node = True
    await world.closures.refresh()
    running = asyncio.create_task(world.closures.run(told.put_nowait, lambda: under_way))
    assert await told.get() is True
    under_way = 0
    while await told.get():
        pass
    world.store.node = False
    while not await told.get():
        pass
    running.cancel()
