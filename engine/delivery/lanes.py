"""Rule: the lanes of one worker together: how many sends may begin, and when to look again.

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from engine.delivery import read_ahead
from engine.delivery.breaker import Breaker
from engine.delivery.lane import Lane
from engine.delivery.places import Places
from engine.delivery.supply import Supply
from engine.providers.settings import ProviderSettings
from engine.routing.records import RoutingPlan

# So many messages lie ready in the streams, as far as the worker's sending asks for more or fewer. What waits
# behind them is still in its organisation's turn.
_READY_MIN = 4
_READY_MAX = 2048


class Lanes:
    """One lane for each provider.

    Iterating gives the lanes in the order in which they may send. Those with a throughput come first,
    because their slots pass.
    """

    def __init__(
        self, settings: Sequence[ProviderSettings], concurrency: int, *, stocks: bool = False
    ) -> None:
        """`concurrency` bounds the sends in flight, without those in flight when their provider stalled.
        `stocks`: as of `Allowance`."""
        # How fast the worker sends, and how long a read takes.
        self.supply = Supply()
        self.by_name = {p.name: _lane(p, concurrency, len(settings), stocks, self.supply) for p in settings}
        self._throughput = {p.name: p.throughput for p in settings}
        self._concurrency = concurrency
        self.places = Places(concurrency, len(settings))
        self._order = list(self.by_name.values())
        # How many messages were read and put off.
        self.put_off = 0

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def allow(self, concurrency: int) -> None:
        """Let so many sends be in flight from now on. Fewer: those that are in flight get their verdict
        first, and what waits in the lanes stays there."""
        self._concurrency = concurrency
        self.places = Places(concurrency, len(self._order))
        for lane in self._order:
            lane.in_flight_max, lane.waiting_max = _bounds(concurrency, len(self._order))

    def use(self, plan: RoutingPlan, *, queue_paused: bool = False) -> None:
        """Pause providers, all of them when `queue_paused`, and set their throughput, as `plan` says."""
        for name, lane in self.by_name.items():
            lane.paused = queue_paused or name in plan.paused
            lane.limit(plan.throughput.get(name, self._throughput[name]))
        self._order.sort(key=lambda lane: lane.allowance is None)

    def shared_left(self) -> int:
        """How many of the places that belong to no lane are free; see `engine.delivery.places`."""
        return self.places.shared_left([lane.awaited.expected for lane in self._order])

    def hanging(self) -> int:
        """How many messages are in hand whose provider has stalled since they were sent, of each lane no more
        than it may have in flight. They keep nobody from reading and sending others."""
        return sum(min(lane.awaited.hanging, lane.in_flight_max) for lane in self._order)

    def room(self, now_s: float, *, far: bool = True) -> int | None:
        """How many more messages are worth reading now; None: as many as the worker takes in hand. Without
        `far`: no more where a read takes long."""
        if not any(lane.open(now_s) and lane.room(now_s) > 0 for lane in self._order):
            return 0
        if len(self._order) == 1 and self._order[0].breaker.state != "closed":
            # It takes one message as a probe. Others that were read would go back to the backlog.
            return 1
        read_s = self.supply.read_s if far else 0.0
        return None if len(self._order) > 1 else read_ahead.room(self._order[0], now_s, read_s)

    def held_up(self, now_s: float) -> int:
        """How many messages are with lanes that are crowded. More for them are put off as they are read, so
        that those for others are read; 0 where there is one lane."""
        if len(self._order) < 2:
            return 0
        crowded = [lane for lane in self._order if lane.waiting and lane.room(now_s) <= 0]
        return sum(len(lane.waiting) + lane.awaited.expected for lane in crowded)

    def ahead(self, now_s: float, *, far: bool) -> int:
        """How many messages are worth having in hand beside those that are being sent, so that the providers
        have work while Redis is read. Without `far`: as few as there must be."""
        concurrency, supply = self._concurrency, self.supply
        return sum(read_ahead.ahead(lane, concurrency, now_s, supply, far=far) for lane in self._order)

    def begun(self, now_s: float, *, more: bool) -> None:
        """Note how much the worker sends; `more`: there is more than it has read."""
        taking = more and any(lane.open(now_s) for lane in self._order)
        # What is put off has to be read as well. Were it not counted, less would lie ready the less is sent,
        # and what can be sent behind it would come later and later.
        begun = self.put_off + sum(lane.awaited.begun for lane in self._order)
        self.supply.note_begun(begun, now_s, more=taking)

    def ready_messages(self, now_s: float) -> int:
        """How many messages should lie ready to be read: a power of two, so that it seldom changes."""
        rate = sum(read_ahead.rate(lane, now_s) for lane in self._order if lane.open(now_s))
        supply = self.supply
        wanted = max(_ready_min(self._order), min(_READY_MAX, min(rate, supply.rate) * supply.ready_s))
        return 1 << round(math.log2(wanted))

    def busy(self) -> bool:
        """Whether anything waits or is in flight."""
        return any(lane.waiting or lane.awaited.in_flight for lane in self._order)

    def again_at_s(self, now_s: float) -> float:
        """When more may be sent although nothing happens; infinity: not before something does."""
        left = self.shared_left()
        times = [
            lane.again_at_s(now_s)
            for lane in self._order
            if lane.waiting and self.places.free(lane.awaited.expected, left) > 0
        ]
        return min((at_s for at_s in times if at_s is not None), default=math.inf)


def _lane(settings: ProviderSettings, concurrency: int, lanes: int, stocks: bool, supply: Supply) -> Lane:
    in_flight_max, waiting_max = _bounds(concurrency, lanes)
    return Lane(
        settings.name,
        Breaker(failures=settings.breaker_failures, pause_s=settings.breaker_pause_s),
        timeout_s=settings.timeout_s,
        in_flight_max=in_flight_max,
        waiting_max=waiting_max,
        stocks=stocks,
        supply=supply,
    )


def _bounds(concurrency: int, lanes: int) -> tuple[int, int]:
    """Of one lane: (sends in flight, messages that wait). Where there are other lanes, one may have no more
    than three quarters of the sends in flight."""
    in_flight = max(1, concurrency * 3 // 4) if lanes > 1 else concurrency
    return in_flight, max(1, concurrency // 2)


def _ready_min(lanes: Sequence[Lane]) -> int:
    """The fewest that should lie ready. A throughput takes one after another, and the only lane is read for
    in time. Answers may come all at once, and of several lanes any may have room for many."""
    return 1 if len(lanes) == 1 and lanes[0].allowance is not None else _READY_MIN
