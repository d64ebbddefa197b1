"""Rule: the sends of one worker that one provider has not answered, and how long it may take.

A provider's *patience* is twice its slowest recent answer, at least a second and at most
half its time-out. One that owes answers and has given none for longer has stalled; a
single message that waits longer is overdue. Before the first answer nobody knows how long
it takes: a quarter of the time-out then.

What was in flight when the provider was last given up as stalled is not *owed* any more:
it gets its verdict some time, but is not counted as work.

Times are monotonic seconds.
"""

from __future__ import annotations

from engine.records import Entry, VerdictKind

_PATIENCE_FACTOR = 2.0
_PATIENCE_MIN_S = 1.0
# How much of the slowest answer remembered is forgotten with each answer.
_FORGET = 0.002
# Part that the newest answer has in the usual one.
_SMOOTHING = 0.1


class InFlight:
    """In flight with one provider."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.in_flight = 0
        # Of those, the ones begun since the provider last stalled.
        self.owed = 0
        # How long an answer takes, smoothed; 0: there was none yet.
        self.usual_s = 0.0
        self._slowest_s = 0.0
        # Entries with the time at which they began, oldest first, but for those given up.
        self._entries: dict[int, tuple[Entry, float]] = {}
        self._count = 0
        # When it last gave an answer, or began to owe one.
        self._heard_at_s = 0.0
        self._stalled_at_s = float("-inf")

    def began(self, entry: Entry, now_s: float) -> int:
        """One more is in flight; the token by which it ends."""
        if not self.owed:
            self._heard_at_s = now_s
        self.in_flight += 1
        self.owed += 1
        self._count += 1
        self._entries[self._count] = (entry, now_s)
        return self._count

    def ended(self, token: int, kind: VerdictKind, began_s: float, now_s: float) -> bool:
        """A verdict for what began at `began_s`; whether it is still waited for."""
        self.in_flight -= 1
        if began_s > self._stalled_at_s:
            self.owed -= 1
            self._heard_at_s = now_s
        # A time-out says nothing about how long its answers take.
        if kind != "unknown":
            took_s = max(now_s - began_s, 1e-6)
            self._slowest_s = max(took_s, self._slowest_s * (1 - _FORGET))
            self.usual_s += (took_s - self.usual_s) * (_SMOOTHING if self.usual_s else 1.0)
        return self._entries.pop(token, None) is not None

    def patience_s(self) -> float:
        usual_s = _PATIENCE_FACTOR * self._slowest_s or self._timeout_s / 4
        return min(self._timeout_s / 2, max(_PATIENCE_MIN_S, usual_s))

    def silent(self, now_s: float) -> bool:
        """It owes answers, and has given none for longer than it ever takes."""
        return self.owed > 0 and now_s - self._heard_at_s > self.patience_s()

    def stalled(self, now_s: float) -> None:
        """Nothing that is in flight now is owed any more."""
        self.owed = 0
        self._stalled_at_s = now_s

    def from_before(self, began_s: float) -> bool:
        """Whether what began then was in flight when the provider last stalled."""
        return began_s <= self._stalled_at_s

    def overdue(self, now_s: float) -> list[tuple[int, Entry]]:
        """Those that have waited longer than answers ever take, or that were in flight when the
        provider stalled, by their tokens."""
        before_s = max(now_s - self.patience_s(), self._stalled_at_s)
        found = []
        for token, (entry, began_s) in self._entries.items():
            if began_s > before_s:
                break
            found.append((token, entry))
        return found

    def give_up(self, token: int) -> None:
        """Its verdict is not waited for any more."""
        del self._entries[token]
