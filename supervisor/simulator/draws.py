"""Draws what becomes of each send: its fate, its latency, its receipts.

Rules only: no I/O and no clock. The randomness is an argument, so that one seed always gives
the same decisions in the same order.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from random import Random
from typing import Final, Literal

from supervisor.simulator.behaviour import LATENCY_MS_MAX, Behaviour, Latency, Receipts

Fate = Literal[
    "accepted", "temporary", "permanent", "timeout", "reset", "throttled", "queue_full",
    "outage", "refuse", "hang",
]  # fmt: skip

State = Literal["delivered", "undelivered", "pending"]

# Stands for the seconds until a receipt goes out: it goes out before the answer to its send.
BEFORE: Final = -1.0


class Sampler:
    """Draws the fates of sends, one after another, for one behaviour."""

    def __init__(self, behaviour: Behaviour, random: Random) -> None:
        self._random = random.random
        self._latency_s = latency_source(behaviour.latency, random)
        rates = behaviour.error_rates
        # Sums of the shares, so that one draw decides between all fates.
        self._temporary = rates.temporary
        self._permanent = self._temporary + rates.permanent
        self._timeout = self._permanent + rates.timeout
        self._reset = self._timeout + rates.reset
        self._throttle = Throttle(behaviour.throughput) if behaviour.throughput else None
        self._by_segment = behaviour.throughput_unit == "segments"
        outage = behaviour.outage
        self._outage: Fate | None = "outage" if outage is True else outage or None
        # Whether every send is accepted at once, so that nothing need be drawn.
        self.plain = not self._reset and behaviour.latency.constant_ms == 0 and not (outage or self._throttle)

    def fate(self, now_s: float, segments: int = 1) -> tuple[Fate, float]:
        """What becomes of a send that arrives at `now_s` (any steady clock), and after how
        many seconds it is answered. `throttled` comes with the seconds until there is room.
        """
        if self._outage is not None:
            return self._outage, 0.0
        if self._throttle is not None:
            wait_s = self._throttle.wait_s(now_s, segments if self._by_segment else 1)
            if wait_s > 0:
                return "throttled", wait_s
        draw = self._random() if self._reset else 1.0
        if draw >= self._reset:
            return "accepted", self._latency_s()
        if draw < self._temporary:
            return "temporary", self._latency_s()
        if draw < self._permanent:
            return "permanent", self._latency_s()
        return ("timeout", 0.0) if draw < self._timeout else ("reset", self._latency_s())


class Throttle:
    """At most `rate` sends a second, a tenth of a second's worth of them at once.

    This is the generic cell rate algorithm, virtual scheduling (ITU-T I.371, annex A). A send
    that counts for several is taken as soon as a single one would be, and then all of them
    delay the next. If it waited for room for all at once, a long one might wait for ever.
    """

    def __init__(self, rate: float) -> None:
        self._interval_s = 1 / rate
        # The 1e-9 allows for rounding: k intervals after the first send, send k+1 is due, not early.
        self._tolerance_s = max(0.1 - self._interval_s, 0.0) + 1e-9
        self._due_s = -math.inf

    def wait_s(self, now_s: float, count: int = 1) -> float:
        """0.0 when the send is taken, and counts; else the seconds after which one would be taken."""
        wait_s = self._due_s - self._tolerance_s - now_s
        if wait_s > 0:
            return wait_s
        self._due_s = max(now_s, self._due_s) + count * self._interval_s
        return 0.0


def latency_source(latency: Latency, random: Random) -> Callable[[], float]:
    """A function that draws one latency, in seconds."""
    if latency.lognormal is not None:
        mu, sigma = math.log(latency.lognormal.median_ms / 1000), latency.lognormal.sigma
        return lambda: min(random.lognormvariate(mu, sigma), LATENCY_MS_MAX / 1000)
    if latency.quantiles is not None:
        quantiles = [q for q, _ in latency.quantiles]
        seconds = [ms / 1000 for _, ms in latency.quantiles]
        return lambda: _between(quantiles, seconds, random.random())
    constant_s = (latency.constant_ms or 0.0) / 1000
    return lambda: constant_s


def _between(quantiles: list[float], values: list[float], draw: float) -> float:
    """The inverse of a piecewise linear distribution function at `draw`."""
    i = bisect_right(quantiles, draw)
    if i == 0:
        return values[0]
    if i == len(quantiles):
        return values[-1]
    share = (draw - quantiles[i - 1]) / (quantiles[i] - quantiles[i - 1])
    return values[i - 1] + share * (values[i] - values[i - 1])


class ReceiptPlan:
    """Draws the receipts of sends, one send after another."""

    def __init__(self, receipts: Receipts, random: Random) -> None:
        self._random = random.random
        self._delay_s = latency_source(receipts.delay, random)
        self._receipts = receipts

    def draw(self, answer_s: float) -> list[tuple[float, State]]:
        """The receipts of one send in order: list of (seconds until it goes out, state).

        The seconds run from the same moment as `answer_s`, the seconds until the answer. The
        first receipt may have BEFORE instead.
        """
        receipts = self._receipts
        before = self._happens(receipts.before_response)
        at_s = answer_s + self._delay_s()
        planned: list[tuple[float, State]] = []
        if self._happens(receipts.pending):
            planned.append((at_s, "pending"))
            at_s += self._delay_s()
        state: State = "undelivered" if self._happens(receipts.undelivered) else "delivered"
        planned.append((at_s, state))
        if self._happens(receipts.duplicate):
            planned.append((at_s + self._delay_s(), state))
        if before:
            planned[0] = BEFORE, planned[0][1]
        return planned

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self._random() < rate
