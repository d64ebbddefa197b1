"""Two flushes of settlements are under way at most, and what waits to be settled has a bound of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import pytest
from msgspec import structs

from engine.delivery.sent import SentEntries, added_up
from engine.delivery.settlement import RetryPauses, UnknownOutcomes
from engine.delivery.settler import Settler
from engine.errors import Unavailable
from engine.records import Entry, Queue, Settlement
from engine.routing.records import Route, RoutingPlan
from tests.delivery.carrier import Carrier
from tests.delivery.test_turns_of_delivery import Backlog, SilentPace, started
from tests.delivery.turns import VirtualTime
from tests.stores.redis.kit import log, message


class Slow(Backlog):
    """A queue whose settlements are answered when they are let, or never."""

    def __init__(self, count: int = 0) -> None:
        super().__init__(count)
        self.flushes: list[int] = []
        self.answers: list[asyncio.Future[None]] = []

    async def settle(self, settlements: Sequence[Settlement], sent: Sequence[SentEntries] = ()) -> int:
        self.flushes.append(len(settlements) + added_up(sent))
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        await answer
        return self.flushes[-1] if len(self.flushes) == 1 else await super().settle(settlements, sent)


def settler_of(virtual: VirtualTime, reader: Backlog) -> Settler:
    settler = Settler(
        reader, pauses=RetryPauses(first_us=1, max_us=1), hand_s=30.0, now_us=virtual.clock.now_us,
        clock_s=virtual.clock_s, rng=Random(1), log=log(), unknown=UnknownOutcomes(),
    )  # fmt: skip
    virtual.start(settler.run())
    virtual.pass_s(0.01)
    return settler


def accepted(settler: Settler, count: int) -> None:
    entries = [
        Entry(shard=0, queue="normal", entry_id=b"%d-0" % n, message=message(f"m{n}")) for n in range(count)
    ]
    settler.took(count)
    settler.sent(entries, ["id"] * count, [1] * count, "p", "")


def test_a_second_flush_begins_when_enough_have_gathered_and_a_third_waits() -> None:
    with VirtualTime() as virtual:
        reader = Slow()
        settler = settler_of(virtual, reader)
        for count in (3, 200, 300, 700):
            accepted(settler, count)
            virtual.pass_s(0.05)
        # The first three waited for more a moment; the second flush for 400.
        assert reader.flushes == [3, 500]
        assert (settler.unsettled, settler.in_hand) == (1203, 1203)
        reader.answers[1].set_result(None)
        virtual.pass_s(0.05)
        assert reader.flushes == [3, 500, 700]
        assert settler.unsettled == 703
        accepted(settler, 1)
        for answer in (reader.answers[0], reader.answers[2]):
            answer.set_result(None)
        virtual.pass_s(0.05)
        assert reader.flushes == [3, 500, 700, 1]
        reader.answers[3].set_result(None)
        virtual.pass_s(0.05)
        assert (settler.unsettled, settler.in_hand) == (0, 0)


def test_few_that_gather_while_a_flush_is_under_way_go_with_its_answer() -> None:
    with VirtualTime() as virtual:
        reader = Slow()
        settler = settler_of(virtual, reader)
        accepted(settler, 5)
        virtual.pass_s(0.05)
        accepted(settler, 7)
        virtual.pass_s(0.05)
        assert reader.flushes == [5]
        reader.answers[0].set_result(None)
        virtual.pass_s(0.001)
        assert reader.flushes == [5, 7]


def test_a_worker_sends_on_while_settlements_are_slow_and_stops_when_they_are_never_answered() -> None:
    with VirtualTime() as virtual:
        carrier, reader = Carrier(), Slow(5000)
        carrier.latency_s = 0.001
        worker, _, _ = started(virtual, reader, [carrier], SilentPace(), concurrency=20)
        virtual.pass_s(5.0)
        # Eight for each send in flight wait to be settled, and what was read before that was known.
        assert 8 * 20 <= len(carrier.submitted) == worker.in_hand <= 8 * 20 + 11 * 20
        reads = reader.reads
        virtual.pass_s(5.0, turns_max=100)
        assert (reader.reads, worker.room()) == (reads, 0)
        for _ in range(20):
            for answer in [answer for answer in reader.answers if not answer.done()]:
                answer.set_result(None)
            virtual.pass_s(0.1)
        assert len(carrier.submitted) > 1000


def test_of_messages_accepted_together_those_that_are_sent_again_after_a_receipt_are_kept() -> None:
    with VirtualTime() as virtual:
        carrier, reader = Carrier(), Backlog(20)
        for n, one in enumerate(reader.left):
            to = "+1555" if n % 3 else "+9812"
            reader.left[n] = structs.replace(one, message=structs.replace(one.message, to=to))
        _, dispatcher, _ = started(virtual, reader, [carrier], SilentPace())
        again, not_again = (
            Route(prefix="+1", providers=("carrier",), reroute=True),
            Route(providers=("carrier",)),
        )
        dispatcher.use(RoutingPlan(version=2, routes=(again, not_again)))
        virtual.pass_s(1.0)
        rows = [settlement.row for settlement in reader.settled]
        assert len(rows) == 20
        assert all(row and row.event == "sent" and bool(row.kept) == (row.to == "+1555") for row in rows)


def test_a_worker_of_an_at_most_once_queue_has_little_in_hand() -> None:
    with VirtualTime() as virtual:
        carrier, reader = Carrier(), Slow(5000)
        carrier.latency_s = 0.001
        worker, _, _ = started(virtual, reader, [carrier], SilentPace(), concurrency=20, at_most_once=True)
        virtual.pass_s(5.0)
        # All of it would never be sent again if the worker were killed now.
        assert len(carrier.submitted) == worker.in_hand == 20 + 20 // 2


@pytest.mark.parametrize(("queue", "apart_s"), [("normal", 0.01), ("express", 0.002)])
def test_after_a_read_that_emptied_the_queue_a_worker_lets_some_gather(queue: Queue, apart_s: float) -> None:
    class Trickle(Backlog):
        """Has a message for each read, and nobody knows of more."""

        more = False

        async def read(self, count: int, block_ms: int) -> list[Entry]:
            began_s.append(virtual.clock.now)
            found = await super().read(1, block_ms)
            ended_s.append(virtual.clock.now)
            return found

    with VirtualTime() as virtual:
        began_s: list[float] = []
        ended_s: list[float] = []
        carrier, reader = Carrier(), Trickle(500)
        reader.queue = queue
        started(virtual, reader, [carrier], SilentPace())
        virtual.pass_s(1.0)
        gaps_s = [later - before for before, later in zip(ended_s, began_s[1:], strict=False)]
        assert gaps_s
        assert gaps_s == [pytest.approx(apart_s, abs=1e-4)] * len(gaps_s)


@pytest.mark.parametrize("count", [1, 2500])
def test_settlements_that_redis_did_not_take_are_sent_again_until_it_does(count: int) -> None:
    class Away(Backlog):
        """Refuses the first three calls."""

        refused = 0

        async def settle(self, settlements: Sequence[Settlement], sent: Sequence[SentEntries] = ()) -> int:
            if self.refused < 3:
                self.refused += 1
                raise Unavailable("away")
            return await super().settle(settlements, sent)

    with VirtualTime() as virtual:
        reader = Away()
        settler = settler_of(virtual, reader)
        for _ in range(count // 100 or 1):
            accepted(settler, min(count, 100))
        virtual.pass_s(2.0)
        assert len(reader.settled) == count
        assert (settler.unsettled, settler.in_hand) == (0, 0)
