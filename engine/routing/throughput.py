"""Rule: how fast one worker may send through one provider, in slots that Redis hands out.

A provider's throughput is a timeline of slots, one segment each, `Timing.interval_s` apart
(see `stores/redis/functions/throughput.lua`). A worker asks for slots a little ahead: at most about
half a horizon for normal, and a horizon for express. It sends each message in the message's own slots.

What holds the worker to the limit. The true time S of a slot lies between asked + delay and
answered + delay, because Redis looked at its clock somewhere between. A slot is used no sooner
than answered + delay and not after asked + delay + tolerance. So it is always used within
[S, S + tolerance], whatever the clocks of the machines show. What is sent within any second then
has its slots within 1 s + tolerance, and those are few enough:

    up to 200 a second   at most max(floor(1.05 rate), ceil(rate)) segments, in messages of
                         whatever size (a message larger than that goes alone)
    faster               at most 1.05 rate segments, in messages of up to 10 segments

The timeline runs at 97.5 % of the rate. For whole rates below 20, where not even one segment
more is within 5 %, this makes room for the tolerance: `rate` slots take no less than
rate * interval = 1.0256 s.

    killed             the slots it had reserved are lost to all workers: up to a horizon's worth, or
                       one message
    frozen             when it wakes, its slots are older than the tolerance, so they are void. An
                       answer that came meanwhile took longer than the tolerance, so all of it
                       is void too
    never answered     it asks again after 50 ms (`UNANSWERED_S`); what Redis reserved is lost
    answered late      an answer that takes longer than the tolerance (25 to 50 ms) gives nothing, so
                       Redis must be near

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
from functools import lru_cache
from typing import NamedTuple

from engine.routing.ports import Slots
from engine.routing.slots import BundledSlots, FlowingSlots

# By this part the timeline is slower than the rate.
_SLACK = 0.025
# A slot may be used for no longer than this after its time, seconds.
_TOLERANCE_MAX_S = 0.05
# Within any second no more than this times the rate is sent.
_EXCESS = 1.05
# Up to this rate, segments a second, Redis counts every segment, and slots come in bundles.
COUNTED_RATE_MAX = 200.0
# Largest message that a faster timeline makes allowance for, segments.
_WIDEST = 10

# Redis hands out slots at most so far ahead, seconds; to normal half as far. Express waits about as
# long behind a backlog of normal: 39 ms in the median, where it was 64 ms with a horizon of 0.1 s.
# With a shorter horizon, workers whose loop is 5 ms late cannot use the whole rate.
HORIZON_S = 0.06
# So many of the messages that wait are looked at to ask for slots.
LOOK_AHEAD = 16
# A worker asks again when its last slot is nearer than this, seconds, or when it holds fewer slots
# than the next message needs.
_LEAD_S = 0.025
# It asks no more often than this, seconds.
_GAP_S = 0.005
# An answer that has not come after so long is taken for lost, seconds.
UNANSWERED_S = 0.05
# A worker that has had the whole rate waits so much longer before it asks again, seconds; one that
# has had a part of the rate waits that part of it. The wait halves each time there was no slot. So
# the worker that has had least asks first.
_COURTESY_S = 0.01
# It asks for whole messages of about so much of the provider's time, seconds, as far as it knows the
# sizes of messages.
_AT_ONCE_S = 0.015
# It wakes no more often than this for slots that come close together, seconds.
_TICK_S = 0.001

# "Throttled" halves once in so long, seconds: the answers of messages that were under way together
# count as one.
_SLOWING_S = 1.0
# No further than to this part of what was sent, which then grows by so much of it each second.
_SLOWEST = 1 / 16
_RECOVERY_PER_S = 0.1
# A worker that sends less than this part of the rate is slowed down as if it sent so much.
_SMALL_PART = 0.05
# So far ahead, seconds, a worker that was slowed down asks for slots by its own timeline.
_OWN_AHEAD_S = 0.05


class Timing(NamedTuple):
    """The timeline of a rate; the same in every worker."""

    # From slot to slot.
    interval_s: float
    # How long after its time a slot may be used.
    tolerance_s: float
    # Most segments within a second and the tolerance; 0: Redis does not count them, because the
    # interval alone keeps to the limit.
    most: int


@lru_cache(maxsize=1024)
def timing(rate: float) -> Timing:
    """The timeline for `rate` segments a second, greater than 0."""
    interval_s = 1 / (rate * (1 - _SLACK))
    if rate <= COUNTED_RATE_MAX:
        # The addend: 1.05 * 20 is a little less than 21 in binary.
        most = max(math.floor(_EXCESS * rate + 1e-9), math.ceil(rate))
        return Timing(interval_s, min(_TOLERANCE_MAX_S, most * interval_s - 1), most)
    # A span of n intervals holds n + 1 slots at most, and the last message in it may reach beyond it.
    within = _EXCESS * rate - (_WIDEST - 1) - 1
    return Timing(interval_s, min(_TOLERANCE_MAX_S, within * interval_s - 1), 0)


class _Slowness:
    """The cap that a worker sets for itself after its provider said "throttled".

    The cap is a part of what the worker sent before. It grows until that part is the whole.
    """

    def __init__(self) -> None:
        # The part of `_rate_before`, as it was at `_since_s`; and what was sent before, segments a second.
        self._part = 1.0
        self._since_s = -math.inf
        self._rate_before = 0.0
        # Up to here the worker has used its own timeline.
        self._tail_s = -math.inf

    def cap(self, now_s: float) -> float | None:
        """The cap, segments a second; None: there is none."""
        part = self._part + _RECOVERY_PER_S * (now_s - self._since_s)
        return None if part >= 1 else part * self._rate_before

    def throttled(self, rate: float, now_s: float) -> None:
        """Set or halve the cap: the provider throttled while the worker sent `rate` segments a second."""
        if now_s - self._since_s < _SLOWING_S:
            return
        if self.cap(now_s) is None:
            self._part, self._rate_before = 1.0, rate
        else:
            self._part += _RECOVERY_PER_S * (now_s - self._since_s)
        self._part = max(_SLOWEST, self._part / 2)
        self._since_s = now_s

    def used(self, segments: int, now_s: float) -> None:
        """Note that so many segments were granted."""
        if cap := self.cap(now_s):
            self._tail_s = max(self._tail_s, now_s) + segments / cap

    def opens_at_s(self) -> float:
        """When the worker may ask for slots again."""
        return self._tail_s - _OWN_AHEAD_S

    def room(self, cap: float, now_s: float) -> int:
        """How many segments it may ask for at `now_s` under this `cap`."""
        return int((now_s + _OWN_AHEAD_S - max(self._tail_s, now_s)) * cap)


class _Attained:
    """How many segments a second a worker gets when it wants as many as it can have.

    It is measured in windows of time. A window in which the worker wanted no more than it got says
    nothing about what it could have had, so the value grows towards the whole rate then.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        # Segments a second, as far as is known.
        self.value = rate
        # Whether it wanted more than it got in the present window.
        self.short = False
        # Segments sent in the present window.
        self.sent = 0
        # Segments a second in the window before; and when the present one began.
        self._sent_rate = 0.0
        self._since_s = -math.inf

    def limit(self, rate: float) -> None:
        """The provider's rate is another one now, segments a second."""
        self.rate = rate
        self.value = min(self.value, rate)

    def close(self, now_s: float) -> None:
        """End the present window, if it has lasted long enough, and learn from it."""
        elapsed_s = now_s - self._since_s
        if elapsed_s < self._window_s:
            return
        self._sent_rate = self.sent / elapsed_s
        # A window much longer than usual holds a pause; that slots were short before it says nothing.
        if self.short and elapsed_s < 2 * self._window_s:
            self.value += (self._sent_rate - self.value) / 2
        else:
            # Nothing shows that it could not have had more: the value doubles with each window.
            grown = self.value * 2.0 ** min(60.0, elapsed_s / self._window_s)
            self.value = max(self._sent_rate, grown)
        self.value = min(self.rate, max(self.value, self.rate / 1000))
        self.short, self.sent, self._since_s = False, 0, now_s

    def sending(self, now_s: float) -> float:
        """What it sends now, segments a second, whether it wants more or not."""
        elapsed_s = now_s - self._since_s
        return max(self._sent_rate, self.sent / elapsed_s if elapsed_s > self._window_s / 4 else 0.0)

    @property
    def _window_s(self) -> float:
        return max(1.0, 4 / self.rate)


class Allowance:
    """The slots of one worker of one queue at one provider: what it holds, and when it asks for more.

    Ask Redis for what `wanted` says, give the answer to `granted`, and call `take` before each send.
    """

    def __init__(self, rate: float) -> None:
        """`rate`: segments a second of all workers together, greater than 0."""
        self.rate = rate
        self._timing = timing(rate)
        self._slots = self._no_slots()
        # Segments of the message that waits first: of the one that `take` refused last, else 1.
        self._next = 1
        # What Redis was asked for last: segments, and the segments of a bundle.
        self._asked = 0
        self._together = 1
        # How many answers in a row had no slot.
        self._refused = 0
        # Redis is not asked again before this time.
        self._not_before_s = -math.inf
        # Whether slots were missing when `wanted` was last called.
        self._wants_more = False
        self._slowness = _Slowness()
        self._attained = _Attained(rate)
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
        segments of the first of them, in order, `LOOK_AHEAD` at most; without `sizes`, all
        messages are taken to be as large as the one that `take` refused last. Redis's answer
        goes to `granted`. Called again before the answer came, it returns 0 until the
        answer can be taken for lost.
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
        """Take in Redis's answer to what `wanted` said.

        `asked_at_s`: a time before the request was written. `answered_at_s`: a time after the answer
        was read.
        """
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
        """Use the slots of a message of so many segments; False: it cannot be sent at `now_s`."""
        if self._slots.take(segments, now_s):
            self._attained.sent += segments
            self._next = 1
            return True
        self._next = segments
        return False

    def goes_at_s(self, now_s: float) -> float | None:
        """When to call `take` again for the message that it refused last; None: not before more slots
        have come."""
        self._slots.expire(now_s)
        at_s = self._slots.goes_at_s(self._next)
        if at_s is None or at_s <= now_s:
            return at_s
        return max(at_s, now_s + _TICK_S)

    def asks_at_s(self, now_s: float, *, changed: bool = False) -> float:
        """When to call `wanted` again; infinity: not before something changes.

        `changed`: since the last call it has changed what waits, or how much can be begun.
        """
        self._wants_more = self._wants_more or changed
        return max(now_s, self._asks_at_s()) if self._wants_more else math.inf

    def rate_seen(self, now_s: float) -> float:
        """Segments a second that this worker can count on.

        That is what it got lately while it wanted more. While it does not want more, the figure grows
        towards the whole rate.
        """
        self._attained.close(now_s)
        return self._attained.value

    def slow_down(self, now_s: float) -> None:
        """Send half as much for a while, because the provider said "throttled"."""
        sending = max(self._attained.sending(now_s), _SMALL_PART * self.rate)
        self._slowness.throttled(sending, now_s)

    def _asks_at_s(self) -> float:
        """When it may ask again, if it wants to."""
        if self._slots.goes_at_s(self._next) is None:
            return self._not_before_s
        return max(self._not_before_s, self._slots.end_s - _LEAD_S + self._courtesy_s())

    def _courtesy_s(self) -> float:
        """How long it lets workers that have had less ask first, seconds."""
        return _COURTESY_S * self._attained.value / self.rate / (1 << min(self._refused, 10))

    def _no_slots(self) -> FlowingSlots | BundledSlots:
        return BundledSlots() if self._timing.most else FlowingSlots()
