"""Rule: which provider a message of one queue goes to now, by the routes and by the lanes' state.

Express goes to the first provider with room at once; normal waits for its turn where it
belongs, however long the line is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from engine.delivery.lane import Lane
from engine.records import Message, Queue
from engine.routing.records import RoutingPlan
from engine.routing.routes import Candidates, Router, choose


class ProviderChoice:
    """Of one queue in one worker."""

    def __init__(self, queue: Queue, names: Sequence[str], lanes: Mapping[str, Lane], rng: Random) -> None:
        """`names` in order of preference, as in the configuration."""
        self._queue = queue
        self._names = names
        self._lanes = lanes
        self._rng = rng
        self._router = Router(RoutingPlan(version=0), names)

    def use(self, plan: RoutingPlan) -> None:
        self._router = Router(plan, self._names)

    def candidates(self, message: Message) -> Candidates:
        """Who may carry it at all."""
        return self._router.candidates(message, self._queue)

    def of(self, candidates: Candidates, message: Message, now_s: float) -> Lane | None:
        """Who is to carry it now; None: nobody can."""
        lanes, tried = self._lanes, message.tried

        def usable(name: str) -> bool:
            return lanes[name].open(now_s)

        def roomy(name: str) -> bool:
            return usable(name) and not lanes[name].crowded(now_s)

        name = choose(candidates, tried, roomy, self._rng) if self._queue == "express" else None
        if name is None:
            name = choose(candidates, tried, usable, self._rng)
        if name is None and tried:
            # Nobody is left in this round: one that failed it may still be better than nobody.
            name = choose(candidates, (), usable, self._rng)
        return None if name is None else lanes[name]

    def another(self, lane: Lane, message: Message, now_s: float) -> bool:
        """Whether somebody else than `lane` can take it now who has not failed it in this round."""
        tried = (*message.tried, lane.name)
        lanes = self._lanes
        found = choose(self.candidates(message), tried, lambda n: lanes[n].open(now_s), self._rng)
        return found is not None
