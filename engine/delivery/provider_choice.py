"""Rule: which provider a message of one queue goes to now, by the routes and by the state of the lanes.

A message of `express` goes to the first provider whose lane is not crowded. A message of `normal` goes to
the provider that its route prefers, however many wait there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random

from engine.delivery.lane import Lane
from engine.records import Entry, Message, Queue
from engine.routing.records import RoutingPlan
from engine.routing.routes import Candidates, Router, choose, drawn


class ProviderChoice:
    """Chooses providers for the messages of one queue in one worker."""

    def __init__(self, queue: Queue, names: Sequence[str], lanes: Mapping[str, Lane], rng: Random) -> None:
        """`names`: the providers in order of preference, as in the configuration; `lanes` by name."""
        self._queue: Queue = queue
        self._names = names
        self._lanes = lanes
        self._rng = rng
        self._router = Router(RoutingPlan(version=0), names)

    @property
    def reroutes(self) -> bool:
        """Whether any route lets messages be sent again when a receipt says that they did not arrive."""
        return self._router.reroutes

    def use(self, plan: RoutingPlan) -> None:
        """Route by `plan` from now on."""
        self._router = Router(plan, self._names)

    def candidates(self, message: Message) -> Candidates:
        """The providers that may carry the message, whatever the state of their lanes."""
        return self._router.candidates(message, self._queue)

    def give(self, entries: Sequence[Entry], read_at_s: float, now_s: float) -> list[Entry]:
        """Give entries to the lanes that `of` would choose for them; returns those that are not straight, for
        which it has to be asked. See `StraightChoice`."""
        straight = StraightChoice(self._lanes, self._rng, now_s)
        router, queue = self._router, self._queue
        if router.alike and entries:
            candidates = router.candidates(entries[0].message, queue)
            if straight.all_to_one(candidates, entries, read_at_s):
                return []
        left: list[Entry] = []
        placed: dict[str, list[Entry]] = {}
        # Whose messages were recalled, which came before others of theirs and are placed later.
        recalled: set[int] = set()
        for entry in entries:
            message = entry.message
            lane = None
            if entry.way:
                recalled.add(message.organisation_id)
            elif not message.tried and message.organisation_id not in recalled:
                lane = straight.lane(router.candidates(message, queue), message.segments)
            if lane is None:
                left.append(entry)
            elif (before := placed.get(lane.name)) is not None:
                before.append(entry)
            else:
                placed[lane.name] = [entry]
        for name, some in placed.items():
            self._lanes[name].add(some, read_at_s)
        return left

    def of(self, candidates: Candidates, message: Message, now_s: float) -> Lane | None:
        """The lane for the message now; None: no lane of the candidates is open."""
        lanes, tried = self._lanes, message.tried

        def usable(name: str) -> bool:
            return lanes[name].open(now_s)

        def roomy(name: str) -> bool:
            return usable(name) and lanes[name].room(now_s) > 0

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


class StraightChoice:
    """The lanes of messages that have nothing out of the ordinary, while the messages of one read are placed.

    The provider that a message's route prefers, or each that it draws from, has a closed circuit and is not
    crowded, nothing is put off for it or was of the message, and no provider has failed that. Then
    `ProviderChoice.of` would choose the same. What is known of a lane is looked up once; each message that
    the lane is given takes from its room.
    """

    __slots__ = ("_lanes", "_now_s", "_rng", "_room", "_ways")

    def __init__(self, lanes: Mapping[str, Lane], rng: Random, now_s: float) -> None:
        self._lanes = lanes
        self._rng = rng
        self._now_s = now_s
        # How much more each lane takes before it is crowded: see `Lane.room`.
        self._room: dict[str, float] = {}
        # The lanes that messages with these candidates may go to; (): it is not straight.
        self._ways: dict[int, tuple[Lane, ...]] = {}

    def all_to_one(self, candidates: Candidates, entries: Sequence[Entry], read_at_s: float) -> bool:
        """Give all entries to one lane, if it has room for all, and nothing else is to be looked at."""
        lanes = self._open(candidates)
        if len(lanes) != 1 or lanes[0].allowance is not None or self._room[lanes[0].name] < len(entries):
            return False
        if any(entry.message.tried or entry.way for entry in entries):
            return False
        lanes[0].add(entries, read_at_s)
        return True

    def lane(self, candidates: Candidates, segments: int) -> Lane | None:
        """The lane for a message that no provider has failed. It must be given to it then. None: ask
        `ProviderChoice.of`."""
        lanes = self._ways.get(id(candidates))
        if lanes is None:
            lanes = self._ways[id(candidates)] = self._open(candidates)
        if not lanes:
            return None
        room = self._room
        if len(lanes) == 1:
            lane = lanes[0]
        else:
            # A draw counts as it fell, so all must have room before it is made.
            if any(room[lane.name] <= 0 for lane in lanes):
                return None
            name = drawn(candidates.open, candidates.weights, self._rng)
            if name is None:
                return None
            lane = self._lanes[name]
        left = room[lane.name]
        if left <= 0:
            return None
        room[lane.name] = left - (1 if lane.allowance is None else segments)
        return lane

    def _open(self, candidates: Candidates) -> tuple[Lane, ...]:
        """The lanes of `candidates`, without weights the first of them, if all have a closed circuit."""
        names = candidates.open if candidates.weights else candidates.open[:1]
        lanes = tuple(self._lanes[name] for name in names)
        alone = len(self._lanes) == 1
        for lane in lanes:
            if lane.breaker.state != "closed" or lane.paused or (lane.behind and not alone):
                return ()
            if lane.name not in self._room:
                self._room[lane.name] = math.inf if alone else lane.room(self._now_s)
        return lanes
