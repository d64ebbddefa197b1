"""Service: from an entry to a provider: route it, wait for room and for the provider's throughput, submit.

Every provider has a lane of its own (`engine.delivery.lane`). So a provider that is slow, hangs,
throttles or is paused does not hold up the messages of others. A message that a lane cannot take goes
to the message's next provider or, through the settler, back to Redis until later.

One loop acts on verdicts and on time: it takes the verdicts that providers have called back, submits
what may be sent, and deals with providers whose answers do not come (`engine.delivery.verdict_actions`). It
takes what came meanwhile as a whole. Another loop asks Redis for the slots of providers with a throughput
(`engine.delivery.slot_supply`); nothing else waits for it.

What happens at the border to providers (`engine.delivery.verdict_notes`):

    fault                                        what follows
    of ours, in a loop here                      `run` raises it: the process ends and is
                                                 replaced, others take over what was in hand
    a provider's `submit` raises                 the message's attempt ends `unknown`
    a provider calls back twice                  the first verdict counts
    a custom provider's verdict is none          the attempt ends `unknown` (`providers.custom`)
    a provider never calls back                  the attempt ends `unknown`, a while after its time-out

Nothing is kept here: what waits is in the worker's hand, which Redis remembers.

    killed       the other workers take it over
    frozen       what waited too long is not sent (`Settler.may_be_sent` says so when its turn comes),
                 and slots that were reserved before are void by then
    Redis away   no slots are granted: providers with a throughput send nothing, the others go on

Times are monotonic seconds, of a clock finer than the loop's, which uvloop cuts to milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random

from structlog.typing import FilteringBoundLogger

from engine.delivery._many import messages_of
from engine.delivery.alarm import Alarm
from engine.delivery.lane import Lane
from engine.delivery.lanes import Lanes
from engine.delivery.pauses import Pauses
from engine.delivery.provider_choice import ProviderChoice
from engine.delivery.settler import Settler
from engine.delivery.slot_supply import SlotSupply
from engine.delivery.unsent import Unsent
from engine.delivery.verdict_actions import VerdictActions
from engine.delivery.verdict_notes import LaneVerdicts, VerdictNotes, submitting
from engine.delivery.ways import Ways
from engine.providers.ports import Provider
from engine.providers.settings import ProviderSettings
from engine.records import Entry, Queue
from engine.routing.ports import SlotStore
from engine.routing.records import RoutingPlan
from engine.routing.routes import Candidates
from engine.stream_id import StreamId

# How long a message is put off whose route names only providers that this process does not know, seconds.
_ELSEWHERE_S = 5.0
# Lanes whose provider is closed or has stalled are looked at this often, seconds.
_LOOK_S = 0.1


class Dispatcher:
    """Gives the messages of one queue in one worker to the providers."""

    def __init__(
        self,
        queue: Queue,
        providers: Sequence[Provider],
        settings: Sequence[ProviderSettings],
        slots: SlotStore,
        settler: Settler,
        *,
        concurrency: int,
        rng: Random,
        log: FilteringBoundLogger,
        clock_s: Callable[[], float],
        hedge: bool = False,
        weight_of: Callable[[int], float] = lambda organisation_id: 1.0,
        puts_off: Callable[[], bool] = lambda: True,
    ) -> None:
        """`providers`: in order of preference, started and stopped by the caller; `settings`: of each, in
        the same order. `settler` takes what becomes of entries. `concurrency` bounds the sends in
        flight, without those that were in flight when their provider stalled. `hedge`: a message
        that has waited for an answer longer than its provider ever takes goes to another provider at
        once, before the time-out, as long as one more send of unknown outcome does not end it.
        `puts_off`: whether messages may be put off in ways; `weight_of`: where they may not, the weight of an
        organisation among those whose messages are put off.
        """
        self._pauses = Pauses()
        self._queue = queue
        self.lanes = Lanes(settings, concurrency, stocks=queue == "express")
        self._settler = settler
        self._clock_s = clock_s
        names = [provider.name for provider in providers]
        self._choice = ProviderChoice(queue, names, self.lanes.by_name, rng)
        shares = {p.name: p.express_share for p in settings}
        # What is put off, and how much of that is recalled.
        self.ways = Ways(queue, self.lanes, lambda: settler.putting_off)
        # What takes messages that are not sent now.
        self.unsent = Unsent(
            self.lanes, self.ways, self._choice, settler, puts_off=puts_off, weight_of=weight_of
        )
        self._slots = SlotSupply(queue, self.lanes, shares, slots, self.pump, log=log, clock_s=clock_s)
        self._turns = Alarm(clock_s)
        # The verdicts that providers have called back and the loop has not acted on; by provider what gives
        # it messages, and what takes its verdicts.
        self._notes = VerdictNotes(self._turns.ring)
        self._providers = {
            p.name: (submitting(p, log), LaneVerdicts(self.lanes.by_name[p.name], self._notes))
            for p in providers
        }
        self._verdicts = VerdictActions(self._notes, self.lanes, self._choice, settler, log, hedge=hedge)
        self.use(RoutingPlan(version=0))

    def use(self, plan: RoutingPlan) -> None:
        """Route by `plan` from now on. What waits for a provider that is paused now leaves its lane. When the
        queue or the only provider is paused, what waits here goes back, as in `pause`, and nothing more is to
        be read."""
        queue_paused = self._queue in plan.paused_queues
        self._choice.use(plan)
        self.ways.use(plan)
        self.lanes.use(plan, queue_paused=queue_paused)
        self._heed(self._pauses.of_queue(queue_paused))
        if queue_paused or self._only_one_is_paused():
            self.unsent.all_back = True
        self._turns.ring()

    def allow(self, concurrency: int) -> None:
        """Let so many sends be in flight from now on; see `Lanes.allow`."""
        self.lanes.allow(concurrency)
        self._turns.ring()

    def pause(self, organisations: Mapping[int, StreamId]) -> None:
        """Let these organisations be paused, and no others.

        With each stands the last id of the ready stream then.

        What waits here of them goes back to their backlogs; what is being sent gets its verdict.
        """
        self._heed(self._pauses.of_organisations(organisations))

    def _heed(self, pauses: Pauses) -> None:
        self._pauses = pauses
        if self._pauses:
            self.unsent.leave(self._pauses.hold)

    def take(self, entries: Sequence[Entry], now_s: float) -> None:
        """Give entries that were read at `now_s` to the providers' lanes, or back to the settler, and submit
        what may be sent."""
        if self._pauses:
            self._pauses = self._pauses.after(entries, self._settler.now_us())
            self.unsent.give_back(filter(self._pauses.hold, entries))
            entries = [entry for entry in entries if not self._pauses.hold(entry)]
        for entry in self._choice.give(entries, now_s, now_s):
            self._place(entry, now_s, now_s)
        self.pump(now_s)

    def _place(self, entry: Entry, read_at_s: float, now_s: float, *, left: bool = False) -> None:
        """Give `entry` to a provider's lane, or back to the settler. `left`: it waited in a lane before."""
        message = entry.message
        candidates = self._choice.candidates(message)
        if not candidates.routed:
            self._settler.unroutable(entry)
            return
        if not candidates.providers:
            # Another node's configuration has the providers of this route; not ours.
            self._settler.put_off(entry, _ELSEWHERE_S)
            return
        lane = self._recalled(entry, candidates, now_s) or self._choice.of(candidates, message, now_s)
        if lane is None and len(self.lanes) == 1:
            # Nothing is sent until the only provider has opened: all keeps its place in the backlog.
            self.unsent.give_back([entry])
            self.unsent.all_back = True
        elif lane is None:
            # All its providers are closed: back to Redis until one of them has opened.
            lanes = [self.lanes.by_name[name] for name in candidates.providers]
            first = min(lanes, key=lambda lane: lane.breaker.closed_for(now_s))
            self.unsent.put_off(entry, first, candidates, now_s, front=left)
        elif len(self.lanes) == 1 or self.ways.takes(lane, entry, now_s):
            lane.add([entry], read_at_s)
        else:
            self.unsent.put_off(entry, lane, candidates, now_s, front=left)

    def _only_one_is_paused(self) -> bool:
        return len(self.lanes) == 1 and all(lane.paused for lane in self.lanes)

    def _recalled(self, entry: Entry, candidates: Candidates, now_s: float) -> Lane | None:
        """The lane for which a message was recalled, if it may go there; it is not drawn for again."""
        if not entry.way:
            return None
        by_turn = self.ways.by_turn(entry.way)
        if not by_turn:
            self.ways.moves.came(entry)
        if (lane := self.ways.lane(entry.way, now_s)) is None:
            return None
        if by_turn:
            self.ways.came(lane, entry.message)
        return lane if lane.name in candidates.open and lane.name not in entry.message.tried else None

    def pump(self, now_s: float) -> None:
        """Submit what may be sent."""
        self._submit_waiting(now_s)
        self._turns.ring(self._next_turn_s(now_s))
        self._slots.look(now_s)

    def _submit_waiting(self, now_s: float) -> None:
        for lane in self.lanes:
            lane.look(now_s)
            if lane.waiting and lane.shut(now_s):
                # All messages that wait there go to other providers, or back to Redis.
                for entry, read_at_s in lane.leave():
                    self._place(entry, read_at_s, now_s, left=True)
        places, left = self.lanes.places, self.lanes.shared_left()
        for lane in self.lanes:
            while lane.waiting and (taken := lane.next(places.free(lane.awaited.expected, left), now_s)):
                if entries := self._settler.to_send(taken):
                    left -= places.shared_taken(lane.awaited.expected, len(entries))
                    submit, verdicts = self._providers[lane.name]
                    submit(messages_of(entries), lane.began(entries, now_s), verdicts)

    async def run(self) -> None:
        """Act on verdicts, on time and on slots, until canceled. Raises a fault of ours."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._act(), name="verdicts")
            group.create_task(self._slots.run(), name="slots")

    async def _act(self) -> None:
        while True:
            if not self._notes:
                await self._turns.sleep_until(self._next_turn_s(self._clock_s()))
            now_s = self._clock_s()
            self._verdicts.act(now_s)
            self._submit_waiting(now_s)
            if now_s >= self._verdicts.looked_at_s + _LOOK_S:
                self._verdicts.look_after(now_s)
            self._slots.look(now_s)

    def _next_turn_s(self, now_s: float) -> float:
        """When the next turn of the loop is due although no provider calls back."""
        at_s = self.lanes.again_at_s(now_s)
        return min(at_s, self._verdicts.looked_at_s + _LOOK_S) if self.lanes.busy() else at_s
