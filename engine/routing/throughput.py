"""Rule: how fast one worker may send through one provider, out of slots handed out by Redis.

A provider's throughput is a timeline of slots, one segment each, `Timing.interval_s` apart
(see `throughput.lua`). A worker asks for slots a little ahead, at most about half a
horizon for normal and a horizon for express, and sends each message in its own slots.

What holds it to the limit. A slot's true time S lies between asked + delay and answered +
delay: Redis looked at its clock somewhere between. A slot is used no sooner than answered +
delay and not after asked + delay + tolerance, so always within [S, S + tolerance], whatever
the clocks of the machines say. What is sent within any second then has its slots within
1 s + tolerance, and those are few enough:

    up to 200 a second   at most max(floor(1.05 rate), ceil(rate)) segments, in messages of
                         whatever size (a message larger than that goes alone)
    faster               at most 1.05 rate segments, in messages of up to 10 segments

The timeline runs at 97.5 % of the rate. For whole rates below 20, where not one segment
more is within 5 %, this is what pays for the tolerance: rate slots lie within no less than
rate * interval = 1.0256 s.

Killed: what it had reserved is lost to all, up to a horizon's worth (or one message).
Frozen: on waking its slots are older than the tolerance, so void; an answer that came
meanwhile took longer than the tolerance, so all of it is void too.
Never answered: after 50 ms (`UNANSWERED_S`) it asks again; what was reserved unheard is lost.
Answers that take longer than the tolerance (25 to 50 ms) give nothing: Redis must be near.

A provider that says "throttled" all the same allows less than it was configured with, or
others use the same account: `slow_down` halves this worker's own use, which then grows back
by a tenth of what it was each second (additive increase, multiplicative decrease: Chiu and
Jain, 1989). As each worker that hears it does so, the sum falls.

Times are seconds of `time.monotonic()`, read at that moment. uvloop's `loop.time()` is cut to
whole milliseconds: by so much slots would be used too early, or too late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from engine.routing.ports import Slots
from engine.routing.slots import BundledSlots, FlowingSlots

# The timeline runs so much slower than the rate.
_SLACK = 0.025
_TOLERANCE_MAX_S = 0.05
_EXCESS = 1.05
# Up to this rate what is handed out is counted one by one, and bundles are kept apart.
COUNTED_RATE_MAX = 200.0
# Largest message that a faster timeline makes allowance for, segments.
_WIDEST = 10

# Slots are handed out at most so far ahead, to normal half as far. So much express waits behind a
# backlog of normal: 39 ms in the middle, where it was 64 with 0.1. With less, workers whose loop
# is 5 ms late do not use the rate any more.
HORIZON_S = 0.06
# Waiting messages that are looked at to ask for slots.
LOOK_AHEAD = 16
# Asks again when its last slot is nearer than this, or it holds less than the next message needs.
_LEAD_S = 0.025
# Asks no more often than this.
_GAP_S = 0.005
# An answer that has not come by then never comes.
UNANSWERED_S = 0.05
# Waits so much longer with asking again, the larger its part of the rate has been, and half of
# that after each time that there was none: who had least asks first.
_COURTESY_S = 0.01
# Asks for whole messages of about so much of the provider's time, as far as it knows their sizes.
_AT_ONCE_S = 0.015
# Wakes no more often than this for slots that come close together.
_TICK_S = 0.001

# One halving for all the answers that were under way together.
_SLOWING_S = 1.0
_SLOWEST = 1 / 16
_RECOVERY_PER_S = 0.1
# A worker that sends little is slowed down to no less than half of this part of the rate.
_SMALL_PART = 0.05
# As far as its own slower timeline reaches ahead.
_OWN_AHEAD_S = 0.05


class Timing(NamedTuple):
    """What follows from a rate; the same in every worker."""

    # From slot to slot.
    interval_s: float
    # So long after its time a slot may be used.
    tolerance_s: float
    # Segments within any second and tolerance; 0: not counted, the interval sees to it.
    most: int


@lru_cache(maxsize=1024)
def timing(rate: float) -> Timing:
    """For `rate` segments a second, greater than 0."""
    interval_s = 1 / (rate * (1 - _SLACK))
    if rate <= COUNTED_RATE_MAX:
        # The addend: 1.05 * 20 is a little less than 21 in binary.
        most = max(math.floor(_EXCESS * rate + 1e-9), math.ceil(rate))
        return Timing(interval_s, min(_TOLERANCE_MAX_S, most * interval_s - 1), most)
    # A span of n intervals holds n + 1 slots at most, and messages at its end stick out of it.
    within = _EXCESS * rate - (_WIDEST - 1) - 1
    return Timing(interval_s, min(_TOLERANCE_MAX_S, within * interval_s - 1), 0)


class _Slowness:
    """How much less than it did this worker sends, since its provider said "throttled"."""

    def __init__(self) -> None:
        self._part = 1.0
        self._since_s = -math.inf
        self._rate_before = 0.0
        self._tail_s = -math.inf

    def cap(self, now_s: float) -> float | None:
        """Segments a second; None: no cap of its own."""
        part = self._part + _RECOVERY_PER_S * (now_s - self._since_s)
        return None if part >= 1 else part * self._rate_before

    def heard(self, rate: float, now_s: float) -> None:
        """Throttled, while it sent `rate` segments a second."""
        if now_s - self._since_s < _SLOWING_S:
            return
        if self.cap(now_s) is None:
            self._part, self._rate_before = 1.0, rate
        else:
            self._part += _RECOVERY_PER_S * (now_s - self._since_s)
        self._part = max(_SLOWEST, self._part / 2)
        self._since_s = now_s

    def used(self, segments: int, now_s: float) -> None:
        if cap := self.cap(now_s):
            self._tail_s = max(self._tail_s, now_s) + segments / cap

    def opens_at_s(self) -> float:
        """When it may ask again."""
        return self._tail_s - _OWN_AHEAD_S

    def room(self, cap: float, now_s: float) -> int:
        return int((now_s + _OWN_AHEAD_S - max(self._tail_s, now_s)) * cap)


class _Attained:
    """Segments a second that a worker has been getting when it wanted more, by windows of time."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.value = rate
        # Wanted more than it got in this window.
        self.short = False
        self.sent = 0
        self._sent_rate = 0.0
        self._since_s = -math.inf

    def limit(self, rate: float) -> None:
        self.rate = rate
        self.value = min(self.value, rate)

    def close(self, now_s: float) -> None:
        """End the window, if it is long enough."""
        elapsed_s = now_s - self._since_s
        if elapsed_s < self._window_s:
            return
        self._sent_rate = self.sent / elapsed_s
        # After a pause it says nothing that there were too few before it.
        if self.short and elapsed_s < 2 * self._window_s:
            self.value += (self._sent_rate - self.value) / 2
        else:
            # Nothing says it could not have had more: it doubles with each window.
            grown = self.value * 2.0 ** min(60.0, elapsed_s / self._window_s)
            self.value = max(self._sent_rate, grown)
        self.value = min(self.rate, max(self.value, self.rate / 1000))
        self.short, self.sent, self._since_s = False, 0, now_s

    def sending(self, now_s: float) -> float:
        """Segments a second, whether it wanted more or not."""
        elapsed_s = now_s - self._since_s
        return max(self._sent_rate, self.sent / elapsed_s if elapsed_s > self._window_s / 4 else 0.0)

    @property
    def _window_s(self) -> float:
        return max(1.0, 4 / self.rate)


class Allowance:
    """One provider in one worker and queue."""

    def __init__(self, rate: float) -> None:
        """`rate`: segments a second of all workers together, greater than 0."""
        self.rate = rate
        self._timing = timing(rate)
        self._slots = self._no_slots()
        # Segments of the message that waits first, as far as `take` has seen it.
        self._next = 1
        self._asked = 0
        self._together = 1
        # Times in a row that there was no slot.
        self._refused = 0
        self._not_before_s = -math.inf
        self._wants_more = False
        self._slowness = _Slowness()
        self._attained = _Attained(rate)
        self._lost_before = 0

    @property
    def held(self) -> int:
        """Slots that are reserved and not used, void ones perhaps among them."""
        return self._slots.held

    @property
    def lost(self) -> int:
        """Slots that became void unused, ever."""
        return self._lost_before + self._slots.lost

    @property
    def together(self) -> int:
        """In bundles of how many segments to ask for what `wanted` has just said."""
        return self._together

    def change_rate(self, rate: float) -> None:
        """The limit has changed; what is reserved already stays, for a horizon at most."""
        self.rate = rate
        was, self._timing = self._timing, timing(rate)
        if (was.most > 0) != (self._timing.most > 0):
            self._lost_before += self._slots.lost + self._slots.held
            self._slots = self._no_slots()
        self._attained.limit(rate)
        self._not_before_s = -math.inf

    def wanted(self, waiting_segments: int, now_s: float, sizes: Sequence[int] = ()) -> int:
        """Segments to ask Redis for now, in bundles of `together`; 0: do not ask.

        `waiting_segments`: of all messages that could go if only there were slots; `sizes`:
        segments of the first of them, in order, `LOOK_AHEAD` at most. Without these, all are
        taken to be as large as the one that `take` refused last. The answer goes to `granted`;
        asked again before it came: 0, until it can be taken for lost.
        """
        self._slots.expire(now_s)
        missing, bundle = 0, 1
        if waiting_segments > 0:
            alike = (self._next,) * min(LOOK_AHEAD, -(-waiting_segments // self._next))
            at_once = int(self.rate * _AT_ONCE_S)
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
        self._not_before_s = now_s + UNANSWERED_S
        return segments

    def granted(self, slots: Slots, asked_at_s: float, answered_at_s: float) -> None:
        """Redis's answer; the times are from before the request was written and after the
        answer was read."""
        self._attained.close(answered_at_s)
        if slots.segments < self._asked:
            self._attained.short = True
        first_s = answered_at_s + slots.delay_us / 1e6
        self._not_before_s = answered_at_s + _GAP_S
        self._refused = 0 if slots.segments else self._refused + 1
        if not slots.segments:
            self._not_before_s = max(self._not_before_s, first_s + self._courtesy_s())
            return
        self._slowness.used(slots.segments, answered_at_s)
        usable_s = self._timing.tolerance_s - (answered_at_s - asked_at_s)
        if usable_s > 0:
            self._slots.add(first_s, slots.interval_us / 1e6, slots.segments, slots.together, usable_s)
        else:
            self._lost_before += slots.segments

    def take(self, segments: int, now_s: float) -> bool:
        """Whether a message of so many segments goes now, at `now_s`; if so its slots are used."""
        if self._slots.take(segments, now_s):
            self._attained.sent += segments
            self._next = 1
            return True
        self._next = segments
        return False

    def goes_at_s(self, now_s: float) -> float | None:
        """When to try `take` again for the message that it refused last; None: not before there
        are more slots."""
        self._slots.expire(now_s)
        at_s = self._slots.goes_at_s(self._next)
        if at_s is None or at_s <= now_s:
            return at_s
        return max(at_s, now_s + _TICK_S)

    def asks_at_s(self, now_s: float, *, changed: bool = False) -> float:
        """When to try `wanted` again; infinity: not before something changes. `changed`: what
        waits has changed since, or what can be begun."""
        self._wants_more = self._wants_more or changed
        return max(now_s, self._asks_at_s()) if self._wants_more else math.inf

    def rate_seen(self, now_s: float) -> float:
        """Segments a second that this worker can count on: what it has been getting lately while
        it wanted more, towards the whole rate while it did not."""
        self._attained.close(now_s)
        return self._attained.value

    def slow_down(self, now_s: float) -> None:
        """The provider said "throttled": send half as much for a while."""
        sending = max(self._attained.sending(now_s), _SMALL_PART * self.rate)
        self._slowness.heard(sending, now_s)

    # -- within

    def _asks_at_s(self) -> float:
        if self._slots.goes_at_s(self._next) is None:
            return self._not_before_s
        return max(self._not_before_s, self._slots.end_s - _LEAD_S + self._courtesy_s())

    def _courtesy_s(self) -> float:
        return _COURTESY_S * self._attained.value / self.rate / (1 << min(self._refused, 10))

    def _no_slots(self) -> FlowingSlots | BundledSlots:
        return BundledSlots() if self._timing.most else FlowingSlots()
