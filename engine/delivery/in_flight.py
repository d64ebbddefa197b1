"""Rule: the sends of one worker that one provider has not answered, and how long it may take.

A provider's *patience* is twice its slowest recent answer, at least a second and at most
half its time-out. One that owes answers and has given none for longer has stalled; a
single message that waits longer is overdue. Before the first answer nobody knows how long
it takes: a quarter of the time-out then.

What was in flight when the provider was last given up as stalled is not *owed* any more:
it gets its verdict some time, but is not counted as work.

Each send ends once: with the first verdict for its token. What comes after that is not counted.

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
        # Entries with the time at which they began, by token, oldest first.
        self._entries: dict[int, tuple[Entry, float]] = {}
        # Of those given up only the time: their verdict is still to come.
        self._given_up: dict[int, float] = {}
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

    def began_s(self, token: int) -> float | None:
        """When the send of this token began; None: it has ended."""
        waiting = self._entries.get(token)
        return self._given_up.get(token) if waiting is None else waiting[1]

    def ended(self, token: int, kind: VerdictKind, now_s: float) -> Entry | None:
        """A verdict for this token: its entry; None: nobody waits for it (any more)."""
        began_s = self.began_s(token)
        if began_s is None:
            return None
        self.in_flight -= 1
        if began_s > self._stalled_at_s:
            self.owed -= 1
            self._heard_at_s = now_s
        # A time-out says nothing about how long its answers take.
        if kind != "unknown":
            took_s = max(now_s - began_s, 1e-6)
            self._slowest_s = max(took_s, self._slowest_s * (1 - _FORGET))
            self.usual_s += (took_s - self.usual_s) * (_SMOOTHING if self.usual_s else 1.0)
        if token in self._given_up:
            del self._given_up[token]
            return None
        return self._entries.pop(token)[0]

    def answers_within(self, ahead_s: float, now_s: float) -> int:
        """How many of the owed answers are likely to come within `ahead_s`; 0 where answers have
        stopped coming."""
        if not self.usual_s or now_s - self._heard_at_s > max(ahead_s, 2 * self.usual_s):
            return 0
        return int(self.owed * ahead_s / self.usual_s)

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

    def begun_before(self, before_s: float) -> list[int]:
        """The tokens of those that began before and have no verdict yet."""
        entries = [token for token, (_, began_s) in self._entries.items() if began_s < before_s]
        return entries + [token for token, began_s in self._given_up.items() if began_s < before_s]

    def give_up(self, token: int) -> None:
        """Its verdict is not waited for any more."""
        self._given_up[token] = self._entries.pop(token)[1]
