"""How much lies ready and in hand, for a worker whose sends are held up by this or that: on virtual time.

A long backlog stands behind the ready stream. Now and then a message of another organisation comes, whose
turn is now: it waits behind what lies ready and what is in hand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import pytest

from engine.delivery.sent import SentEntries
from engine.delivery.supply import Supply
from engine.providers.ports import Done
from engine.records import Entry, Message, Settlement
from tests.delivery.carrier import Carrier
from tests.delivery.test_turns_of_delivery import Backlog, PaceInMemory, started
from tests.delivery.turns import VirtualTime
from tests.stores.redis.kit import message

# A read of Redis whose file is on a disk, seconds.
READ_S = 0.004


class Line(Backlog):
    """A ready stream with an endless backlog behind it: each read fills it up first."""

    def __init__(self, virtual: VirtualTime, most: int = 1 << 30, read_s: float = READ_S) -> None:
        """`most`: a read gives no more. `read_s`: it takes so long, seconds."""
        super().__init__()
        self._virtual, self._most, self._read_s = virtual, most, read_s
        self._numbers = count()
        self._ready: deque[Entry] = deque()
        self.took_s = read_s
        # When each light message came, by id.
        self.came_s: dict[str, float] = {}

    @property
    def more(self) -> bool:
        return True

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        # As `engine.stores.redis.reads.Reads` does.
        if self.more:
            await asyncio.sleep(self.apart.seconds)
            if self.apart.read_comes():
                await asyncio.sleep(0)
        return await self._read(count)

    async def _read(self, count: int) -> list[Entry]:
        await asyncio.sleep(self._read_s / 2)
        while len(self._ready) < self.ready_max:
            self._ready.append(self._entry("heavy"))
        taken = [self._ready.popleft() for _ in range(min(count, self._most, len(self._ready)))]
        await asyncio.sleep(self._read_s / 2)
        return taken

    def come(self) -> None:
        """Let a light message come."""
        self._ready.append(entry := self._entry("light"))
        self.came_s[entry.message.id] = self._virtual.clock.now

    def _entry(self, kind: str) -> Entry:
        number = next(self._numbers)
        return Entry(
            shard=0, queue="normal", entry_id=b"%d-0" % number, message=message(f"{kind}{number}", segments=1)
        )


class BusyCarrier(Carrier):
    """Giving it a message takes the worker's process so long, seconds."""

    def __init__(self, virtual: VirtualTime, busy_s: float, latency_s: float | None) -> None:
        super().__init__()
        self._virtual, self._busy_s, self.latency_s = virtual, busy_s, latency_s
        self.at_s: dict[str, float] = {}

    def submit(self, message: Message, done: Done) -> None:
        self._virtual.clock.now += self._busy_s
        self.at_s[message.id] = self._virtual.clock.now
        super().submit(message, done)


def at_work(
    virtual: VirtualTime, busy_s: float, latency_s: float | None, limit: float | None, read_s: float = READ_S
) -> Any:
    carrier, line = BusyCarrier(virtual, busy_s, latency_s), Line(virtual, read_s=read_s)
    limits = {} if limit is None else {"carrier": limit}
    _, dispatcher, _ = started(virtual, line, [carrier], PaceInMemory(virtual), limits=limits)
    return carrier, line, dispatcher


@pytest.mark.parametrize(
    ("busy_s", "latency_s", "limit", "rate", "wait_s"),
    [
        # Held up by the carrier, whose answers let 100 sends be in flight; by its throughput; by CPU alone;
        # and by a carrier that answers all sends together after two seconds.
        (0.00001, 0.05, None, 1950.0, 0.05),
        (0.00001, 0.005, 2000.0, 1900.0, 0.06),
        (0.00001, 0.005, 50.0, 48.5, 0.06),
        (0.0005, 0.001, None, 1800.0, 0.04),
        (0.005, 0.001, None, 175.0, 0.1),
        (0.00001, 2.0, None, 49.0, 2.1),
    ],
    ids=["unlimited", "2000", "50", "busy", "very busy", "slow"],
)
def test_what_is_ahead_of_a_light_message_is_bounded_in_time_and_the_drain_goes_on(
    busy_s: float, latency_s: float, limit: float | None, rate: float, wait_s: float
) -> None:
    with VirtualTime() as virtual:
        carrier, line, _ = at_work(virtual, busy_s, latency_s, limit)
        learns_s = 2 * latency_s + 1.0
        virtual.pass_s(learns_s)
        sent, took_s = len(carrier.at_s), max(1.0, 2 * latency_s)
        for _ in range(20):
            line.come()
            virtual.pass_s(took_s / 20)
        assert len(carrier.at_s) - sent >= rate * took_s
        virtual.pass_s(wait_s)
        waits_s = [carrier.at_s[light] - came_s for light, came_s in line.came_s.items()]
        assert max(waits_s) <= wait_s


def test_a_carrier_that_was_away_is_drained_to_as_fast_as_before() -> None:
    with VirtualTime() as virtual:
        carrier, line, dispatcher = at_work(virtual, 0.00001, 0.05, None)
        virtual.pass_s(0.5)
        ready = line.ready_max
        carrier.latency_s = None
        virtual.pass_s(3.0)
        # Nothing is worth reading; what lay ready is decided anew.
        assert dispatcher.lanes.ready_messages(virtual.clock_s()) == 4
        carrier.latency_s = 0.05
        carrier.finish(carrier.in_flight)
        virtual.pass_s(1.0)
        sent = len(carrier.at_s)
        virtual.pass_s(0.5)
        assert len(carrier.at_s) - sent >= 975
        assert line.ready_max >= ready / 2


def test_a_worker_does_not_linger_after_a_small_read_while_more_waits() -> None:
    with VirtualTime() as virtual:
        carrier = BusyCarrier(virtual, 0.00001, 0.001)
        started(virtual, Line(virtual, most=5), [carrier], PaceInMemory(virtual))
        virtual.pass_s(0.5)
        assert len(carrier.at_s) >= 0.9 * 5 * 0.5 / READ_S


class NotedLine(Line):
    """When it was asked to settle, and when it was read."""

    def __init__(self, virtual: VirtualTime, most: int = 1 << 30) -> None:
        super().__init__(virtual, most)
        self.calls: list[tuple[str, float, int]] = []

    async def settle(self, settlements: Sequence[Settlement], sent: Sequence[SentEntries] = ()) -> int:
        count = len(settlements) + sum(len(batch.entries) for batch in sent)
        self.calls.append(("settle", self._virtual.clock.now, count))
        return await super().settle(settlements, sent)

    async def _read(self, count: int) -> list[Entry]:
        self.calls.append(("read", self._virtual.clock.now, count))
        return await super()._read(count)


def assert_settled_before_reads(line: NotedLine) -> None:
    """In the second half of a run nearly each read comes right behind a settlement."""
    calls = line.calls[len(line.calls) // 2 :]
    reads = [at for at, (what, *_) in enumerate(calls) if what == "read" and at]
    # A turn of the loop takes some microseconds here.
    before = [calls[at - 1] for at in reads if calls[at][1] - calls[at - 1][1] < 0.0001]
    assert len([what for what, *_ in before if what == "settle"]) >= 0.8 * len(reads) > 10


def test_what_has_gathered_is_settled_right_before_a_read_while_more_waits() -> None:
    with VirtualTime() as virtual:
        line = NotedLine(virtual)
        carrier = BusyCarrier(virtual, 0.0, 0.005)
        started(virtual, line, [carrier], PaceInMemory(virtual), concurrency=200)
        virtual.pass_s(1.0)
        assert_settled_before_reads(line)
        assert len(carrier.at_s) >= 18_000


@pytest.mark.parametrize(("waited", "apart_s"), [(0.0, 0.0), (0.05, 0.0), (0.1, 0.0016), (0.6, 0.0032)])
def test_where_cores_are_short_time_passes_between_two_reads_of_a_backlog_and_the_drain_goes_on(
    waited: float, apart_s: float
) -> None:
    with VirtualTime() as virtual:
        line = NotedLine(virtual)
        carrier = BusyCarrier(virtual, 0.0, 0.005)
        started(virtual, line, [carrier], PaceInMemory(virtual), concurrency=200, waited=lambda now_s: waited)
        virtual.pass_s(1.0)
        reads_s = [at_s for what, at_s, _ in line.calls if what == "read"]
        # The virtual clock stands at the answer of one read when the next begins to wait.
        least_s = min(after - before for before, after in pairwise(reads_s[len(reads_s) // 2 :]))
        assert least_s >= 0.99 * (READ_S + apart_s)
        assert_settled_before_reads(line)
        # The carrier takes 40,000 a second.
        assert len(carrier.at_s) >= 18_000


@pytest.mark.parametrize(("limit", "at_most_once"), [(500.0, False), (None, True)])
def test_no_time_passes_before_a_read_for_a_limited_provider_or_one_of_few_messages(
    limit: float | None, at_most_once: bool
) -> None:
    with VirtualTime() as virtual:
        line, limits = NotedLine(virtual), {} if limit is None else {"carrier": limit}
        started(
            virtual, line, [BusyCarrier(virtual, 0.0, 0.005)], PaceInMemory(virtual), limits=limits,
            at_most_once=at_most_once, waited=lambda now_s: 1.0,
        )  # fmt: skip
        virtual.pass_s(1.0)
        assert line.calls
        assert line.apart.seconds == 0.0


def test_a_slow_read_is_not_followed_by_long_waiting() -> None:
    supply = Supply()
    for _ in range(100):
        supply.note_read(1.0)
        supply.note_given(1000)
    assert supply.apart_s(1.0) == 0.02


def test_small_reads_are_followed_by_little_waiting() -> None:
    supply = Supply()
    for _ in range(100):
        supply.note_read(1.0)
        supply.note_given(4)
    assert supply.apart_s(1.0) == pytest.approx(0.02 * 4 / 128)


class EmptiedLine(NotedLine):
    """Each read empties it, or nearly."""

    more = False


def test_what_has_gathered_is_settled_right_before_a_read_after_a_rest() -> None:
    with VirtualTime() as virtual:
        line = EmptiedLine(virtual, most=60)
        carrier = BusyCarrier(virtual, 0.0, 0.005)
        started(virtual, line, [carrier], PaceInMemory(virtual), concurrency=200)
        virtual.pass_s(1.0)
        assert_settled_before_reads(line)


def test_what_is_sent_while_nothing_waits_says_nothing_of_what_could_be() -> None:
    supply = Supply()
    for turn in range(10):
        supply.note_begun(turn, turn / 10, more=turn % 3 > 0)
    assert supply.rate == 10.0
    supply = Supply()
    for turn in range(10):
        supply.note_begun(turn, turn / 10, more=turn % 2 > 0)
    assert supply.rate == float("inf")


def test_a_rate_counts_at_once_when_it_rises_and_by_and_by_when_it_falls() -> None:
    supply = Supply()
    supply.note_begun(0, 0.0, more=True)
    supply.note_begun(100, 0.1, more=True)
    assert supply.rate == 1000.0
    supply.note_begun(300, 0.2, more=True)
    assert supply.rate == 2000.0
    supply.note_begun(300, 0.3, more=True)
    assert supply.rate == 1500.0


def test_a_moment_is_what_is_sent_in_20_ms_however_long_reads_take_and_little_as_long_as_nobody_knows() -> (
    None
):
    supply = Supply()
    assert supply.moment == 1
    for turn in range(3):
        supply.note_begun(600 * turn, turn / 10, more=True)
        supply.note_read(0.3)
    assert supply.moment == 128
    for rate, moment in ((10.0, 1), (5_800.0, 128), (14_800.0, 256)):
        supply.rate = rate
        assert supply.moment == moment


def test_a_slow_read_is_read_ahead_of_for_longer() -> None:
    quick, slow = Supply(), Supply()
    for _ in range(100):
        quick.note_read(0.0002)
        slow.note_read(0.1)
    assert (quick.hold_s, slow.hold_s) == (0.005, pytest.approx(0.3))
    assert (quick.ready_s, slow.ready_s) == (0.02, pytest.approx(0.2))


@pytest.mark.parametrize("read_s", [0.002, 0.03, 0.1])
@pytest.mark.parametrize("limit", [10.0, 50.0, 200.0, 500.0, 2000.0])
def test_a_throughput_is_used_however_long_a_read_takes(limit: float, read_s: float) -> None:
    with VirtualTime() as virtual:
        carrier, *_ = at_work(virtual, 0.00001, 0.005, limit, read_s=read_s)
        virtual.pass_s(3.0)
        sent = len(carrier.at_s)
        virtual.pass_s(4.0)
        assert len(carrier.at_s) - sent >= 0.96 * limit * 4.0


@pytest.mark.parametrize("limit", [1.0, 10.0, 50.0])
def test_at_a_low_throughput_a_light_message_waits_for_three_sends_at_most(limit: float) -> None:
    with VirtualTime() as virtual:
        carrier, line, _ = at_work(virtual, 0.00001, 0.005, limit)
        virtual.pass_s(3.0)
        for _ in range(20):
            line.come()
            virtual.pass_s(10.3 / limit)
        waits_s = [carrier.at_s[light] - came_s for light, came_s in line.came_s.items()]
        assert max(waits_s) * limit <= 3.0


def test_a_slow_redis_does_not_make_what_lies_ready_less_and_less() -> None:
    with VirtualTime() as virtual:
        carrier, _, dispatcher = at_work(virtual, 0.00001, 0.05, None, read_s=0.2)
        # As if it had sent little before.
        dispatcher.lanes.supply.rate = 10.0
        virtual.pass_s(4.0)
        sent = len(carrier.at_s)
        virtual.pass_s(1.0)
        assert len(carrier.at_s) - sent >= 1900
