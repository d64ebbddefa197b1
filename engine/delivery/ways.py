"""Rule: what a message that is put off waits for, and how much of what is put off is recalled.

A message that its provider cannot take soon is put off: it leaves its worker, so that it holds up no other
message, and waits in Redis in a list of its organisation. Its *way* says what it waits for: the providers
that may carry it, the one that it would go to first, and the routing plan that says so. Messages of one way
wait for the same, and their organisations share it by turns (`functions/queue/07_put_off.lua`).

A worker recalls what it has room for, whoever put it off. So nothing is put off until a time, and a provider
has work as long as anything waits for it, whatever is canceled or expires before that:

    one of its providers is open   so much is recalled that about half of what would make its lane crowded
                                   waits there
    none of them is open           nothing is recalled
    the plan is another one now    all of it is recalled, a little at a time, as fast as it is read: it may
                                   wait for others now, and goes behind what is put off for those
    no provider of this process    a little is recalled now and then, when nobody else seems to: the providers
                                   may not be configured anywhere any more

Recalled messages come by the ready stream, so any worker may be given them. One that has no room for its part
puts it off again, to the front of its list. While anything is put off for a lane, what comes to it otherwise
goes behind that, so it is not overtaken. What waited in a lane before, and leaves it because its provider is
closed or nothing is to be sent now, goes to the front.

That something is put off for a lane is known at once from what this worker puts off, and ten times a second
from Redis. An answer of Redis that nothing is counts only for what was written before the question.

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from engine.delivery.demand import Demand, units_waiting
from engine.delivery.lane import Lane
from engine.delivery.lanes import Lanes
from engine.delivery.moves import MOVED_MAX, Moves
from engine.delivery.ports import PutOff, Recall
from engine.records import Entry, Message, Queue
from engine.routing.records import RoutingPlan
from engine.written_numbers import is_whole

# Of a way that nobody else seems to recall: so many messages of each shard at a time, once in so long,
# seconds.
_LITTLE = 64
_STRANGE_S = 10.0
# More segments than are ever recalled together.
_ANY = 1 << 30
# A lane takes a recalled message unless it has so many times what makes it crowded.
_CROWDED_MAX = 2


class Ways:
    """The ways of one queue, as one worker knows them."""

    def __init__(
        self, queue: Queue, lanes: Lanes, putting_off: Callable[[], tuple[int, int]] = lambda: (0, 0)
    ) -> None:
        """`putting_off`: how many messages this worker has put off, which is not written yet; and how many of
        these go to the front."""
        self._putting_off = putting_off
        # Whether all that was put off before the last question what is put off had been written.
        self._whole = True
        # When the lanes were found that something is put off for as they are now, and their names.
        self._turned_at_s = -math.inf
        self._turned: frozenset[str] = frozenset()
        self._queue: Queue = queue
        self._lanes = lanes
        self._demands = {name: Demand(lane, lanes.supply) for name, lane in lanes.by_name.items()}
        # Of the plan that is in force, or of the first one that differs from it in nothing but what is
        # paused: so what is put off keeps its place when a queue or a provider is paused and resumed. Where
        # routes have weights, a paused provider makes another one: what waits draws its provider again.
        self.version = 0
        self._plan = RoutingPlan(version=0)
        self._put_off: Sequence[PutOff] = ()
        # What is to be recalled whatever has room, since the last look.
        self._released: list[Recall] = []
        # Of each way of a shard: so much it is behind its share of what was recalled.
        self._behind: dict[tuple[int, str], float] = {}
        # What is recalled of other plans.
        self.moves = Moves()
        # Of ways of no provider of ours: since when so many messages have waited.
        self._strange: dict[tuple[int, str], tuple[int, float]] = {}

    def use(self, plan: RoutingPlan) -> None:
        """`plan` is in force from now on."""
        before = msgspec.structs.replace(self._plan, version=plan.version, paused_queues=plan.paused_queues)
        if not any(route.weights for route in plan.routes):
            before = msgspec.structs.replace(before, paused=plan.paused)
        if plan != before or not self.version or plan.version < self.version:
            self.version = plan.version
        self._plan = plan

    def text(self, names: Sequence[str]) -> str:
        """The way of messages that these providers may carry."""
        return f"{self.version} {','.join(names)}"

    def asks(self) -> None:
        """Redis is about to be asked what is put off."""
        self._whole = not self._putting_off()[0]
        for lane in self._lanes:
            lane.behind_lately = False

    def note(self, put_off: Sequence[PutOff], now_s: float, *, release: bool = False) -> None:
        """Note what is put off, ten times a second. `release`: all of it is to be recalled."""
        self._put_off, self._turned_at_s = put_off, -math.inf
        for lane in self._lanes:
            lane.behind = lane.behind and (lane.behind_lately or not self._whole)
        # A worker that began later knows no version before.
        newest = max((_read(of.way)[0] for of in put_off), default=0)
        if self.version < newest <= self._plan.version:
            self.version = newest
        self._released, strange = [], {}
        reads = any(lane.open(now_s) and lane.room(now_s) > 0 for lane in self._lanes)
        for of in put_off:
            version, names = _read(of.way)
            known = any(name in self._lanes.by_name for name in names)
            if not of.messages or (reads and (release or (known and version != self.version))):
                if of.messages and not release and self.moves.waits(of, now_s):
                    continue
                plan = self.version if version != self.version else 0
                self._released.append(Recall(of.shard, of.number, of.way, MOVED_MAX, _ANY, plan))
            elif not known:
                since = self._strange.get((of.shard, of.way), (of.messages, now_s))
                if since[0] != of.messages:
                    since = (of.messages, now_s)
                elif now_s >= since[1] + _STRANGE_S and reads:
                    self._released.append(Recall(of.shard, of.number, of.way, _LITTLE, _ANY))
                    since = (of.messages, now_s)
                strange[of.shard, of.way] = since
            else:
                # Also those that are closed and would come before it: one may open before the next look.
                own = self.lane(of.way, now_s)
                for lane in [self._lanes.by_name[name] for name in names if name in self._lanes.by_name]:
                    lane.behind = True
                    if lane is own:
                        break
        self._strange = strange
        self.moves.keep(put_off)

    def takes(self, lane: Lane, entry: Entry, now_s: float) -> bool:
        """Whether a lane among several takes an entry now; else it is put off."""
        room = lane.room(now_s)
        if not self.by_turn(entry.way):
            return room > 0 and not lane.behind and lane.name not in self._lanes_waited_for(now_s)
        if self._putting_off()[1]:
            # What was recalled after one that goes back goes back too, until what is unread has.
            return False
        waiting = units_waiting(lane)
        return waiting < _CROWDED_MAX * (waiting + room)

    def _lanes_waited_for(self, now_s: float) -> frozenset[str]:
        """The names of the lanes that something is put off for, as they are open now."""
        if not self._put_off:
            return frozenset()
        if now_s != self._turned_at_s:
            waits = [of.way for of in self._put_off if of.messages and self.by_turn(of.way)]
            lanes = [self.lane(way, now_s) for way in waits]
            self._turned_at_s, self._turned = now_s, frozenset(lane.name for lane in lanes if lane)
        return self._turned

    def by_turn(self, way: str) -> bool:
        """Whether a message with this way was recalled for a lane, in its turn. One of another plan was not:
        if it went before what has a turn, its organisation would have all until the last of it has moved."""
        return way != "" and _read(way)[0] == self.version

    def lane(self, way: str, now_s: float) -> Lane | None:
        """The lane to which messages of a way would go now; None: none of its providers is open. The first
        that is open; of `express` the first that is not crowded, if there is one."""
        found = [self._lanes.by_name[name] for name in _read(way)[1] if name in self._lanes.by_name]
        found = [lane for lane in found if lane.open(now_s)]
        if self._queue == "express":
            found = [lane for lane in found if lane.room(now_s) > 0] or found
        return found[0] if found else None

    def wanted(self, now_s: float) -> list[Recall]:
        """What is to be recalled now. `recalled` is to be told what came of it."""
        released, self._released = self._released, []
        if self._putting_off()[1]:
            # It would go back as well (`takes`), and where writes are slow the next would, before that is
            # written, and so on.
            return released
        by_lane: dict[str, list[PutOff]] = {}
        for of in self._put_off:
            if of.messages and of.weight > 0 and self.by_turn(of.way):
                lane = self.lane(of.way, now_s)
                if lane is not None:
                    by_lane.setdefault(lane.name, []).append(of)
        behind_before, self._behind = self._behind, {}
        recalls = []
        for name, ways in by_lane.items():
            lane = self._lanes.by_name[name]
            for of, count in self._divided(ways, self._demands[name].wanted(now_s), behind_before):
                segments = _ANY if lane.allowance is None else count
                recalls.append(Recall(of.shard, of.number, of.way, count, segments))
        return released + recalls

    def recalled(self, recall: Recall, messages: int, segments: int, now_s: float) -> None:
        """Note what a recall has moved."""
        if not self.by_turn(recall.way):
            self.moves.recalled(recall.shard, recall.way, messages, now_s)
            return
        lane = self.lane(recall.way, now_s)
        if lane is None:
            return
        count = messages if lane.allowance is None else segments
        self._demands[lane.name].comes(count, now_s)
        # What was not there is not made up for.
        over = count - (recall.messages if lane.allowance is None else recall.segments)
        if over > 0 and (recall.shard, recall.way) in self._behind:
            self._behind[recall.shard, recall.way] -= over

    def expects(self, lane: Lane) -> bool:
        """Whether something was recalled for a lane that has not come."""
        return self._demands[lane.name].expects

    def came(self, lane: Lane, message: Message) -> None:
        """Note that a message has come that was recalled for `lane`."""
        self._demands[lane.name].came(message)

    def lasts_s(self, now_s: float) -> list[float]:
        """Of each lane for which something is put off, how long it has work until it wants more, seconds."""
        lanes = [lane for lane in self._lanes if lane.behind and lane.open(now_s)]
        return [self._demands[lane.name].lasts_s(now_s) for lane in lanes]

    def _divided(
        self, ways: Sequence[PutOff], wanted: int, behind_before: dict[tuple[int, str], float]
    ) -> list[tuple[PutOff, int]]:
        """How many of `wanted` are recalled of each, by the weight that waits there."""
        whole = sum(of.weight for of in ways)
        shares = [behind_before.get((of.shard, of.way), 0.0) + wanted * of.weight / whole for of in ways]
        counts = [max(0, int(share)) for share in shares]
        # Parts that come to a whole one go to those that are behind most.
        behind = sorted(range(len(ways)), key=lambda n: counts[n] - shares[n])
        for n in behind[: max(0, wanted - sum(counts))]:
            counts[n] += 1
        for of, share, count in zip(ways, shares, counts, strict=True):
            self._behind[of.shard, of.way] = share - count
        return [(of, count) for of, count in zip(ways, counts, strict=True) if count]


def providers_of(way: str) -> list[str]:
    """The names of the providers that may carry the messages of a way."""
    return _read(way)[1]


@lru_cache(maxsize=1024)
def _read(way: str) -> tuple[int, list[str]]:
    """The version of the routing plan, and the providers, of a way."""
    version, _, names = way.partition(" ")
    return int(version) if is_whole(version) else -1, names.split(",")
