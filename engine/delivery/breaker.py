"""A circuit breaker for one provider, as one worker sees it: stop sending to what does not take anything.

              so many failures in a row, or
              half of the last 50 failed                  the pause is over,
    CLOSED ───────────────────────────────────▶ OPEN ──── a message is begun ────▶ HALF-OPEN
       ▲                                         ▲                                │     │
       │                                         └──── it failed: longer pause ───┘     │
       └──────────────────────────── it did not fail ───────────────────────────────────┘

A failure is a verdict `temporary` or `unknown`. `accepted` and `permanent` are none: the
provider answers, and says what it thinks of the message. `throttled` is neither, for it is
our own haste; a probe that is throttled proves nothing, and the next message is the probe.

A probe stands for the present, so only its own verdict moves a half-open circuit: when
a provider hangs, verdicts of messages begun long before the circuit opened still come
in one by one, and would open it again and again. `ended` is therefore told when the
message was begun, and passes over what is older than the state it finds.

Counts, not times, make the window: a provider with little traffic is judged by as many
messages as a busy one. Times are monotonic seconds, given by the caller.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from engine.backoff import pause_after
from engine.records import VerdictKind

State = Literal["closed", "open", "half-open"]

# An open circuit pauses no longer than this, seconds.
PAUSE_MAX_S = 60.0
# With so large a share of the last so many verdicts failed the circuit opens, though
# successes in between kept the failures in a row few. Fewer verdicts are not judged so.
WINDOW = 50
FAILED_SHARE = 0.5
# A probe is under way: how long others are advised to wait for its verdict, seconds.
_PROBE_S = 1.0

_FAILED: dict[VerdictKind, bool | None] = {
    "accepted": False,
    "permanent": False,
    "temporary": True,
    "unknown": True,
    "throttled": None,
}


class Breaker:
    """Ask `usable` before a message is begun, tell `began` that it was, and `ended` its verdict.

    Every message that began must end: a provider gives each its verdict within the time-out.
    """

    __slots__ = ("_failed_probes", "_failures_max", "_first_pause_s", "_in_a_row", "_probing", "_recent",
                 "_retry_at_s", "_since_s", "_state")  # fmt: skip

    def __init__(self, *, failures: int, pause_s: float) -> None:
        """`failures` in a row open it; the first pause, which doubles while probes fail."""
        self._failures_max = failures
        self._first_pause_s = pause_s
        # In a row, since the circuit was closed by a probe.
        self._failed_probes = 0
        self._state: State = "closed"
        # When the present state began.
        self._since_s = float("-inf")
        self._in_a_row = 0
        # True for each failure of the last WINDOW verdicts.
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._retry_at_s = 0.0
        # While half-open: the probe is under way.
        self._probing = False

    @property
    def state(self) -> State:
        """As of the last call; an open circuit whose pause is over is still called open."""
        return self._state

    @property
    def pause_s(self) -> float:
        """How long it pauses when it opens now, or pauses since it has opened."""
        return pause_after(1 + self._failed_probes, self._first_pause_s, PAUSE_MAX_S)

    def usable(self, now_s: float) -> bool:
        """Whether a message may be begun now. Changes nothing."""
        if self._state == "closed":
            return True
        if self._state == "open":
            return now_s >= self._retry_at_s
        return not self._probing

    def closed_for(self, now_s: float) -> float:
        """How long to wait at least before `usable` may be true, seconds; 0: it is."""
        if self.usable(now_s):
            return 0.0
        return self._retry_at_s - now_s if self._state == "open" else _PROBE_S

    def began(self, now_s: float) -> None:
        """A message is being submitted; `usable` was true just now."""
        if self._state == "closed":
            return
        if self._state == "open":
            self._turn("half-open", now_s)
        self._probing = True

    def ended(self, kind: VerdictKind, now_s: float, began_s: float | None = None) -> None:
        """A message that was begun at `began_s` (the very time told to `began`) has its verdict.

        Without `began_s` it counts as the present, which is wrong for what was in flight
        when the circuit opened.
        """
        if self._state == "open" or (began_s is not None and began_s < self._since_s):
            return
        failed = _FAILED[kind]
        if self._state == "half-open":
            self._probing = False
            if failed is None:
                return
            if failed:
                self._failed_probes += 1
                self._open(now_s)
            else:
                self._turn("closed", now_s)
                self._failed_probes = 0
                self._in_a_row = 0
                self._recent.clear()
            return
        if failed is not None:
            self._count(failed, now_s)

    def trip(self, now_s: float) -> None:
        """Open a closed circuit: whoever watches the provider knows without a verdict."""
        if self._state == "closed":
            self._open(now_s)

    def mend(self, now_s: float) -> None:
        """Close an open circuit that was tripped for a reason that has proved wrong."""
        if self._state == "open":
            self._turn("closed", now_s)
            self._in_a_row = 0
            self._recent.clear()

    def _count(self, failed: bool, now_s: float) -> None:
        self._recent.append(failed)
        self._in_a_row = self._in_a_row + 1 if failed else 0
        if not failed:
            return
        many = len(self._recent) == WINDOW and sum(self._recent) >= WINDOW * FAILED_SHARE
        if many or self._in_a_row >= self._failures_max:
            self._open(now_s)

    def _open(self, now_s: float) -> None:
        self._turn("open", now_s)
        self._retry_at_s = now_s + self.pause_s

    def _turn(self, state: State, now_s: float) -> None:
        self._state, self._since_s = state, now_s
