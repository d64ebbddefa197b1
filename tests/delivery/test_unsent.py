"""What a worker has in hand and does not send goes back to where its order is kept."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.delivery.dispatcher import Dispatcher
from engine.delivery.pauses import Pauses
from engine.delivery.ports import Recall
from engine.records import Entry
from engine.routing.records import RoutingPlan
from engine.stream_id import StreamId
from tests.delivery.carrier import Carrier
from tests.delivery.test_providers_apart import SLOW, Arriving
from tests.delivery.test_turns_of_delivery import PaceInMemory, started
from tests.delivery.turns import VirtualTime
from tests.stores.redis.kit import message

WAY = "2 slow"
# Later than all entries of these tests.
PAUSED = {7: StreamId(1 << 50, 0)}


def entries(first: int, count: int, way: str = "") -> list[Entry]:
    numbers = range(first, first + count)
    return [
        Entry(shard=0, queue="normal", entry_id=b"%d-0" % n, message=message(f"m{n:02}", segments=1), way=way)
        for n in numbers
    ]


def at_work(virtual: VirtualTime) -> tuple[Arriving, Dispatcher]:
    """A worker with two providers. All messages go to the one, which takes one in ten seconds."""
    reader, providers = Arriving("normal"), [Carrier("slow"), Carrier("other")]
    _, dispatcher, _ = started(virtual, reader, providers, PaceInMemory(virtual))
    dispatcher.use(RoutingPlan(version=2, routes=SLOW, throughput={"slow": 0.1}))
    virtual.pass_s(0.25)
    return reader, dispatcher


def gone_back(reader: Arriving) -> dict[str, tuple[str, bool]]:
    """Of each message to which way it went, "" for the backlog, and whether it asked for the front there."""
    return {s.entry.message.id: (s.way, s.front) for s in reader.settled if s.row is None}


def ids(some: Sequence[Entry]) -> list[str]:
    return [entry.message.id for entry in some]


def test_what_was_read_before_what_was_recalled_goes_back_before_it() -> None:
    with VirtualTime() as virtual:
        reader, dispatcher = at_work(virtual)
        dispatcher.take([*entries(0, 3), *entries(3, 3, WAY)], virtual.clock.now)
        dispatcher.pause(PAUSED)
        # Resumed before Redis was asked what is put off.
        dispatcher.pause({})
        dispatcher.take(entries(6, 2), virtual.clock.now)
        virtual.pass_s(0.05)
        found = gone_back(reader)
        assert {found[name] for name in ids(entries(1, 2))} == {(WAY, True)}
        assert {found[name] for name in ids(entries(3, 3))} == {(WAY, False)}
        # What comes now is put off behind it.
        assert {found[name] for name in ids(entries(6, 2))} == {(WAY, False)}


def test_what_was_read_before_what_is_recalled_and_not_read_yet_goes_back_before_it() -> None:
    with VirtualTime() as virtual:
        reader, dispatcher = at_work(virtual)
        dispatcher.take(entries(0, 3), virtual.clock.now)
        dispatcher.ways.recalled(Recall(0, 1, WAY, 2, 1 << 30), 2, 2, virtual.clock.now)
        dispatcher.pause(PAUSED)
        virtual.pass_s(0.05)
        assert {gone_back(reader)[name] for name in ids(entries(1, 2))} == {(WAY, True)}


def test_where_nothing_was_recalled_it_goes_back_to_the_backlog() -> None:
    with VirtualTime() as virtual:
        reader, dispatcher = at_work(virtual)
        dispatcher.take(entries(0, 3), virtual.clock.now)
        dispatcher.pause(PAUSED)
        virtual.pass_s(0.05)
        assert {gone_back(reader)[name] for name in ids(entries(1, 2))} == {("", False)}


def test_what_is_recalled_and_held_lets_nothing_pass_that_is_read_after_it() -> None:
    with VirtualTime() as virtual:
        reader, dispatcher = at_work(virtual)
        dispatcher.pause(PAUSED)
        dispatcher.take(entries(0, 2, WAY), virtual.clock.now)
        dispatcher.pause({})
        dispatcher.take(entries(2, 2), virtual.clock.now)
        virtual.pass_s(0.05)
        assert {way for way, _ in gone_back(reader).values()} == {WAY}
        assert sorted(gone_back(reader)) == ids(entries(0, 4))


@pytest.mark.parametrize("queue_paused", [False, True])
def test_a_message_that_became_ready_after_the_pause_shows_for_those_before_it_that_it_is_over(
    queue_paused: bool,
) -> None:
    pauses = Pauses({7: StreamId(3, 0), 8: StreamId(3, 0)}, queue_paused=queue_paused)
    assert pauses.after(entries(1, 3), 0) is pauses
    after = pauses.after(entries(1, 5), 0)
    assert [after.hold(entry) for entry in entries(1, 5)] == [queue_paused] * 5
    other = Entry(shard=0, queue="normal", entry_id=b"2-0", message=message("m", organisation_id=8))
    assert after.hold(other)


def test_what_is_made_ready_to_be_ended_does_not_show_that_a_pause_is_over() -> None:
    pauses = Pauses({7: StreamId(3, 0)})
    some = entries(1, 5)
    [over_us] = {entry.message.expires_at_us for entry in some}
    # Where the clock of the worker is a little behind that of Redis, too.
    assert pauses.after(some, over_us - 5_000_000) is pauses
    assert not pauses.after(some, over_us - 60_000_000).hold(some[0])
