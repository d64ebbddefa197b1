"""A worker sleeps when it has nothing to do, and wakes in time: on virtual time, with its turns counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec
import pytest

from engine.boot.worker import assemble_worker
from engine.config import QueueSettings
from engine.delivery.dispatcher import Dispatcher
from engine.delivery.ports import Apart, PutOff, PutOffMessages, Recall, UnreadMessages
from engine.delivery.sent import SentEntries
from engine.delivery.sweeper import Sweeper
from engine.delivery.worker import Worker
from engine.errors import Unavailable
from engine.providers.settings import SimulatedSettings
from engine.records import ActivityRow, Entry, Message, Queue, Settlement, Verdict
from engine.routing.ports import SlotRequest, Slots, SlotStore
from engine.routing.records import RoutingPlan
from tests.delivery.carrier import Carrier
from tests.delivery.turns import Away, VirtualTime
from tests.routing.throughput_model import Timeline
from tests.stores.redis.kit import log, message

unpacked = msgspec.msgpack.Decoder(ActivityRow).decode
# A call to Redis, there and back, seconds.
TRIP_S = 0.0005


class Backlog:
    """A queue's reader (`engine.delivery.ports.QueueReader`) over messages in memory."""

    queue: Queue = "normal"

    def __init__(self, count: int = 0, segments: int = 1) -> None:
        self.left = [
            Entry(shard=0, queue="normal", entry_id=b"%d-0" % n, message=message(f"m{n}", segments=segments))
            for n in range(count)
        ]
        self.settled: list[Settlement] = []
        self.reads = 0
        self.ready_max = 0
        self.reads_aside = False
        self.apart = Apart()
        self.took_s: float | None = None
        self.next_due_us: int | None = None
        # What is put off, by its way and organisation, and how much of each was served.
        self.aside: dict[str, dict[int, list[Entry]]] = {}
        self._served: dict[tuple[str, int], float] = {}
        self.allowed = True
        # How long a read and a recall take, seconds.
        self.trip_s = TRIP_S

    @property
    def put_off(self) -> PutOffMessages:
        return self

    @property
    def waiting(self) -> list[PutOff]:
        sums = [(way, sum(map(len, of.values()))) for way, of in self.aside.items()]
        return [PutOff(0, n, way, count, 1.0) for n, (way, count) in enumerate(sums) if count]

    async def recall(self, recalls: Sequence[Recall]) -> list[tuple[int, int]]:
        await asyncio.sleep(self.trip_s)
        return [self._recalled(of) for of in recalls]

    def _recalled(self, recall: Recall) -> tuple[int, int]:
        taken: list[Entry] = []
        lists = self.aside[recall.way]
        while any(lists.values()) and len(taken) < recall.messages:
            if sum(entry.message.segments for entry in taken) >= recall.segments:
                break
            turn = min((o for o in lists if lists[o]), key=lambda o: self._served[recall.way, o])
            taken.append(lists[turn].pop(0))
            self._served[recall.way, turn] += taken[-1].message.segments
        came = [msgspec.structs.replace(entry, way=recall.way) for entry in taken]
        self.left = [*came, *self.left]
        return len(came), sum(entry.message.segments for entry in came)

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        self.reads += 1
        self.took_s = self.trip_s if self.left else None
        await asyncio.sleep(self.trip_s if self.left else block_ms / 1000)
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    async def settle(self, settlements: Sequence[Settlement], sent: Sequence[SentEntries] = ()) -> int:
        await asyncio.sleep(TRIP_S)
        ordinary = [
            Settlement(entry=entry, row=unpacked(row))
            for batch in sent
            for entry, row in zip(batch.entries, batch.rows, strict=True)
        ]
        self.settled += [*settlements, *ordinary]
        for settlement in settlements:
            if settlement.way:
                self._put_off(settlement.way, settlement.entry)
        return len(settlements) + len(ordinary)

    def _put_off(self, way: str, entry: Entry) -> None:
        lists, organisation_id = self.aside.setdefault(way, {}), entry.message.organisation_id
        waiting = lists.setdefault(organisation_id, [])
        if not waiting:
            served = [self._served[way, o] for o in lists if lists[o]]
            self._served[way, organisation_id] = max(
                self._served.get((way, organisation_id), 0.0), min(served, default=0.0)
            )
        waiting.insert(0 if entry.way else len(waiting), entry)

    def drop(self, entries: Sequence[Entry]) -> None: ...

    @property
    def more(self) -> bool:
        return bool(self.left)

    async def rest(self) -> list[Entry]:
        return []

    @property
    def unread(self) -> UnreadMessages:
        return self

    async def look(self, limit: int) -> list[Entry]:
        await asyncio.sleep(TRIP_S)
        return []

    async def beat(self) -> None:
        await asyncio.sleep(TRIP_S)

    async def promote(self, now_us: int, limit: int) -> int:
        await asyncio.sleep(TRIP_S)
        return 0

    async def take_over(self, min_idle_ms: int, limit: int) -> list[Entry]:
        await asyncio.sleep(TRIP_S)
        return []


class PaceInMemory:
    """What Redis does with a provider's slots (`tests/routing/throughput_model.py`); counts."""

    def __init__(self, virtual: VirtualTime) -> None:
        self._virtual = virtual
        self._timelines: dict[str, Timeline] = {}
        self.asks = 0
        self.slots: dict[str, int] = {}

    async def reserve(self, asks: Sequence[SlotRequest]) -> list[Slots]:
        await asyncio.sleep(TRIP_S / 2)
        self.asks += 1
        given = []
        for ask in asks:
            timeline = self._timelines.setdefault(ask.provider, Timeline())
            segments, delay_us = timeline.reserve(ask, self._virtual.clock.now * 1e6)
            self.slots[ask.provider] = self.slots.get(ask.provider, 0) + segments
            now_us = int(self._virtual.clock.now * 1e6) + 1
            given.append(Slots(segments, delay_us, timeline.interval_us, ask.together, now_us))
        await asyncio.sleep(TRIP_S / 2)
        return given


class SilentPace:
    """Redis that does not answer: a call takes as long as a store may take."""

    async def reserve(self, asks: Sequence[SlotRequest]) -> list[Slots]:
        await asyncio.sleep(5.0)
        raise Unavailable("No answer.")


def started(
    virtual: VirtualTime,
    reader: Any,
    carriers: Sequence[Carrier],
    pace: SlotStore,
    *,
    limits: dict[str, float] | None = None,
    concurrency: int = 100,
    hedge: bool = False,
    at_most_once: bool = False,
    waited: Callable[[float], float] = lambda now_s: 0.0,
    **settings: Any,
) -> tuple[Worker, Dispatcher, asyncio.Event]:
    """A worker at work, its dispatcher, and what makes it drain."""
    worker, sweeper, dispatcher = assemble_worker(
        reader,
        carriers,
        [SimulatedSettings(name=c.name, **{"timeout_s": 8.0, **settings}) for c in carriers],
        pace,
        QueueSettings(
            concurrency=concurrency,
            backoff_s=0.1,
            backoff_max_s=0.2,
            hedge=hedge,
            unknown_outcome="at-most-once" if at_most_once else "at-least-once",
        ),
        take_over_s=4000.0,
        now_us=virtual.clock.now_us,
        clock_s=virtual.clock_s,
        rng=Random(5),
        log=log(),
        waited=waited,
    )
    dispatcher.use(RoutingPlan(version=1, throughput=limits or {}))
    draining = asyncio.Event()
    virtual.start(worker.run(draining, 5.0))
    if not isinstance(reader, Away):
        virtual.start(sweeper.run(draining))
    return worker, dispatcher, draining


@pytest.mark.parametrize("rate", [1.0, 10.0, 50.0, 300.0, 1000.0])
@pytest.mark.parametrize("segments", [1, 3])
def test_a_limited_provider_with_a_backlog_is_used_to_its_limit_in_few_turns(
    rate: float, segments: int
) -> None:
    with VirtualTime() as virtual:
        carrier, reader, pace = Carrier(), Backlog(5000, segments), PaceInMemory(virtual)
        carrier.latency_s = 0.005
        started(virtual, reader, [carrier], pace, limits={"carrier": rate})
        virtual.pass_s(1 + 10 / rate)
        sent, took_s = len(carrier.submitted), max(4.0, 20 / rate)
        turns = virtual.pass_s(took_s)
        sent = (len(carrier.submitted) - sent) * segments
        assert sent >= 0.95 * rate * took_s - segments
        # A send, its answer and its settlement, and an ask for every few of them.
        assert turns <= (100 + 30 * rate) * took_s


def test_what_a_saturated_worker_cannot_send_it_reserves_no_slots_for() -> None:
    with VirtualTime() as virtual:
        carrier, pace = Carrier(), PaceInMemory(virtual)
        carrier.latency_s = 1.0
        started(virtual, Backlog(5000), [carrier], pace, limits={"carrier": 500.0}, concurrency=20)
        turns = virtual.pass_s(10.0)
        # Twenty a second is all it can do; hardly a slot is taken from others for nothing.
        assert len(carrier.submitted) >= 180
        assert pace.slots["carrier"] <= 1.2 * len(carrier.submitted)
        assert turns <= 500 * 10


def test_while_a_carrier_hangs_no_slots_are_reserved_for_what_cannot_be_sent() -> None:
    with VirtualTime() as virtual:
        carrier, other, pace = Carrier("a"), Carrier("b"), PaceInMemory(virtual)
        carrier.latency_s = other.latency_s = 0.005
        limits = {"a": 500.0, "b": 500.0}
        started(virtual, Backlog(50_000), [carrier, other], pace, limits=limits, concurrency=20)
        virtual.pass_s(2.0)
        carrier.latency_s = other.latency_s = None
        slots, sent = sum(pace.slots.values()), len(carrier.submitted) + len(other.submitted)
        virtual.pass_s(0.9)
        more = len(carrier.submitted) + len(other.submitted) - sent
        # What was held when it hung, and what seemed to be answered soon: a horizon's worth.
        assert sum(pace.slots.values()) - slots <= more + 2 * 500 * 0.1


def test_a_lane_whose_circuit_is_probed_turns_no_more_often() -> None:
    with VirtualTime() as virtual:
        broken, pace = Carrier(answer=lambda _: "temporary"), PaceInMemory(virtual)
        broken.latency_s = 0.5
        settings = {"breaker_failures": 3, "breaker_pause_s": 0.2}
        started(virtual, Backlog(3000), [broken], pace, limits={"carrier": 50.0}, **settings)
        virtual.pass_s(10.0, turns_max=3000)


def test_a_stalled_carrier_is_noticed_and_hedged_while_redis_gives_no_slots() -> None:
    with VirtualTime() as virtual:
        hung, good = Carrier("hung"), Carrier("good")
        hung.latency_s, good.latency_s = None, 0.005
        reader = Backlog(10)
        # Both of the limited one's and of the hung one's messages wait in this worker.
        limited = Carrier("limited")
        carriers, limits = [hung, good, limited], {"limited": 50.0}
        _, dispatcher, _ = started(
            virtual, reader, carriers, SilentPace(), limits=limits, hedge=True, concurrency=8
        )
        waiting = Entry(shard=0, queue="normal", entry_id=b"w", message=message("waits"))
        dispatcher.lanes.by_name["limited"].add([waiting], 0.0)
        dispatcher.pump(0.0)
        virtual.pass_s(3.0, turns_max=1000)
        assert not limited.submitted
        assert {m.id for m in hung.submitted} <= {m.id for m in good.submitted} | {
            s.entry.message.id for s in reader.settled if s.row is not None and s.row.code == "overdue"
        }
        assert hung.submitted
        assert dispatcher.lanes.by_name["hung"].breaker.state == "open"


@pytest.mark.parametrize("latency_s", [None, 0.01])
def test_an_idle_or_full_worker_hardly_turns(latency_s: float | None) -> None:
    with VirtualTime() as virtual:
        carrier, reader = Carrier(), Backlog(1000 if latency_s is None else 10)
        carrier.latency_s = latency_s
        started(virtual, reader, [carrier], SilentPace())
        virtual.pass_s(1.0)
        assert len(carrier.submitted) == (100 if latency_s is None else 10)
        # The lanes are looked at ten times a second, the queue is read four times.
        virtual.pass_s(6.0, turns_max=200)


def test_a_worker_without_redis_tries_again_and_does_not_spin() -> None:
    with VirtualTime() as virtual:
        store = Away()
        started(virtual, store, [Carrier()], SilentPace())
        virtual.pass_s(10.0, turns_max=20)
        assert 10 <= store.calls <= 20


def test_a_draining_worker_waits_for_its_last_verdicts_without_turning() -> None:
    with VirtualTime() as virtual:
        carrier, reader = Carrier(), Backlog(50)
        carrier.latency_s = 4.0
        worker, _, draining = started(virtual, reader, [carrier], SilentPace())
        virtual.pass_s(1.0)
        draining.set()
        virtual.pass_s(2.5, turns_max=200)
        assert worker.in_hand == 50
        virtual.pass_s(2.0)
        assert worker.in_hand == 0


@pytest.mark.parametrize("reader", [Backlog(), Away()])
@pytest.mark.parametrize("drains", [False, True])
def test_a_sweeper_turns_with_its_ticks(reader: Any, drains: bool) -> None:
    with VirtualTime() as virtual:
        draining = asyncio.Event()
        if drains:
            draining.set()
        sweeper = Sweeper(
            reader,
            room=lambda: 10,
            busy=lambda: False,
            stirred=asyncio.Event(),
            take=lambda entries: pytest.fail(f"took {entries}"),
            before_sending=lambda _: None,
            min_idle_ms=1000,
            promote_max=10,
            now_us=virtual.clock.now_us,
            log=log(),
        )
        virtual.start(sweeper.run(draining))
        virtual.pass_s(10.0, turns_max=25)


class Dues(Backlog):
    """Messages that are due at times; how late each was promoted, and when it was asked."""

    def __init__(self, virtual: VirtualTime) -> None:
        super().__init__()
        self._virtual = virtual
        self.due: list[int] = []
        self.late_us: list[int] = []
        self.asked_s: list[float] = []

    async def promote(self, now_us: int, limit: int) -> int:
        await asyncio.sleep(TRIP_S)
        self.asked_s.append(self._virtual.clock.now)
        now = [at for at in self.due if at <= now_us]
        self.due = [at for at in self.due if at > now_us]
        self.late_us += [now_us - at for at in now]
        self.next_due_us = min(self.due, default=None)
        return len(now)


def test_a_sweeper_at_rest_looks_when_a_message_is_due_and_one_that_is_stirred_every_tenth_of_a_second() -> (
    None
):
    with VirtualTime() as virtual:
        reader, busy, stirred = Dues(virtual), False, asyncio.Event()
        sweeper = Sweeper(
            reader,
            room=lambda: 10,
            busy=lambda: busy,
            stirred=stirred,
            take=lambda entries: None,
            before_sending=lambda _: None,
            min_idle_ms=1000,
            promote_max=10,
            now_us=virtual.clock.now_us,
            log=log(),
        )
        virtual.start(sweeper.run(asyncio.Event()))
        virtual.pass_s(5.0)
        reader.asked_s.clear()
        # Rests, and is exact all the same about what it knows of.
        reader.due += [virtual.clock.now_us() + 1_000 * ms for ms in (600, 1_730, 2_111, 2_140, 4_990)]
        virtual.pass_s(6.0)
        assert len(reader.late_us) == 5
        assert max(reader.late_us) < 101_000
        assert sorted(reader.late_us)[3] < 5_000
        assert len(reader.asked_s) < 20
        # Stirred: looks at once, and every tenth of a second for as long as something is in hand.
        reader.asked_s.clear()
        busy = True
        stirred.set()
        virtual.pass_s(2.0)
        assert reader.asked_s[0] < virtual.clock.now - 1.99
        assert 18 <= len(reader.asked_s) <= 22
        busy = False
        virtual.pass_s(2.0)
        reader.asked_s.clear()
        virtual.pass_s(10.0, turns_max=25)
        assert 19 <= len(reader.asked_s) <= 21


def test_a_fault_of_ours_ends_the_worker_and_one_of_a_provider_does_not() -> None:
    class Faulty(Carrier):
        """Does for each message what a provider must not."""

        def submit(self, message: Message, done: Any) -> None:
            if message.id == "m0":
                raise ZeroDivisionError("the provider's own")
            if message.id == "m1":
                # Its answer never comes.
                self.submitted.append(message)
                return
            super().submit(message, done)
            if message.id == "m2":
                twice = Verdict(kind="permanent", provider="carrier")
                asyncio.get_running_loop().call_later(0.1, done, twice)

    with VirtualTime() as virtual:
        carrier, reader = Faulty(), Backlog(5)
        worker, dispatcher, _ = started(virtual, reader, [carrier], SilentPace(), timeout_s=1.0)
        virtual.pass_s(5.0)
        outcomes = {s.entry.message.id: (s.outcome, s.row and s.row.code) for s in reader.settled}
        assert outcomes == {
            "m0": ("retry", "fault"),
            "m1": ("retry", "no_verdict"),
            **{f"m{n}": ("captured", "") for n in (2, 3, 4)},
        }
        assert worker.in_hand == 0
        assert dispatcher.lanes.by_name["carrier"].awaited.in_flight == 0

    with VirtualTime() as virtual:
        carrier, reader = Carrier(), Backlog(5)
        worker, dispatcher, _ = started(virtual, reader, [carrier], SilentPace())

        def fails(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("ours")

        dispatcher._settler.sent = fails  # type: ignore[method-assign]
        with pytest.raises(AssertionError, match=r"A service failed\.") as failed:
            virtual.pass_s(1.0)
        assert isinstance(failed.value.__cause__, ExceptionGroup)
        assert failed.value.__cause__.subgroup(ZeroDivisionError) is not None
