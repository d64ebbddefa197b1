"""From an entry to a provider: route, wait for room and for the provider's throughput, submit.

Every provider has a lane of its own (see `engine.delivery.lane`), so that one that is slow, hangs,
throttles or is paused holds up nobody else's messages. What a lane cannot take goes to the
message's next provider or, through the desk, back to Redis until later.

Nothing here is kept: what waits is in the worker's hand, which Redis remembers. Killed: the
other workers take it over. Frozen: whatever waited too long is not sent (the desk says so
when its turn comes), and slots reserved before are void by then. Redis away: no slots are
granted, and limited providers send nothing; the others go on.

Times are monotonic seconds, of a clock finer than the loop's, which uvloop cuts to milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from structlog.typing import FilteringBoundLogger

from engine.delivery.breaker import Breaker
from engine.delivery.lane import Lane
from engine.delivery.ports import EntryOwner
from engine.delivery.provider_choice import ProviderChoice
from engine.errors import Unavailable
from engine.providers.ports import Provider
from engine.providers.settings import ProviderSettings
from engine.records import Entry, Queue, Verdict
from engine.routing.ports import SlotRequest, SlotStore
from engine.routing.records import RoutingPlan

# Pause after Redis could not be asked for slots.
_PAUSE_S = 0.1
# Pause of a message whose route names only providers that this process does not know.
_ELSEWHERE_S = 5.0
# Closed and stalled lanes are looked at this often though nothing happens.
_LOOK_S = 0.1


class Dispatcher:
    """The providers of one queue in one worker."""

    def __init__(
        self,
        queue: Queue,
        providers: Sequence[Provider],
        settings: Sequence[ProviderSettings],
        pace: SlotStore,
        *,
        concurrency: int,
        rng: Random,
        log: FilteringBoundLogger,
        clock_s: Callable[[], float],
        hedge: bool = False,
    ) -> None:
        """`providers` in order of preference, started and stopped by the caller, and the settings
        of each in the same order. `concurrency` bounds the sends in flight, not counting
        those that a stalled provider owes answers to. `hedge`: what has waited for an answer
        longer than its provider ever takes goes to another at once, before the time-out;
        only where the recipient may get a message twice.
        """
        self._queue = queue
        self._providers = {provider.name: provider for provider in providers}
        self._lanes = {p.name: _lane(p, concurrency, len(settings)) for p in settings}
        self._settings = {p.name: p for p in settings}
        self._pace = pace
        self._concurrency = concurrency
        self._log = log
        self._clock_s = clock_s
        self._hedge = hedge
        self._choice = ProviderChoice(queue, [provider.name for provider in providers], self._lanes, rng)
        self._desk: EntryOwner | None = None
        self._wake = asyncio.Event()
        self.use(RoutingPlan(version=0))

    def report_to(self, desk: EntryOwner) -> None:
        """Before anything else."""
        self._desk = desk

    def use(self, plan: RoutingPlan) -> None:
        """Route by `plan` from now on; what waits for a provider that is paused now leaves it."""
        self._choice.use(plan)
        for name, lane in self._lanes.items():
            lane.paused = name in plan.paused
            lane.limit(plan.throughput.get(name, self._settings[name].throughput))
        self._wake.set()

    @property
    def lanes(self) -> int:
        """How many providers there are."""
        return len(self._lanes)

    @property
    def in_flight(self) -> int:
        return sum(lane.awaited.in_flight for lane in self._lanes.values())

    def worth_reading(self, now_s: float) -> bool:
        """Whether any provider could do more than it has to do."""
        return any(lane.open(now_s) and not lane.crowded(now_s) for lane in self._lanes.values())

    def place(self, entry: Entry, read_at_s: float, now_s: float) -> None:
        """Give `entry` to a provider, or to the desk."""
        assert self._desk is not None
        message = entry.message
        candidates = self._choice.candidates(message)
        if not candidates.routed:
            self._desk.unroutable(entry)
            return
        if not candidates.providers:
            # Another node's configuration has the providers of this route; not ours.
            self._desk.put_off(entry, _ELSEWHERE_S)
            return
        lane = self._choice.of(candidates, message, now_s)
        if lane is None:
            # Wherever it could go is closed: back until the first of them may have opened.
            lanes = [self._lanes[name] for name in candidates.providers]
            first = min(lanes, key=lambda lane: lane.breaker.closed_for(now_s))
            self._desk.put_off(entry, first.put_off_s(message.segments, now_s))
        elif lane.crowded(now_s) and len(self._lanes) > 1:
            self._desk.put_off(entry, lane.put_off_s(message.segments, now_s))
        else:
            lane.add(entry, read_at_s)

    def pump(self, now_s: float) -> None:
        """Submit what may go."""
        free = self._concurrency - sum(lane.awaited.owed for lane in self._lanes.values())
        for lane in self._lanes.values():
            lane.look(now_s)
            if not lane.waiting:
                continue
            if lane.shut(now_s):
                self._empty(lane, now_s)
                continue
            while free > 0 and (taken := lane.next(now_s)) is not None:
                free -= self._submit(lane, *taken, now_s)
            if lane.waiting and lane.allowance is not None:
                self._wake.set()

    def _submit(self, lane: Lane, entry: Entry, read_at_s: float, now_s: float) -> int:
        assert self._desk is not None
        if not self._desk.fit(entry, read_at_s):
            return 0
        token = lane.began(entry, now_s)
        provider = self._providers[lane.name]
        provider.submit(entry.message, partial(self._done, lane, entry, token, now_s))
        return 1

    def _done(self, lane: Lane, entry: Entry, token: int, began_s: float, verdict: Verdict) -> None:
        assert self._desk is not None
        now_s = self._clock_s()
        if lane.ended(token, verdict.kind, began_s, now_s):
            failed = verdict.kind not in ("accepted", "permanent")
            others = failed and self._choice.another(lane, entry.message, now_s)
            reroute = self._choice.candidates(entry.message).reroute
            self._desk.ended(entry, verdict, others=others, reroute=reroute)
        self.pump(now_s)

    def _give_up_overdue(self, now_s: float) -> None:
        """Send elsewhere what waits for an answer for too long (hedged requests: Dean and Barroso,
        The Tail at Scale, 2013). Its outcome is as unknown as after a time-out."""
        assert self._desk is not None
        for lane in self._lanes.values():
            for token, entry in lane.awaited.overdue(now_s):
                if self._choice.another(lane, entry.message, now_s):
                    lane.awaited.give_up(token)
                    verdict = Verdict(kind="unknown", provider=lane.name, code="overdue")
                    self._desk.ended(entry, verdict, others=True, reroute=False)

    def _empty(self, lane: Lane, now_s: float) -> None:
        """Its lane has closed: everyone who waited there goes elsewhere, or back."""
        for entry, read_at_s in lane.leave():
            self.place(entry, read_at_s, now_s)

    def clear(self) -> list[tuple[Entry, float]]:
        """Everything that waits, taken back: the worker drains."""
        return [waiting for lane in self._lanes.values() for waiting in lane.leave()]

    async def run(self) -> None:
        """Reserve slots for limited providers and look at the lanes, until canceled."""
        loop = asyncio.get_running_loop()
        while True:
            now_s = self._clock_s()
            again_at_s = now_s + _LOOK_S
            for lane in self._lanes.values():
                at_s = lane.again_at_s(now_s)
                if at_s is not None:
                    again_at_s = min(again_at_s, at_s)
            if again_at_s > now_s:
                timer = loop.call_later(again_at_s - now_s, self._wake.set)
                await self._wake.wait()
                timer.cancel()
            else:
                await asyncio.sleep(0)
            self._wake.clear()
            await self._reserve()
            now_s = self._clock_s()
            self.pump(now_s)
            if self._hedge:
                self._give_up_overdue(now_s)

    async def _reserve(self) -> None:
        """Ask for the slots that limited lanes want now, all in one call."""
        asked_at_s = self._clock_s()
        wishes = []
        for name, lane in self._lanes.items():
            segments = lane.wanted(asked_at_s)
            if segments and (allowance := lane.allowance) is not None:
                share = self._settings[name].express_share
                ask = SlotRequest(name, self._queue, segments, allowance.rate, share, allowance.together)
                wishes.append((allowance, ask))
        if not wishes:
            return
        try:
            granted = await self._pace.reserve([ask for _, ask in wishes])
        except Unavailable as e:
            self._log.warning("no slots can be reserved", reason=e.detail)
            await asyncio.sleep(_PAUSE_S)
            return
        answered_at_s = self._clock_s()
        for (allowance, _), slots in zip(wishes, granted, strict=True):
            allowance.granted(slots, asked_at_s, answered_at_s)


def _lane(settings: ProviderSettings, concurrency: int, lanes: int) -> Lane:
    # Where there are others, one may take no more than so much of what a worker can do.
    shared = lanes > 1
    return Lane(
        settings.name,
        Breaker(failures=settings.breaker_failures, pause_s=settings.breaker_pause_s),
        timeout_s=settings.timeout_s,
        in_flight_max=max(1, concurrency * 3 // 4) if shared else concurrency,
        waiting_max=max(1, concurrency // 2),
    )
