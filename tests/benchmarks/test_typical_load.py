"""A load that is drawn beforehand: the provider's answers are those that it will give, and it is like the
long run."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.shaped import behaviour_of
from benchmarks.typical_load import PARTS, typical_load
from engine.capacity import costs, response_times
from engine.capacity.peaks import Peak
from engine.capacity.plan import Bounds, Plan, Planner
from engine.capacity.simulation import Shape, System
from supervisor.simulator.behaviour import Behaviour
from supervisor.simulator.provider import SimulatedProvider

TIMES = response_times.parse("lognormal(median=80ms, sigma=0.6)")
SEND = b'{"id":"1","to":"+4915112345678","text":"hello"}'


def plans(*concurrency: int, failed: float = 0.0) -> list[Plan]:
    system = System(
        peaks=[Peak("a", "normal", 100.0)],
        answers={"express": TIMES, "normal": TIMES},
        costs=costs.REFERENCE,
        failed=failed,
        backoff_s={"express": 0.5, "normal": 1.0},
    )
    planner = Planner(system, (), Bounds())
    return [planner.evaluate({"normal": Shape(processes=1, concurrency=n)}) for n in concurrency]


def test_the_answers_are_those_that_the_simulated_provider_gives():
    behaviour = behaviour_of(TIMES, 0.1)
    load = typical_load(*plans(12, 11, failed=0.1), behaviour, 5.0, loads=3)
    provider = SimulatedProvider(Behaviour())
    provider.change(msgspec.json.encode(msgspec.structs.replace(behaviour, seed=load.seed)))
    given = []
    for _ in range(400):
        answer, after_s = provider.take(SEND, 0.0)
        assert isinstance(answer, bytes)
        given.append(after_s if b"accepted" in answer else -after_s)
    assert load.answers_s[:400] == given
    assert any(s < 0 for s in given)


def test_of_many_loads_one_is_taken_that_is_like_the_long_run():
    plan, smaller = plans(12, 11)
    load = typical_load(plan, smaller, behaviour_of(TIMES, 0.0), 10.0, loads=40)
    predicted = load.predict(plan)["normal"]
    for part, (low, high) in zip(PARTS, load.chance_s["normal"], strict=True):
        wanted = plan.queues[0].latencies.quantile_s(part)
        assert predicted.quantile_s(part) == pytest.approx(wanted, rel=0.06)
        assert low <= wanted <= high
    # Chance alone moves the p99 by more than that.
    assert high / low > 1.2
