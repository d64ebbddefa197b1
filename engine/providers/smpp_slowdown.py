"""How fast one session sends to a carrier that says it is sent too much.

Additive increase, multiplicative decrease, as congestion is avoided in TCP (Chiu and Jain,
"Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989): nothing
is slowed until the carrier throttles; then the rate becomes half of what it took in the last
second, and grows again. A carrier counts in seconds, so within a second of a decrease more
throttling only means a longer pause, not a lower rate. The rate grows each second by 5 % of
what it was when last throttled, and by a tenth of itself, so that one that fell to nothing
in an outage does not crawl for minutes. At twice that rate the carrier plainly allows more
than was thought, and nothing is slowed any more.

Rates are segments a second, times monotonic seconds.
"""

from __future__ import annotations

PAUSE_S = 0.2
_PERIOD_S = 1.0
# One for each pause: with less it would not be seen when the carrier takes more again.
_RATE_MIN = 1 / PAUSE_S
# Below this no rate counts as what a carrier allows.
_CEILING_MIN = 10.0
_FACTOR = 0.5
# What has not been used may be sent at once, but no more than this much time of it.
_BURST_S = 0.1
_UNLIMITED = 1 << 30


class Slowdown:
    """One session's rate. `rate` is 0 while nothing is slowed; only then may `allowed` be passed by."""

    __slots__ = (
        "_ceiling", "_decreased_s", "_grown_s", "_paused_to_s", "_second_s", "_taken", "_taken_before",
        "_tokens", "_tokens_s", "rate",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rate = 0.0
        self._ceiling = 0.0
        self._decreased_s = float("-inf")
        self._grown_s = 0.0
        self._paused_to_s = 0.0
        self._tokens = 0.0
        self._tokens_s = 0.0
        # Segments taken in the second that began at `_second_s`, and in the one before.
        self._second_s = 0.0
        self._taken = 0
        self._taken_before = 0

    def taken(self, count: int, now_s: float) -> None:
        """The carrier has accepted so many."""
        passed_s = now_s - self._second_s
        if passed_s >= _PERIOD_S:
            self._taken_before = self._taken if passed_s < 2 * _PERIOD_S else 0
            self._taken = 0
            self._second_s = now_s
        self._taken += count

    def throttled(self, now_s: float) -> None:
        """The carrier has not taken one for being sent too much."""
        self._paused_to_s = max(self._paused_to_s, now_s + PAUSE_S)
        if now_s < self._decreased_s + _PERIOD_S:
            return
        self.taken(0, now_s)
        rate = self.rate or float(max(self._taken, self._taken_before))
        self._ceiling = max(rate, _CEILING_MIN)
        self.rate = max(rate * _FACTOR, _RATE_MIN)
        self._decreased_s = self._grown_s = self._tokens_s = now_s
        self._tokens = 0.0

    def allowed(self, now_s: float) -> int:
        """How many may be sent now; then tell `sent`. As many as you like while `rate` is 0."""
        if now_s < self._paused_to_s:
            return 0
        while self.rate and now_s >= self._grown_s + _PERIOD_S:
            self._grown_s += _PERIOD_S
            self._grow()
        if not self.rate:
            return _UNLIMITED
        burst = max(1.0, self.rate * _BURST_S)
        self._tokens = min(burst, self._tokens + (now_s - self._tokens_s) * self.rate)
        self._tokens_s = now_s
        return int(self._tokens)

    def sent(self, count: int) -> None:
        self._tokens -= count

    def _grow(self) -> None:
        self.rate += max(self._ceiling * 0.05, self.rate * 0.1)
        if self.rate >= 2 * self._ceiling:
            self.rate = 0.0
