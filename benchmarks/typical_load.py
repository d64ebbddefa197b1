"""A load that is like the long run, and what is predicted for exactly that load.

A load of half a minute has a p99 that chance alone moves by a third and more where bursts are large or slots
are short. So nothing is drawn while it is measured: the times of the bursts are drawn beforehand, and the
simulated provider draws the time of its nth answer from a seed, so that it is known as well. The simulation
gets the same arrivals and the same answers (common random numbers: A. M. Law, Simulation Modeling and
Analysis, 5th ed. 2015, 11.2), and what still differs is what the model does not know.

Of many such loads those are looked at whose predicted quantiles are near to those of the plan, which are of a
million messages; and of them the one is taken whose quantiles are also the nearest in a shape that is a
little too small. That is decided before anything is measured, and by the model alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from engine.capacity.plan import Plan
from engine.capacity.simulation import Arrivals, Death, Latencies, System, simulate
from engine.records import Queue
from supervisor.simulator.behaviour import Behaviour
from supervisor.simulator.draws import Sampler

PARTS = (0.5, 0.95, 0.99)
# Loads that are tried, and the part of them that lies outside of what is called chance, at each end.
_LOADS, _OUTSIDE = 200, 0.025
# So near to the plan is near enough, as a part of each quantile; or being among the nearest few.
_NEAR, _NEAREST = 0.04, 3


class TypicalLoad(NamedTuple):
    """One load, and what the model says of it. `chance_s`: by queue, for each of `PARTS`, between which
    latencies 95 of 100 loads of this length are predicted to be, seconds."""

    seed: int
    arrivals: Arrivals
    answers_s: Sequence[float]
    chance_s: Mapping[Queue, Sequence[tuple[float, float]]]
    # Of workers, while it lasts.
    deaths: Sequence[Death] = ()

    def predict(self, plan: Plan, draws: int = 1) -> dict[Queue, Latencies]:
        """What is predicted of this load in the shapes of `plan`. When a worker dies, others look for what it
        had at random times; so many `draws` of these are taken together."""
        found: dict[Queue, Latencies] = {}
        for n in range(draws if self.deaths else 1):
            one = simulate(
                plan.system, plan.shapes, self.arrivals, self.seed + n, self.answers_s, self.deaths
            )
            found = {queue: found[queue] + latencies for queue, latencies in one.items()} if found else one
        return found


def typical_load(
    plan: Plan,
    smaller: Plan,
    behaviour: Behaviour,
    seconds: float,
    loads: int = _LOADS,
    deaths: Sequence[Death] = (),
) -> TypicalLoad:
    """The load of `seconds` that is the most like the long run, where a provider behaves like this.

    `smaller`: a plan with a little less. `loads`: how many are tried. `deaths`: of
    workers, while it lasts.
    """
    seen, system = [], plan.system
    for seed in range(1, loads + 1):
        arrivals = Arrivals(system, system.queues, (1, 10**9), seed, seconds)
        load = TypicalLoad(seed, arrivals, _answers_s(system, behaviour, seed, seconds), {}, deaths)
        predicted = load.predict(plan)
        seen.append((_off(plan, predicted), load, predicted))
    outside, chance_s = round(loads * _OUTSIDE), {}
    for queue in plan.shapes:
        columns = zip(*(_quantiles_s(predicted[queue]) for _, _, predicted in seen), strict=True)
        chance_s[queue] = [(c[outside], c[-1 - outside]) for c in map(sorted, columns)]
    ordered = sorted(seen, key=lambda one: one[0])
    near = [load for n, (off, load, _) in enumerate(ordered) if off <= _NEAR or n < _NEAREST]
    found = min(near, key=lambda load: _off(smaller, load.predict(smaller)))
    return found._replace(chance_s=chance_s)


def _off(plan: Plan, predicted: Mapping[Queue, Latencies]) -> float:
    """How far `predicted` is from what is predicted for the long run, as a part of that, at most."""
    return max(
        abs(one / other - 1) if other else 0.0
        for found in plan.queues
        for one, other in zip(
            _quantiles_s(predicted[found.queue]), _quantiles_s(found.latencies), strict=True
        )
    )


def _answers_s(system: System, behaviour: Behaviour, seed: int, seconds: float) -> list[float]:
    """How long the simulated provider takes for each send, in order, when it begins with `seed`; negative: a
    temporary failure."""
    sampler = Sampler(behaviour, Random(seed))
    count = int(sum(system.sends(queue) for queue in system.queues) * seconds * 1.5) + 1000
    count += max(peak.burst for peak in system.peaks)
    drawn = (sampler.fate(0.0) for _ in range(count))
    return [lasts_s if fate == "accepted" else -lasts_s for fate, lasts_s in drawn]


def _quantiles_s(latencies: Latencies) -> list[float]:
    return [latencies.quantile_s(part) for part in PARTS]
