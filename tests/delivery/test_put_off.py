"""A limited provider has work as long as anything is put off for it: on virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.delivery.dispatcher import Dispatcher
from engine.routing.records import Route, RoutingPlan
from tests.delivery.test_providers_apart import Arriving, Timed
from tests.delivery.test_turns_of_delivery import PaceInMemory, started
from tests.delivery.turns import VirtualTime

TO = {"slow": "+98912", "quick": "+4917", "free": "+3361"}
ROUTES = tuple(Route(prefix=prefix, providers=(name,)) for name, prefix in TO.items())
RATES = {"slow": 50.0, "quick": 2000.0}


def at_work(
    virtual: VirtualTime,
    routes: Sequence[Route] = ROUTES,
    *,
    trip_s: float = 0.0005,
    workers: int = 1,
    concurrency: int = 100,
    rates: dict[str, float] = RATES,
) -> tuple[Arriving, dict[str, Timed], list[Dispatcher]]:
    """Workers of a queue with three providers, two of them limited."""
    reader, carriers = Arriving("normal"), {name: Timed(name, virtual) for name in TO}
    reader.trip_s = trip_s
    pace, dispatchers = PaceInMemory(virtual), []
    for carrier in carriers.values():
        carrier.latency_s = 0.003
    for _ in range(workers):
        _, dispatcher, _ = started(virtual, reader, list(carriers.values()), pace, concurrency=concurrency)
        dispatcher.use(RoutingPlan(version=2, routes=tuple(routes), throughput=rates))
        dispatchers.append(dispatcher)
    return reader, carriers, dispatchers


def sent_in(virtual: VirtualTime, carrier: Timed, seconds: float) -> int:
    before = len(carrier.at_s)
    virtual.pass_s(seconds)
    return len(carrier.at_s) - before


def most_in_a_second(carrier: Timed) -> int:
    times = sorted(carrier.at_s.values())
    most = first = 0
    for last, at_s in enumerate(times):
        while times[first] <= at_s - 1:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("trip_s", [0.0005, 0.02, 0.1])
def test_each_limited_provider_is_used_whatever_is_put_off_and_however_slow_reads_are(
    trip_s: float, workers: int
) -> None:
    with VirtualTime() as virtual:
        reader, carriers, _ = at_work(virtual, trip_s=trip_s, workers=workers)
        for _ in range(40):
            for name, count in (("slow", 60), ("quick", 800), ("free", 5)):
                reader.arrive(TO[name], count, segments=1)
        virtual.pass_s(5.0)
        before = {name: len(carriers[name].at_s) for name in RATES}
        virtual.pass_s(6.0)
        used = {name: (len(carriers[name].at_s) - before[name]) / rate / 6 for name, rate in RATES.items()}
        assert min(used.values()) >= 0.95, used
        # With the slowest reads it takes longer to read all that is before them.
        assert len(carriers["free"].at_s) == 200 or trip_s == 0.1
        assert most_in_a_second(carriers["slow"]) <= 52
        assert most_in_a_second(carriers["quick"]) <= 2100


def test_what_was_behind_canceled_messages_is_sent_at_once() -> None:
    with VirtualTime() as virtual:
        reader, carriers, _ = at_work(virtual)
        reader.arrive(TO["slow"], 1400, organisation_id=7, segments=1)
        last = reader.arrive(TO["slow"], 20, organisation_id=7, segments=1)
        virtual.pass_s(2.0)
        (lists,) = reader.aside.values()
        lists[7] = lists[7][-20:]
        virtual.pass_s(2.0)
        assert {message.id for message in last} <= set(carriers["slow"].at_s)


def test_a_provider_that_becomes_quicker_is_used_at_once() -> None:
    with VirtualTime() as virtual:
        reader, carriers, (dispatcher,) = at_work(virtual)
        reader.arrive(TO["slow"], 5000, segments=1)
        virtual.pass_s(3.0)
        dispatcher.use(RoutingPlan(version=2, routes=ROUTES, throughput={"slow": 500.0}))
        virtual.pass_s(1.0)
        assert sent_in(virtual, carriers["slow"], 4.0) >= 0.95 * 500 * 4


@pytest.mark.parametrize("alone", [False, True])
def test_what_waits_for_a_paused_provider_is_sent_when_it_is_resumed_and_nobody_spins_until_then(
    *, alone: bool
) -> None:
    with VirtualTime() as virtual:
        routes = [Route(prefix="", providers=("slow",))] if alone else ROUTES
        reader, carriers, (dispatcher,) = at_work(virtual, routes)
        reader.arrive(TO["slow"], 500, segments=1)
        virtual.pass_s(1.0)
        paused = RoutingPlan(version=2, routes=tuple(routes), throughput=RATES, paused=("slow",))
        dispatcher.use(paused)
        virtual.pass_s(1.0)
        assert sent_in(virtual, carriers["slow"], 20.0) == 0
        # Each look is some turns: ten times a second by the sweeper, and by who recalls.
        virtual.pass_s(10.0, turns_max=300)
        dispatcher.use(RoutingPlan(version=2, routes=tuple(routes), throughput=RATES))
        assert sent_in(virtual, carriers["slow"], 5.0) >= 4 * 50


def test_what_waits_for_a_provider_that_is_paused_goes_to_the_next_of_its_route() -> None:
    with VirtualTime() as virtual:
        routes = (Route(prefix="", providers=("slow", "free")),)
        reader, carriers, (dispatcher,) = at_work(virtual, routes)
        reader.arrive(TO["slow"], 2000, segments=1)
        virtual.pass_s(2.0)
        assert not carriers["free"].at_s
        dispatcher.use(RoutingPlan(version=2, routes=routes, throughput=RATES, paused=("slow",)))
        virtual.pass_s(10.0)
        assert len(carriers["free"].at_s) + len(carriers["slow"].at_s) == 2000


def test_what_waits_for_a_provider_goes_to_another_when_its_route_is_another() -> None:
    with VirtualTime() as virtual:
        reader, carriers, (dispatcher,) = at_work(virtual)
        reader.arrive(TO["slow"], 2000, segments=1)
        virtual.pass_s(2.0)
        routes = (Route(prefix="", providers=("free",)),)
        dispatcher.use(RoutingPlan(version=3, routes=routes, throughput=RATES))
        virtual.pass_s(10.0)
        assert len(carriers["free"].at_s) + len(carriers["slow"].at_s) == 2000
        assert not reader.waiting


def test_what_waits_for_a_provider_that_nobody_has_any_more_is_looked_at_now_and_then() -> None:
    with VirtualTime() as virtual:
        reader, carriers, (dispatcher,) = at_work(virtual)
        dispatcher.ways.version = 2
        reader.arrive(TO["free"], 30, segments=1)
        # As a worker with another configuration has put them off.
        for entry in reader.left:
            reader._put_off("2 gone", entry)
        reader.left = []
        virtual.pass_s(8.0)
        assert not carriers["free"].at_s
        virtual.pass_s(8.0)
        assert len(carriers["free"].at_s) == 30


def test_organisations_share_what_a_provider_takes_of_what_is_put_off_and_light_ones_wait_little() -> None:
    with VirtualTime() as virtual:
        reader, carriers, _ = at_work(virtual)
        reader.arrive(TO["slow"], 3000, organisation_id=7, segments=1)
        virtual.pass_s(3.0)
        came: dict[str, float] = {}
        for _ in range(20):
            one = reader.arrive(TO["slow"], organisation_id=8, segments=1)[0]
            came[one.id] = virtual.clock.now
            virtual.pass_s(1.0)
        waits = [carriers["slow"].at_s.get(i, float("inf")) - at_s for i, at_s in came.items()]
        assert max(waits[:-1]) <= 1.0


def test_organisations_share_what_a_provider_takes_while_what_is_put_off_moves_to_another_plan() -> None:
    with VirtualTime() as virtual:
        reader, carriers, (dispatcher,) = at_work(virtual)
        reader.arrive(TO["slow"], 10_000, organisation_id=7, segments=1)
        light = {one.id for one in reader.arrive(TO["slow"], 1000, organisation_id=8, segments=1)}
        virtual.pass_s(3.0)
        before = len(light & carriers["slow"].at_s.keys())
        dispatcher.use(RoutingPlan(version=3, routes=ROUTES, throughput=RATES))
        sent = sent_in(virtual, carriers["slow"], 10.0)
        assert sent >= 0.95 * 10.0 * RATES["slow"]
        assert 0.4 <= (len(light & carriers["slow"].at_s.keys()) - before) / sent <= 0.6


def test_messages_of_an_organisation_are_sent_in_order_though_put_off() -> None:
    with VirtualTime() as virtual:
        reader, carriers, _ = at_work(virtual)
        for _ in range(30):
            reader.arrive(TO["slow"], 10, segments=1)
            virtual.pass_s(0.1)
        virtual.pass_s(10.0)
        sent = list(carriers["slow"].at_s)
        assert sorted(sent, key=lambda i: int(i[1:])) == sent
        assert len(sent) == 300


def test_beside_an_older_version_what_was_put_off_goes_to_the_due_set_which_that_knows() -> None:
    with VirtualTime() as virtual:
        reader, carriers, _ = at_work(virtual)
        reader.arrive(TO["slow"], 500, segments=1)
        virtual.pass_s(2.0)
        assert reader.waiting
        reader.allowed = False
        virtual.pass_s(3.0)
        assert not reader.waiting
        due = [settlement for settlement in reader.settled if settlement.due_at_us]
        assert len(due) + len(carriers["slow"].at_s) >= 500
        assert not [settlement for settlement in due if settlement.way]
