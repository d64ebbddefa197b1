"""Rule: what one worker does with one provider: which messages wait for it, and which may be sent.

A lane is *open* while its provider is not paused, and its circuit is closed or lets a probe go.
When the provider has stalled (see `engine.delivery.in_flight`), its circuit is opened at once. That is
about a second after it began to hang, and long before its time-out. When one of the answers
that were expected comes after all, the circuit is closed again.

A lane is *crowded* when more messages wait in it than it can send within about a second. A
message that comes then is put off: back to Redis, until a worker has room for it (`engine.delivery.ways`).
While its provider takes unusually long and has not stalled yet, a few messages that wait make it crowded.

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from typing import NamedTuple

from engine.clocks.backoff import Backoff
from engine.delivery._many import segments_of, take_first
from engine.delivery.breaker import Breaker
from engine.delivery.in_flight import InFlight
from engine.delivery.put_off import PutOffTurns
from engine.delivery.supply import Supply
from engine.delivery.verdict_counts import VerdictCounts
from engine.records import RECEIPTS_BY_ANY_ID, Entry, Message, VerdictKind
from engine.routing.throughput import Allowance

# A limited lane is crowded when the messages that wait are so much of its time, seconds, but not with
# fewer than the second, segments.
_WAITING_S = 1.0
_WAITING_MIN = 8
# Beyond its part of the sends that may be in flight no more waits than is sent in so many times as long as a
# read takes, no less than the first, seconds: until more is recalled and read.
_AHEAD_MIN_S, _AHEAD_READS = 0.1, 10.0
# A message is put off for no less than this, seconds.
_PUT_OFF_MIN_S = 0.5
# When a provider throttles that has no throughput in the configuration, the lane rests, seconds. The
# rest doubles while the provider goes on throttling.
_REST_S = 0.1
_REST_MAX_S = 2.0
# The rate that is assumed of a provider without a throughput, segments a second.
UNKNOWN_RATE = 500.0


class Wish(NamedTuple):
    """The slots that a lane asks for."""

    # Segments to ask for now; 0: none.
    segments: int
    # How many messages can be sent in all the slots that the lane has when it gets these.
    messages: int
    # When to ask the lane again although nothing happens; infinity: not before something does.
    again_at_s: float


_NONE = Wish(0, 0, math.inf)


class Lane:
    """One provider in one worker: the messages that wait for it, and what keeps them from being sent."""

    def __init__(
        self,
        name: str,
        breaker: Breaker,
        *,
        timeout_s: float,
        in_flight_max: int,
        waiting_max: int,
        stocks: bool = False,
        supply: Supply | None = None,
    ) -> None:
        """`timeout_s`: within that time the provider gives each message its verdict. `in_flight_max`
        bounds the messages that are sent and not answered; `waiting_max` the segments, or without a
        throughput the messages, that wait; with a throughput also what is sent until more comes, by `supply`.
        `stocks`: as of `Allowance`."""
        self._supply = supply or Supply()
        self._stocks = stocks
        self.name = name
        # How the provider's receipts name the messages.
        self.receipts_by = RECEIPTS_BY_ANY_ID
        self.breaker = breaker
        # The slots of a provider with a throughput; None: it has none.
        self.allowance: Allowance | None = None
        self.paused = False
        # Whether its provider took unusually long to answer when that was last looked at.
        self.hesitates = False
        self.timeout_s = timeout_s
        self.awaited = InFlight(timeout_s)
        # The entries that wait, each with the time at which it was read; and the sum of their segments.
        self.waiting: deque[tuple[Entry, float]] = deque()
        self.waiting_segments = 0
        self.in_flight_max = in_flight_max
        self.waiting_max = waiting_max
        # Whether messages are put off that would go to it now; and whether some were since Redis was asked
        # last what is.
        self.behind = self.behind_lately = False
        self._put_off = PutOffTurns()
        self._rests = Backoff(_REST_S, _REST_MAX_S)
        self._rests_until_s = 0.0
        self.counts = VerdictCounts()

    def limit(self, rate: float | None) -> None:
        """Set the provider's throughput: segments a second, all workers together; None: no limit."""
        if rate is None:
            self.allowance = None
        elif self.allowance is None:
            self.allowance = Allowance(rate, stocks=self._stocks)
        elif rate != self.allowance.rate:
            self.allowance.change_rate(rate)

    def wish(self, free: int, now_s: float) -> Wish:
        """The slots to ask for now, in bundles of `allowance.together`.

        `free`: how many messages the worker can begin now. A slot that comes when no message can be
        begun is lost to all workers. So the lane asks for no more slots than messages can be begun
        by the time that they come.
        """
        if self.allowance is None or not self.breaker.usable(now_s):
            return _NONE
        if not self.waiting:
            return _stock_wish(self, now_s)
        # How many can be begun now, or as soon as slots come.
        able = 1
        if self.breaker.state == "closed":
            room = max(0, min(free, self.in_flight_max - self.awaited.expected))
            ahead_s = self.allowance.clock.horizon_s / 2
            able = min(len(self.waiting), room + self.awaited.answers_within(ahead_s, now_s))
        if not able:
            return _NONE
        look = min(able, self.allowance.clock.look_ahead(self.allowance.rate))
        sizes = [entry.message.segments for entry, _ in islice(self.waiting, look)]
        segments = self.waiting_segments
        if able < len(self.waiting):
            segments = sum(entry.message.segments for entry, _ in islice(self.waiting, able))
        asked = self.allowance.wanted(segments, now_s, sizes)
        covered = min(able, -(-able * (asked + self.allowance.held) // segments))
        return Wish(asked, covered, self.allowance.asks_at_s(now_s))

    def look(self, now_s: float) -> None:
        """Open the circuit if the provider has stalled."""
        if self.breaker.state == "closed" and self.awaited.silent(now_s):
            self.breaker.trip(now_s)
            self.awaited.stalled(now_s)

    def open(self, now_s: float) -> bool:
        """Whether messages may be given to the lane. While its circuit probes, it takes one at a time."""
        if self.paused or not self.breaker.usable(now_s):
            return False
        return self.breaker.state == "closed" or not self.waiting

    def shut(self, now_s: float) -> bool:
        """Whether the messages that wait in the lane should leave it."""
        return self.paused or (self.breaker.state == "open" and not self.breaker.usable(now_s))

    def room(self, now_s: float) -> float:
        """How many more messages, with a throughput segments, may wait before the lane is crowded; 0 or less:
        it is. The last message may go beyond that."""
        if now_s < self._rests_until_s:
            return -math.inf
        if self.allowance is not None:
            rate = self.allowance.rate_seen(now_s)
            most = max(self.waiting_max, rate * max(_AHEAD_MIN_S, _AHEAD_READS * self._supply.read_s))
            return min(most, max(_WAITING_MIN, rate * _WAITING_S)) - self.waiting_segments
        if self.hesitates:
            return _WAITING_MIN - len(self.waiting)
        if not self.awaited.usual_s:
            return self.waiting_max - len(self.waiting)
        most = max(_WAITING_MIN, self.in_flight_max * _WAITING_S / self.awaited.usual_s)
        return most - len(self.waiting)

    def add(self, entries: Sequence[Entry], read_at_s: float) -> None:
        """Let `entries` wait, behind all others; they were read at `read_at_s`."""
        self.waiting.extend(zip(entries, repeat(read_at_s)))
        self.waiting_segments += segments_of(entries)

    def next(self, most: int, now_s: float) -> list[tuple[Entry, float]]:
        """Take out the next entries that may be sent, up to `most`, each with the time at which it was read.

        The caller then calls `began` with those of them that it sends.
        """
        count = min(most, len(self.waiting), self.in_flight_max - self.awaited.expected)
        if count <= 0 or now_s < self._rests_until_s or not self.breaker.usable(now_s):
            return []
        if self.breaker.state != "closed":
            count = 1
        waiting, allowance = self.waiting, self.allowance
        if allowance is None:
            taken, segments = take_first(waiting, count)
            self.waiting_segments -= segments
            return taken
        taken = []
        while len(taken) < count and allowance.take(waiting[0][0].message.segments, now_s):
            taken.append(waiting.popleft())
        self.waiting_segments -= sum([entry.message.segments for entry, _ in taken])
        return taken

    def began(self, entries: Sequence[Entry], now_s: float) -> int:
        """Note that `entries` are being sent; returns the token of the first, to give to `ended`. Those of
        the others follow it."""
        self.breaker.began(now_s)
        return self.awaited.began(entries, now_s)

    def all_accepted(self, tokens: list[int], now_s: float) -> list[Entry]:
        """Note that these, one at least, were accepted; returns their entries. [] when anything about one of
        them is out of the ordinary: then nothing was noted, and `ended` is to be called for each."""
        oldest_s = self.awaited.oldest_s(tokens)
        if oldest_s is None or not self.breaker.all_accepted(len(tokens), oldest_s):
            return []
        self.counts.accepted += len(tokens)
        self._rests.reset()
        return self.awaited.all_ended(tokens, oldest_s, now_s)

    def ended(self, token: int, kind: VerdictKind, now_s: float) -> Entry | None:
        """Note the verdict for a token; returns the entry, or None when no verdict is expected any more."""
        began_s = self.awaited.began_s(token)
        if began_s is None:
            return None
        self.counts.add(kind)
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
        """When to call `next` again although nothing happens; None: not before something does."""
        if not self.waiting or self.awaited.expected >= self.in_flight_max or not self.breaker.usable(now_s):
            return None
        if now_s < self._rests_until_s:
            return self._rests_until_s
        return None if self.allowance is None else self.allowance.goes_at_s(now_s)

    def leave(self, which: Callable[[Entry], bool] = lambda entry: True) -> list[tuple[Entry, float]]:
        """Take out the entries that wait, or some of them, each with the time at which it was read."""
        left = [(entry, read_at_s) for entry, read_at_s in self.waiting if which(entry)]
        if left:
            self.waiting = deque((entry, at_s) for entry, at_s in self.waiting if not which(entry))
            self.waiting_segments -= sum(entry.message.segments for entry, _ in left)
        return left

    def put_off_s(self, message: Message, weight: float, now_s: float) -> float:
        """For how long one more message, of an organisation of this weight, is to be put off beside a process
        that does not know ways, seconds."""
        ahead_s = max(_PUT_OFF_MIN_S, self.breaker.closed_for(now_s))
        rate = UNKNOWN_RATE
        if self.allowance is not None:
            rate = max(self.allowance.rate_seen(now_s), 0.1)
            ahead_s = max(ahead_s, self.waiting_segments / rate)
        return self._put_off.pause_s(message.organisation_id, weight, message.segments, rate, ahead_s, now_s)


def _stock_wish(lane: Lane, now_s: float) -> Wish:
    """The slots that a lane asks for while nothing waits in it: those for what is likely to come."""
    allowance = lane.allowance
    if allowance is None or allowance.stock is None or lane.paused:
        return _NONE
    if lane.breaker.state != "closed" or lane.awaited.expected >= lane.in_flight_max:
        return _NONE
    return Wish(allowance.wanted(0, now_s), 0, allowance.asks_at_s(now_s))
