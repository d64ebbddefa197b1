"""Rule: what one worker does with one provider: who waits for it, who may go, who had better not wait.

A lane is *open* while its provider is not paused and its circuit is closed, or lets a probe
go. A provider that has stalled (see `engine.delivery.in_flight`) has its circuit opened at once, about
a second after it began to hang and long before its time-out. When an answer of those it
owed comes after all, the circuit is closed again.

A lane is *crowded* when more waits in it than it can send within about a second. What
comes then is put off, along a timeline that moves at the rate at which the lane has been
sending, so that a message of a long backlog is put off about once, to about when its turn
will come. (A fixed pause would move the whole backlog round and round.)

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import NamedTuple

from engine.backoff import Backoff
from engine.delivery.breaker import Breaker
from engine.delivery.in_flight import InFlight
from engine.records import Entry, VerdictKind
from engine.routing.throughput import HORIZON_S, LOOK_AHEAD, Allowance

# Slots come so far ahead at most, nearly always: they are for what can be begun by then.
_AHEAD_S = HORIZON_S / 2
# What waits in a limited lane is at most this much of its time.
_WAITING_S = 1.0
_WAITING_MIN = 8
# Put off no further than this: the rate may rise meanwhile.
_PUT_OFF_MAX_S = 600.0
_PUT_OFF_MIN_S = 0.5
# A provider without a limit of ours that throttles is left alone for a moment, doubling while
# it goes on.
_REST_S = 0.1
_REST_MAX_S = 2.0
# Assumed rate of a provider without a limit that cannot be used, segments a second.
_UNKNOWN_RATE = 500.0


class Wish(NamedTuple):
    """What slots a lane asks for."""

    # Segments to ask for now; 0: none.
    segments: int
    # Of how many messages all slots are that it then has.
    messages: int
    # When to look again though nothing happens; infinity: not at all.
    again_at_s: float


_NONE = Wish(0, 0, math.inf)


class Lane:
    """One provider in one worker. Construct with what the configuration says of it."""

    def __init__(
        self,
        name: str,
        breaker: Breaker,
        *,
        timeout_s: float,
        in_flight_max: int,
        waiting_max: int,
    ) -> None:
        self.name = name
        self.breaker = breaker
        # None: unlimited.
        self.allowance: Allowance | None = None
        self.paused = False
        # Within it the provider gives each message its verdict.
        self.timeout_s = timeout_s
        self.awaited = InFlight(timeout_s)
        # Entries with the time at which they were read, and the sum of their segments.
        self.waiting: deque[tuple[Entry, float]] = deque()
        self.waiting_segments = 0
        self._in_flight_max = in_flight_max
        self._waiting_max = waiting_max
        self._put_off_to_s = 0.0
        self._rests = Backoff(_REST_S, _REST_MAX_S)
        self._rests_until_s = 0.0

    def limit(self, rate: float | None) -> None:
        """Segments a second from now on, all workers together; None: as many as there are."""
        if rate is None:
            self.allowance = None
        elif self.allowance is None:
            self.allowance = Allowance(rate)
        elif rate != self.allowance.rate:
            self.allowance.change_rate(rate)

    def wish(self, free: int, now_s: float) -> Wish:
        """What slots to ask for now, in bundles of `allowance.together`.

        `free`: how many messages the worker can begin now. A slot that comes when nothing can
        be begun is lost to everybody, so it asks for no more than can be begun by then.
        """
        able = self._able(free, now_s)
        if self.allowance is None or not able:
            return _NONE
        sizes = [entry.message.segments for entry, _ in islice(self.waiting, min(able, LOOK_AHEAD))]
        segments = self.waiting_segments
        if able < len(self.waiting):
            segments = sum(entry.message.segments for entry, _ in islice(self.waiting, able))
        asked = self.allowance.wanted(segments, now_s, sizes)
        covered = -(-able * (asked + self.allowance.held) // segments)
        return Wish(asked, covered, self.allowance.asks_at_s(now_s))

    def _able(self, free: int, now_s: float) -> int:
        """How many of those that wait can be begun now, or as soon as slots come."""
        if not self.waiting or not self.breaker.usable(now_s):
            return 0
        if self.breaker.state != "closed":
            return 1
        room = max(0, min(free, self._in_flight_max - self.awaited.owed))
        return min(len(self.waiting), room + self.awaited.answers_within(_AHEAD_S, now_s))

    def look(self, now_s: float) -> None:
        """Open the circuit when the provider has stalled."""
        if self.breaker.state == "closed" and self.awaited.silent(now_s):
            self.breaker.trip(now_s)
            self.awaited.stalled(now_s)

    def open(self, now_s: float) -> bool:
        """Whether messages may be given to it; one that probes takes one at a time."""
        if self.paused or not self.breaker.usable(now_s):
            return False
        return self.breaker.state == "closed" or not self.waiting

    def shut(self, now_s: float) -> bool:
        """Whether those who wait in it had better go elsewhere."""
        return self.paused or (self.breaker.state == "open" and not self.breaker.usable(now_s))

    def crowded(self, now_s: float) -> bool:
        """Whether more waits than it can send soon."""
        if now_s < self._rests_until_s:
            return True
        if self.allowance is not None:
            of_rate = self.allowance.rate_seen(now_s) * _WAITING_S
            return self.waiting_segments >= min(self._waiting_max, max(_WAITING_MIN, of_rate))
        if not self.awaited.usual_s:
            return len(self.waiting) >= self._waiting_max
        return len(self.waiting) >= max(_WAITING_MIN, self._in_flight_max * _WAITING_S / self.awaited.usual_s)

    def add(self, entry: Entry, read_at_s: float) -> None:
        self.waiting.append((entry, read_at_s))
        self.waiting_segments += entry.message.segments

    def next(self, now_s: float) -> tuple[Entry, float] | None:
        """The next that may go, taken out of the line; None: nobody for now.

        Whoever takes it calls `began`, unless it is not sent after all.
        """
        if not self.waiting or self.awaited.owed >= self._in_flight_max or now_s < self._rests_until_s:
            return None
        if not self.breaker.usable(now_s):
            return None
        segments = self.waiting[0][0].message.segments
        if self.allowance is not None and not self.allowance.take(segments, now_s):
            return None
        self.waiting_segments -= segments
        return self.waiting.popleft()

    def began(self, entry: Entry, now_s: float) -> int:
        """One more is in flight; the token by which it ends."""
        self.breaker.began(now_s)
        return self.awaited.began(entry, now_s)

    def ended(self, token: int, kind: VerdictKind, now_s: float) -> Entry | None:
        """A verdict for this token: its entry; None: it is not waited for (any more)."""
        began_s = self.awaited.began_s(token)
        if began_s is None:
            return None
        if kind == "accepted":
            self._rests.reset()
            if self.breaker.state == "open" and self.awaited.from_before(began_s):
                self.breaker.mend(now_s)
        elif kind == "throttled" and self.allowance is not None:
            self.allowance.slow_down(now_s)
        elif kind == "throttled" and now_s >= self._rests_until_s:
            self._rests_until_s = now_s + self._rests.next()
        self.breaker.ended(kind, now_s, began_s)
        return self.awaited.ended(token, kind, now_s)

    def again_at_s(self, now_s: float) -> float | None:
        """When it is worth while to ask for `next` again though nothing happens; None: not at all."""
        if not self.waiting or self.awaited.owed >= self._in_flight_max or not self.breaker.usable(now_s):
            return None
        if now_s < self._rests_until_s:
            return self._rests_until_s
        return None if self.allowance is None else self.allowance.goes_at_s(now_s)

    def leave(self) -> list[tuple[Entry, float]]:
        """All who wait, taken out of the line: it has closed."""
        left = list(self.waiting)
        self.waiting.clear()
        self.waiting_segments = 0
        return left

    def put_off_s(self, segments: int, now_s: float) -> float:
        """For how long one more is put off, seconds."""
        ahead_s = max(_PUT_OFF_MIN_S, self.breaker.closed_for(now_s))
        rate = _UNKNOWN_RATE
        if self.allowance is not None:
            rate = max(self.allowance.rate_seen(now_s), 0.1)
            ahead_s = max(ahead_s, self.waiting_segments / rate)
        turn_s = max(self._put_off_to_s, now_s + ahead_s)
        self._put_off_to_s = min(turn_s + segments / rate, now_s + _PUT_OFF_MAX_S)
        return min(turn_s - now_s, _PUT_OFF_MAX_S)
