"""Rule: which provider a message of one queue goes to now, by the routes and by the state of the lanes.

A message of `express` goes to the first provider whose lane is not crowded. A message of `normal` goes to
the provider that its route prefers, however many wait there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from engine.delivery.lane import Lane
from engine.records import Message, Queue
from engine.routing.records import RoutingPlan
from engine.routing.routes import Candidates, Router, choose


class ProviderChoice:
    """Chooses providers for the messages of one queue in one worker."""

    def __init__(self, queue: Queue, names: Sequence[str], lanes: Mapping[str, Lane], rng: Random) -> None:
        """`names`: the providers in order of preference, as in the configuration; `lanes` by name."""
        self._queue = queue
        self._names = names
        self._lanes = lanes
        self._rng = rng
        self._router = Router(RoutingPlan(version=0), names)

    def use(self, plan: RoutingPlan) -> None:
        """Route by `plan` from now on."""
        self._router = Router(plan, self._names)

    def candidates(self, message: Message) -> Candidates:
        """The providers that may carry the message, whatever the state of their lanes."""
        return self._router.candidates(message, self._queue)

    def of(self, candidates: Candidates, message: Message, now_s: float) -> Lane | None:
        """The lane for the message now; None: no lane of the candidates is open."""
        lanes, tried = self._lanes, message.tried

        def usable(name: str) -> bool:
            return lanes[name].open(now_s)

        def roomy(name: str) -> bool:
            return usable(name) and not lanes[name].crowded(now_s)

        name = choose(candidates, tried, roomy, self._rng) if self._queue == "express" else None
        if name is None:
            name = choose(candidates, tried, usable, self._rng)
        if name is None and tried:
            # No other provider is left in this round: take one that has failed the message before.
            name = choose(candidates, (), usable, self._rng)
        return None if name is None else lanes[name]

    def another(self, lane: Lane, message: Message, now_s: float) -> bool:
        """Whether a provider other than that of `lane` can take the message now, and has not failed it in
        this round."""
        tried = (*message.tried, lane.name)
        lanes = self._lanes
        found = choose(self.candidates(message), tried, lambda n: lanes[n].open(now_s), self._rng)
        return found is not None
