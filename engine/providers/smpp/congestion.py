"""How fast one session sends to a provider that throttles.

The rate is halved when the provider throttles, and grows again afterwards, as TCP avoids congestion
(Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989).
It grows fast to nine tenths of the rate that was too much, and from there by steps that begin
small and become larger (as in CUBIC, RFC 9438). So it stays for a while at a rate that works, and
finds out soon when the provider takes more again. At twice the rate that was too much the session
is not slowed any more.

Providers count in whole seconds, so within a second of a decrease more throttling only means
a pause. Throttled answers that are few among many are about single messages (a full mailbox
is ESME_RMSGQFUL too) and change nothing: the caller sends those again later.

Rates are segments a second, times monotonic seconds.
"""

from __future__ import annotations

PAUSE_S = 0.2
_PERIOD_S = 1.0
# At least one segment goes out after each pause, to learn when the provider takes more again.
_RATE_MIN = 1 / PAUSE_S
# Below this no rate counts as too much by itself.
_CEILING_MIN = 2 * _RATE_MIN
# So many throttled answers in a second, or for each accepted one, are about single messages.
_FEW = 2
_FEW_SHARE = 0.05
# The count of a shorter time says little about a second.
_OBSERVED_S = 0.1
# Unused sends may be made up for at once, but only those of this much time.
_BURST_S = 0.1
_UNLIMITED = 1 << 30


class Slowdown:
    """One session's rate. `rate` is 0 while it is not slowed; only then need nobody ask `allowed`."""

    __slots__ = (
        "_ceiling", "_decreased_s", "_grown_s", "_paused_to_s", "_second_s", "_steps", "_taken",
        "_taken_before", "_throttled", "_tokens", "_tokens_s", "rate",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rate = 0.0
        # The rate that was too much, and how many steps have been made towards it and beyond.
        self._ceiling = 0.0
        self._steps = 0
        self._grown_s = 0.0
        self._decreased_s = float("-inf")
        self._paused_to_s = 0.0
        self._tokens = 0.0
        self._tokens_s = 0.0
        # Answers in the second that began at `_second_s`, and accepted ones in that before.
        self._second_s = 0.0
        self._taken = 0
        self._throttled = 0
        self._taken_before = 0

    def taken(self, count: int, now_s: float) -> None:
        """The provider has accepted `count` segments just now."""
        passed_s = now_s - self._second_s
        if passed_s >= _PERIOD_S:
            self._taken_before = self._taken if passed_s < 2 * _PERIOD_S else 0
            self._taken = self._throttled = 0
            self._second_s = now_s
        self._taken += count

    def throttled(self, now_s: float) -> None:
        """The provider refused a segment because it was sent too much."""
        self.taken(0, now_s)
        self._throttled += 1
        if self._throttled <= max(_FEW, _FEW_SHARE * self._taken, _FEW_SHARE * self._taken_before):
            return
        self._paused_to_s = now_s + PAUSE_S
        if now_s < self._decreased_s + _PERIOD_S:
            return
        passed_s = max(now_s - self._second_s, _OBSERVED_S)
        observed = max(self._taken / passed_s, float(self._taken_before))
        too_much = min(self.rate, observed) if self.rate else observed
        self._ceiling = max(too_much, _CEILING_MIN)
        self.rate = self._ceiling / 2
        self._steps = 0
        self._decreased_s = self._grown_s = self._tokens_s = now_s
        self._tokens = 0.0

    def allowed(self, now_s: float) -> int:
        """How many segments may be sent now; call `sent` with those that were."""
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
        """So many segments went out just now."""
        self._tokens -= count

    def _grow(self) -> None:
        nearly = 0.9 * self._ceiling
        if self.rate < nearly:
            self.rate = min(nearly, 1.5 * self.rate)
        else:
            self._steps += 1
            self.rate += 0.05 * self._steps * self._ceiling
        if self.rate >= 2 * self._ceiling:
            self.rate = 0.0
