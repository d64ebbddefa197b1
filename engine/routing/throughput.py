"""Rule: how fast one worker may send through one provider, in slots that Redis hands out.

A provider's throughput is a timeline of slots, one segment each, `Timing.interval_s` apart
(see `stores/redis/functions/throughput.lua`). A worker asks for slots a little ahead: at most about
half a horizon for normal, and a horizon for express. It sends each message in the message's own slots.

What holds the worker to the limit. The true time S of a slot is known from two sides, because an answer
says when Redis looked at the request (`routing/slot_clock.py`). A slot is used no sooner than S can be at the
latest, and no later than S can be at the earliest, and the tolerance. So it is always used within
[S, S + tolerance], whatever the clocks of the machines show. What is sent within any second then
has its slots within 1 s + tolerance, and those are few enough:

    up to 200 a second   at most max(floor(1.05 rate), ceil(rate)) segments, in messages of
                         whatever size (a message larger than that goes alone)
    faster               at most 1.05 rate segments, in messages of up to 10 segments

That is when slots are used as late as they may be. A worker by itself never sends more than the limit in a
second, also when it uses slots late (`engine/routing/pace.py`).

The timeline runs at 98.5 % of the rate. For whole rates below 20, where not even one segment more is within
5 %, it is 97.5 %, and from 200 to about 350 between the two: that makes room for the tolerance.

A worker whose Redis is far does not know S better than to the time of its quickest round trip. It asks
with so much more of a tolerance, and its slots are so much further apart. So are those of all others
meanwhile, as Redis remembers (`rate:{provider}:wide`). It also asks for slots further ahead.

    killed             the slots it had reserved are lost to all workers: up to a horizon's worth, or
                       one message
    frozen             when it wakes, its slots are older than the tolerance, so they are void; those of
                       an answer that came meanwhile too, because it knows when Redis looked
    never answered     it asks again after 0.5 s (`UNANSWERED_S`); what Redis reserved is lost
    answered late      the slots that are not over yet are used. Those whose time no worker asked for
                       meanwhile are lost

A provider may say "throttled" all the same: it allows less than is configured, or others use the
same account. `slow_down` then halves this worker's own use, which grows back by a tenth of what
it was each second (additive increase, multiplicative decrease: Chiu and Jain, 1989). Each worker that
is throttled does so, and the sum falls.

Times are seconds of `time.monotonic()`, read at that moment. uvloop cuts `loop.time()` to whole
milliseconds, so with that clock slots would be used up to a millisecond too early or too late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.records import Queue
from engine.routing.lateness import Lateness
from engine.routing.pace import Attained, LastSecond, Slowness
from engine.routing.ports import SlotRequest, Slots
from engine.routing.slot_clock import LOOK_AHEAD, SlotClock
from engine.routing.slot_stock import SlotStock
from engine.routing.slots import BundledSlots, FlowingSlots
from engine.routing.timing import timing

# A worker asks again when its last slot is nearer than this, seconds, or when it holds fewer slots
# than the next message needs.
_LEAD_S = 0.025
# It asks no more often than this, seconds.
_GAP_S = 0.005
# An answer that has not come after so long is taken for lost, seconds.
UNANSWERED_S = 0.5
# A worker that has had the whole rate waits so much longer before it asks again, seconds; one that
# has had a part of the rate waits that part of it. The wait halves each time there was no slot. So
# the worker that has had least asks first.
_COURTESY_S = 0.01
# It asks for whole messages of about so much of the provider's time, seconds, as far as it knows the
# sizes of messages.
_AT_ONCE_S = 0.015
# It wakes no more often than this for slots that come close together, seconds.
_TICK_S = 0.001
# A worker that sends less than this part of the rate is slowed down as if it sent so much.
_SMALL_PART = 0.05


class Allowance:
    """The slots of one worker of one queue at one provider: what it holds, and when it asks for more.

    Ask Redis for what `wanted` says, give the answer to `granted`, and call `take` before each send.
    """

    def __init__(self, rate: float, *, stocks: bool = False) -> None:
        """`rate`: segments a second of all workers together, greater than 0. `stocks`: on a fast timeline it
        keeps slots for what has not come yet (`engine.routing.slot_stock`)."""
        self.rate = rate
        self.stock = SlotStock() if stocks else None
        self._timing = timing(rate)
        self._slots = self._no_slots()
        # Segments of the message that waits first: of the one that `take` refused last, else 1.
        self._next = 1
        # What Redis was asked for last: segments, and the segments of a bundle.
        self._asked = 0
        self._together = 1
        # The clock of Redis, as far as this worker knows it.
        self.clock = SlotClock()
        # What Redis is to be told of that with what `wanted` has just said, seconds; and by which timeline
        # it was asked last.
        self.uncertain_s = 0.0
        self._asked_by = self._timing
        self._last_second = LastSecond()
        # How many answers in a row had no slot.
        self._refused = 0
        # Redis is not asked again before this time.
        self._not_before_s = -math.inf
        # The slots to keep beyond those for what waited when `wanted` was last called.
        self._stocks = 0
        # Whether slots were missing when `wanted` was last called.
        self._wants_more = False
        self._slowness = Slowness()
        self._lateness = Lateness()
        self._attained = Attained(rate)
        # Segments lost, other than those that `_slots` has counted.
        self._lost_before = 0

    @property
    def held(self) -> int:
        """Segments whose slots are reserved and not used; some of them may be void."""
        return self._slots.held

    @property
    def lost(self) -> int:
        """Segments whose slots became void unused, ever."""
        return self._lost_before + self._slots.lost

    @property
    def together(self) -> int:
        """The segments of a bundle in what `wanted` has just said to ask for."""
        return self._together

    def change_rate(self, rate: float) -> None:
        """Go by another limit, segments a second. Slots that are reserved stay, for a horizon at most; they
        are lost when one of the timelines counts segments and the other does not."""
        self.rate = rate
        was, self._timing = self._timing, timing(rate)
        if (was.most > 0) != (self._timing.most > 0):
            self._lost_before += self._slots.lost + self._slots.held
            self._slots = self._no_slots()
        self._attained.limit(rate)
        self._not_before_s = -math.inf

    def wanted(self, waiting_segments: int, now_s: float, sizes: Sequence[int] = ()) -> int:
        """Segments to ask Redis for now, in bundles of `together`; 0: do not ask.

        `waiting_segments`: of all messages that could be sent if there were slots. `sizes`: the
        segments of the first of them, in order, `SlotClock.look_ahead` at most; without `sizes`, all
        messages are taken to be as large as the one that `take` refused last. Redis's answer
        goes to `granted`. Called again before the answer came, it returns 0 until the
        answer can be taken for lost.
        """
        self._slots.expire(now_s)
        missing, bundle = 0, 1
        self._stocks = 0 if self.stock is None or self._timing.most else self.stock.wanted(now_s)
        waiting_segments += self._stocks
        if waiting_segments > 0:
            alike = (self._next,) * min(LOOK_AHEAD, -(-waiting_segments // self._next))
            at_once = int(self.rate * (_AT_ONCE_S + self.clock.further_s))
            missing, bundle = self._slots.missing(waiting_segments, sizes or alike, at_once)
        self._wants_more = missing > 0
        if missing <= 0 or now_s < self._asks_at_s():
            return 0
        segments = max(missing, bundle)
        if (cap := self._slowness.cap(now_s)) is not None:
            self._attained.short = True
            if now_s < self._slowness.opens_at_s():
                self._not_before_s = self._slowness.opens_at_s()
                return 0
            segments = min(segments, max(bundle, self._slowness.room(cap, now_s)))
        self._asked, self._together = segments, bundle
        if self.stock is None:
            # What is kept for what may come is lost on purpose.
            self._lateness.look(self.lost, self.rate, now_s)
            self.clock.late_s = self._lateness.allowed_s
        self.uncertain_s = self.clock.beyond_s(self._timing.tolerance_s)
        self._asked_by = timing(self.rate, self.uncertain_s)
        self._not_before_s = now_s + UNANSWERED_S
        return segments

    def granted(self, slots: Slots, asked_at_s: float, answered_at_s: float) -> None:
        """Take in Redis's answer to what `wanted` said.

        `asked_at_s`: a time before the request was written. `answered_at_s`: a time after the answer
        was read.
        """
        self._attained.close(answered_at_s)
        if slots.segments < self._asked:
            self._attained.short = True
        earliest_s, latest_s = asked_at_s, answered_at_s
        if slots.now_us:
            self.clock.note(asked_at_s, answered_at_s, slots.now_us / 1e6)
            earliest_s, latest_s = self.clock.when_s(slots.now_us / 1e6)
        first_s = latest_s + slots.delay_us / 1e6
        if self.stock is not None:
            self.stock.ahead_s = first_s - answered_at_s
        self._not_before_s = answered_at_s + _GAP_S
        self._refused = 0 if slots.segments else self._refused + 1
        if not slots.segments:
            self._not_before_s = max(self._not_before_s, first_s + self._courtesy_s())
            return
        self._slowness.used(slots.segments, answered_at_s)
        usable_s = self._asked_by.tolerance_s - (latest_s - earliest_s)
        if usable_s > 0:
            interval_s, clock_s = slots.interval_us / 1e6, latest_s - slots.now_us / 1e6
            self._slots.add(first_s, interval_s, slots.segments, slots.together, usable_s, clock_s)
        else:
            self._lost_before += slots.segments

    def take(self, segments: int, now_s: float) -> bool:
        """Use the slots of a message of so many segments; False: it cannot be sent at `now_s`."""
        self._next = segments
        at_s = self._slots.goes_at_s(segments)
        if at_s is None or at_s > now_s:
            return False
        self._slots.expire(now_s)
        at_s = self._slots.goes_at_s(segments)
        if at_s is None:
            return False
        first_s = self._slots.first_s(segments, now_s)
        if self._last_second.free_at_s(first_s, self._timing.spread_s, now_s) > now_s:
            return False
        if not self._slots.take(segments, now_s):
            return False
        self._last_second.add(now_s, first_s)
        self._lateness.used(segments, now_s - at_s)
        self._attained.sent += segments
        if self.stock is not None:
            self.stock.used(segments, now_s)
        self._next = 1
        return True

    def goes_at_s(self, now_s: float) -> float | None:
        """When to call `take` again for the message that it refused last; None: not before more slots
        have come."""
        self._slots.expire(now_s)
        at_s = self._slots.goes_at_s(self._next)
        if at_s is not None and at_s <= now_s:
            first_s = self._slots.first_s(self._next, now_s)
            at_s = self._last_second.free_at_s(first_s, self._timing.spread_s, now_s)
        if at_s is None or at_s <= now_s:
            return at_s
        return max(at_s, now_s + _TICK_S)

    def asks_at_s(self, now_s: float, *, changed: bool = False) -> float:
        """When to call `wanted` again; infinity: not before something changes.

        `changed`: since the last call it has changed what waits, or how much can be begun.
        """
        self._wants_more = self._wants_more or changed
        return max(now_s, self._asks_at_s()) if self._wants_more else math.inf

    def rate_seen(self, now_s: float, *, starved: bool = False) -> float:
        """Segments a second that this worker can count on.

        That is what it got lately while it wanted more. While it does not want more, the figure grows
        towards the whole rate. `starved`: nothing waits now although there is more to send, so what it sends
        now says nothing of what it can.
        """
        self._attained.starved = self._attained.starved or starved
        self._attained.close(now_s)
        return self._attained.value

    def slow_down(self, now_s: float) -> None:
        """Send half as much for a while, because the provider said "throttled"."""
        sending = max(self._attained.sending(now_s), _SMALL_PART * self.rate)
        self._slowness.throttled(sending, now_s)

    def _asks_at_s(self) -> float:
        """When it may ask again, if it wants to."""
        if self._stocks or self._slots.goes_at_s(self._next) is None:
            return self._not_before_s
        lead_s = _LEAD_S + self.clock.further_s
        return max(self._not_before_s, self._slots.end_s - lead_s + self._courtesy_s())

    def _courtesy_s(self) -> float:
        """How long it lets workers that have had less ask first, seconds."""
        return _COURTESY_S * self._attained.value / self.rate / (1 << min(self._refused, 10))

    def _no_slots(self) -> FlowingSlots | BundledSlots:
        return BundledSlots() if self._timing.most else FlowingSlots()


def request(
    allowance: Allowance, provider: str, queue: Queue, segments: int, express_share: float
) -> SlotRequest:
    """The request for the segments that `allowance.wanted` has just said to ask for."""
    return SlotRequest(
        provider,
        queue,
        segments,
        allowance.rate,
        express_share,
        allowance.together,
        allowance.uncertain_s,
        allowance.clock.horizon_s,
    )
