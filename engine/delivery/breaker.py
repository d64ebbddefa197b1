"""Rule: the circuit breaker of one provider in one worker: stop sending to a provider that takes nothing.

              so many failures in a row, or
              half of the last 50 failed                  the pause is over,
    CLOSED ───────────────────────────────────▶ OPEN ──── a message is begun ────▶ HALF-OPEN
       ▲                                         ▲                                │     │
       │                                         └──── it failed: longer pause ───┘     │
       └──────────────────────────── it did not fail ───────────────────────────────────┘

The verdicts `temporary` and `unknown` are failures. `accepted` and `permanent` are not: the
provider answers, and judges the message. `throttled` counts as neither, because the cause is our own
haste. A probe that is throttled proves nothing, so the next message is the probe.

Only the verdict of the probe moves a half-open circuit. When a provider hangs, verdicts of messages
that were begun long before the circuit opened still come in one by one, and they would open
it again and again. So the caller tells `ended` when the message was begun, and verdicts of messages that
are older than the present state are passed over.

The window is a number of verdicts, not a time: a provider with little traffic is judged by as many
messages as a busy one. Times are monotonic seconds, given by the caller.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from engine.clocks.backoff import pause_after
from engine.records import VerdictKind

State = Literal["closed", "open", "half-open"]

# An open circuit pauses no longer than this, seconds.
PAUSE_MAX_S = 60.0
# The circuit opens when this share of the last WINDOW verdicts are failures, even when they were not in
# a row. With fewer verdicts than that, only failures in a row count.
WINDOW = 50
FAILED_SHARE = 0.5
# How long other messages are told to wait for the verdict of a probe that is under way, seconds.
_PROBE_S = 1.0

_FAILED: dict[VerdictKind, bool | None] = {
    "accepted": False,
    "permanent": False,
    "temporary": True,
    "unknown": True,
    "throttled": None,
}


class Breaker:
    """Call `usable` before a message is begun, `began` when it is, and `ended` with its verdict.

    Every message that began must end, because a half-open circuit waits for the verdict of its probe. A
    provider gives each message its verdict within the time-out.
    """

    __slots__ = ("_failed_probes", "_failures_max", "_first_pause_s", "_in_a_row", "_probing", "_recent",
                 "_retry_at_s", "_since_s", "_state")  # fmt: skip

    def __init__(self, *, failures: int, pause_s: float) -> None:
        """`failures`: so many in a row open the circuit. `pause_s`: the first pause; it doubles with each
        probe that fails."""
        self._failures_max = failures
        self._first_pause_s = pause_s
        # Probes that failed, since one closed the circuit.
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
        """The state after the last call; an open circuit whose pause is over is still open."""
        return self._state

    @property
    def pause_s(self) -> float:
        """The pause of a circuit that opens now, or the present pause of one that is open, seconds."""
        return pause_after(1 + self._failed_probes, self._first_pause_s, PAUSE_MAX_S)

    def usable(self, now_s: float) -> bool:
        """Whether a message may be begun at `now_s`. Changes nothing."""
        if self._state == "closed":
            return True
        if self._state == "open":
            return now_s >= self._retry_at_s
        return not self._probing

    def closed_for(self, now_s: float) -> float:
        """How long to wait before `usable` may be true, seconds; 0: it is true."""
        if self.usable(now_s):
            return 0.0
        return self._retry_at_s - now_s if self._state == "open" else _PROBE_S

    def began(self, now_s: float) -> None:
        """Note that a message is being submitted; `usable` was true just before."""
        if self._state == "closed":
            return
        if self._state == "open":
            self._turn("half-open", now_s)
        self._probing = True

    def ended(self, kind: VerdictKind, now_s: float, began_s: float | None = None) -> None:
        """Note the verdict of a message that was begun at `began_s`, the time that `began` was given.

        Without `began_s` the verdict always counts, which is wrong for a message that was in
        flight when the circuit opened.
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

    def all_accepted(self, count: int, began_s: float) -> bool:
        """Note that so many messages, the first of them begun at `began_s`, were accepted: as `ended` for
        each. False: the state makes a difference between them, and nothing was noted."""
        if self._state != "closed" or began_s < self._since_s:
            return False
        self._recent.extend([False] * min(count, WINDOW))
        self._in_a_row = 0
        return True

    def trip(self, now_s: float) -> None:
        """Open a closed circuit without a verdict: the caller sees that the provider has stalled."""
        if self._state == "closed":
            self._open(now_s)

    def mend(self, now_s: float) -> None:
        """Close an open circuit whose reason to be open has proved wrong."""
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
