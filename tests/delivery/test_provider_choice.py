"""Messages of one read go to the lanes that each would go to by itself."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from engine.delivery.lanes import Lanes
from engine.delivery.provider_choice import ProviderChoice
from engine.providers.settings import SimulatedSettings
from engine.records import Entry, Queue
from engine.routing.records import Route, RoutingPlan
from tests.stores.redis.kit import message

NOW_S = 100.0


def entry(rng: Random, number: int) -> Entry:
    tried = rng.choice([(), (), (), (), ("p0",)])
    of = message(
        f"m{number}", to=f"+{rng.choice((1, 12, 2))}{number:09d}", tried=tried, segments=rng.choice((1, 1, 3))
    )
    return Entry(shard=0, queue="normal", entry_id=b"%d-0" % number, message=of)


def lanes(rng: Random, count: int) -> Lanes:
    """In a state that one seed always makes: some are full, limited, paused, broken or rest."""
    made = Lanes(
        [
            SimulatedSettings(name=f"p{n}", breaker_failures=1, throughput=rng.choice([None, None, 20.0]))
            for n in range(count)
        ],
        20,
    )
    for lane in made:
        state = rng.choice(["fine", "fine", "fine", "filling", "broken", "rests", "answers"])
        if state == "filling":
            lane.add([entry(rng, n) for n in range(rng.randrange(12))], NOW_S)
        elif state == "answers":
            lane.ended(lane.began([entry(rng, 0)], NOW_S - 1.5), "accepted", NOW_S)
        elif state != "fine":
            kind = "temporary" if state == "broken" else "throttled"
            lane.ended(lane.began([entry(rng, 0)], NOW_S), kind, NOW_S)  # type: ignore[arg-type]
    return made


def plan(rng: Random, names: Sequence[str]) -> RoutingPlan:
    if rng.random() < 0.3:
        return RoutingPlan(version=1)
    weights = tuple(rng.randrange(1, 4) for _ in names) if rng.random() < 0.3 else ()
    routes = [Route(providers=tuple(names), weights=weights)]
    for prefix in ("+1", "+12"):
        if rng.random() < 0.7:
            routes.append(Route(prefix=prefix, providers=tuple(rng.sample(names, len(names)))))
    return RoutingPlan(version=1, routes=tuple(routes), paused=tuple(n for n in names if rng.random() < 0.1))


@pytest.mark.parametrize("queue", ["express", "normal"])
@pytest.mark.parametrize("seed", range(150))
def test_given_together_they_go_where_each_would_go(queue: Queue, seed: int) -> None:
    rng = Random(seed)
    count = rng.randrange(1, 4)
    routing = plan(rng, [f"p{n}" for n in range(count)])
    entries = [entry(rng, 100 + n) for n in range(rng.randrange(1, 40))]
    together, one_by_one = lanes(Random(seed), count), lanes(Random(seed), count)
    placed: dict[str, list[Entry]] = {}
    for made in (together, one_by_one):
        made.use(routing)
    # Draws come out the same for both, as long as both draw as often.
    chosen, asked = (
        ProviderChoice(queue, list(made.by_name), made.by_name, Random(7)) for made in (together, one_by_one)
    )
    for choice in (chosen, asked):
        choice.use(routing)
    left = chosen.give(entries, NOW_S, NOW_S)
    weighted = any(route.weights for route in routing.routes)
    for one in entries:
        candidates = asked.candidates(one.message)
        lane = asked.of(candidates, one.message, NOW_S) if candidates.open else None
        if one in left:
            # It has to be asked for, whatever comes of it; the others went before.
            continue
        assert lane is not None
        assert count == 1 or weighted or not lane.room(NOW_S) <= 0
        lane.add([one], NOW_S)
        placed.setdefault(lane.name, []).append(one)
    if not weighted:
        for name, lane in together.by_name.items():
            assert [e for e, _ in lane.waiting if e in entries] == placed.get(name, [])
            assert lane.waiting_segments == one_by_one.by_name[name].waiting_segments
    assert sum(len(lane.waiting) for lane in together) + len(left) == len(entries) + sum(
        len([e for e, _ in lane.waiting if e not in entries]) for lane in together
    )
    assert not [e for e in entries if e.message.tried and e not in left]
