"""What one provider keeps in flight or in hand holds up no message of another: on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from engine.delivery.places import Places
from engine.delivery.ports import Recall
from engine.records import Entry, Message, Queue
from engine.routing.records import Route, RoutingPlan
from tests.delivery.carrier import Carrier
from tests.delivery.test_turns_of_delivery import TRIP_S, Backlog, PaceInMemory, started
from tests.delivery.turns import VirtualTime
from tests.stores.redis.kit import message

HUNG = ("h0", "h1", "h2", "h3", "h4", "h5")
ROUTES = (Route(prefix="+49", providers=("well",)), Route(prefix="+98", providers=HUNG))

SLOW = (Route(prefix="+98", providers=("slow",)),)


class Arriving(Backlog):
    """A queue's reader to which messages come; a read waits for them."""

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self.queue = queue
        self._came = asyncio.Event()
        self._count = 0
        # The ids of those that came alone.
        self._alone: set[str] = set()

    def arrive(self, to: str, count: int = 1, **fields: object) -> list[Message]:
        came = [message(f"m{self._count + n}", to=to, **fields) for n in range(count)]
        self._count += count
        self._alone.update(m.id for m in came if count == 1)
        entries = [Entry(shard=0, queue=self.queue, entry_id=m.id.encode(), message=m) for m in came]
        # A message alone is of an organisation that sends little, whose turn is now.
        self.left = [*entries, *self.left] if count == 1 else [*self.left, *entries]
        self._came.set()
        return came

    def _recalled(self, recall: Recall) -> tuple[int, int]:
        self._came.set()
        recalled = super()._recalled(recall)
        # What is recalled lies behind what lay ready.
        self.left.sort(key=lambda entry: entry.message.id not in self._alone)
        return recalled

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        if not self.left:
            self._came.clear()
            try:
                async with asyncio.timeout(block_ms / 1000):
                    await self._came.wait()
            except TimeoutError:
                return []
        return await super().read(count, block_ms)


class Timed(Carrier):
    """A carrier that notes when it was given each message."""

    def __init__(self, name: str, virtual: VirtualTime) -> None:
        super().__init__(name)
        self.at_s: dict[str, float] = {}
        self._virtual = virtual

    def submit(self, message: Message, done: object) -> None:
        self.at_s[message.id] = self._virtual.clock.now
        super().submit(message, done)  # type: ignore[arg-type]


def longest_wait_s(virtual: VirtualTime, reader: Arriving, well: Timed, seconds: float) -> float:
    """How long the one of the messages for `well` waited that waited longest; one comes every 50 ms."""
    came: dict[str, float] = {}
    for _ in range(int(seconds / 0.05)):
        came[reader.arrive("+4915112345678")[0].id] = virtual.clock.now
        virtual.pass_s(0.05)
    now = virtual.clock.now
    return max(well.at_s.get(id_, now) - at_s for id_, at_s in came.items())


@pytest.mark.parametrize("queue", ["express", "normal"])
@pytest.mark.parametrize("flood", [300, 5000])
def test_a_flood_for_providers_that_hang_holds_up_no_message_of_one_that_answers(
    queue: Queue, flood: int
) -> None:
    with VirtualTime() as virtual:
        reader, well, hung = Arriving(queue), Timed("well", virtual), [Carrier(n) for n in HUNG]
        well.latency_s = 0.003
        for carrier in hung:
            carrier.latency_s = None
        _, dispatcher, _ = started(
            virtual, reader, [well, *hung], PaceInMemory(virtual), concurrency=200, hedge=queue == "express"
        )
        dispatcher.use(RoutingPlan(version=2, routes=ROUTES))
        reader.arrive("+989121234567", flood)
        assert longest_wait_s(virtual, reader, well, 7.0) <= 20 * TRIP_S
        assert any(carrier.submitted for carrier in hung)


@pytest.mark.parametrize("at_most_once", [False, True])
def test_a_fast_provider_that_hangs_with_a_backlog_holds_up_others_for_less_than_it_takes_to_stall(
    at_most_once: bool,
) -> None:
    with VirtualTime() as virtual:
        reader, well, fast = Arriving("normal"), Timed("well", virtual), Carrier("fast")
        well.latency_s = fast.latency_s = 0.003
        _, dispatcher, _ = started(
            virtual, reader, [well, fast], PaceInMemory(virtual), concurrency=20, at_most_once=at_most_once
        )
        routes = (Route(prefix="+49", providers=("well",)), Route(prefix="+98", providers=("fast",)))
        dispatcher.use(RoutingPlan(version=2, routes=routes))
        reader.arrive("+989121234567", 3000)
        assert longest_wait_s(virtual, reader, well, 0.3) <= 0.1
        fast.latency_s = None
        reader.arrive("+989121234567", 10_000)
        # A quarter of a second of silence, a look, and a read.
        assert longest_wait_s(virtual, reader, well, 6.0) <= 0.5


@pytest.mark.parametrize("queue", ["express", "normal"])
def test_a_backlog_that_comes_again_and_again_leaves_room_at_a_slow_provider_for_whoever_sends_little(
    queue: Queue,
) -> None:
    with VirtualTime() as virtual:
        reader, slow, other = Arriving(queue), Timed("slow", virtual), Carrier("other")
        slow.latency_s = 0.003
        _, dispatcher, _ = started(virtual, reader, [slow, other], PaceInMemory(virtual))
        throughput = {"slow": 50.0}
        dispatcher.use(RoutingPlan(version=2, routes=SLOW, throughput=throughput))
        came: dict[str, float] = {}
        for step in range(600):
            # Eight times what the provider takes, and behind it two that send a message a second each.
            reader.arrive("+98912", 20, organisation_id=7, segments=1)
            if step % 10 == 0:
                organisation_id = 8 + step // 10 % 2
                one = reader.arrive("+98912", organisation_id=organisation_id, segments=1)[0]
                reader.left = [*reader.left[1:], reader.left[0]]
                came[one.id] = virtual.clock.now
            virtual.pass_s(0.05)
        virtual.pass_s(3.0)
        waits = [slow.at_s.get(id_, float("inf")) - at_s for id_, at_s in came.items()]
        assert max(waits[2:]) <= 2.5, sorted(waits)
        # All the rest is the backlog's.
        assert len(slow.at_s) - len(waits) >= 0.9 * 30 * 50


@pytest.mark.parametrize("concurrency", [1, 2, 3, 7, 8, 20, 200])
@pytest.mark.parametrize("lanes", [1, 2, 3, 7, 40])
def test_each_lane_has_places_whatever_others_take_and_all_together_have_no_more_than_there_are(
    concurrency: int, lanes: int
) -> None:
    places, in_flight = Places(concurrency, lanes), [0] * lanes
    for lane in [*range(lanes), *range(lanes)]:
        before = places.shared_left(in_flight)
        free = places.free(in_flight[lane], before)
        assert free >= min(1, places.own) or in_flight[lane]
        in_flight[lane] += free
        assert (
            places.shared_left(in_flight) == before - places.shared_taken(in_flight[lane] - free, free) >= 0
        )
    assert sum(in_flight) == concurrency
    assert in_flight[0] >= concurrency * 3 // 4 or concurrency < 4 * (lanes - 1)


class LateToSay(Arriving):
    """A reader whose first answer to what is put off comes after 50 ms, as of a Redis that is busy."""

    async def promote(self, now_us: int, limit: int) -> int:
        await asyncio.sleep(0.05)
        return await super().promote(now_us, limit)


def test_a_worker_that_starts_sends_what_was_put_off_before_what_came_later() -> None:
    with VirtualTime() as virtual:
        reader, slow, other = LateToSay("normal"), Carrier("slow"), Carrier("other")
        slow.latency_s = 0.003
        early = reader.arrive("+989121234567", 40)
        # A worker before this one has put them off.
        for entry in reader.left:
            reader._put_off("1 slow", entry)
        reader.left = []
        reader.arrive("+989121234567", 40)
        _, dispatcher, _ = started(virtual, reader, [slow, other], PaceInMemory(virtual))
        dispatcher.use(RoutingPlan(version=1, routes=SLOW, throughput={"slow": 50.0}))
        virtual.pass_s(2.0)
        sent = [m.id for m in slow.submitted]
        assert len(sent) >= 40
        assert sent[:40] == [m.id for m in early]


def test_a_worker_that_ends_before_it_knows_what_is_put_off_reads_nothing() -> None:
    with VirtualTime() as virtual:
        reader = LateToSay("normal")
        reader.arrive("+989121234567", 40)
        providers = [Carrier("slow"), Carrier("other")]
        _, _, draining = started(virtual, reader, providers, PaceInMemory(virtual))
        virtual.pass_s(0.01)
        draining.set()
        virtual.pass_s(1.0)
        assert reader.reads == 0
