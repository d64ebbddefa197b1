"""Rule: the sends of one worker that one provider has not answered, and how long it may take.

A provider's *patience* is twice its slowest recent answer, at least a second and at most half its
time-out. Before the first answer nobody knows how long answers take: it is a quarter of the time-out
then. A provider from which answers are expected, and which has given none for longer than its
patience, has *stalled*. A single message that waits longer than the patience is *overdue*.

What was in flight when the provider last stalled is no longer *expected*: it gets its verdict some
time, but it does not count as work.

Each send ends once, with the first verdict for its token. Later verdicts for it are ignored.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.delivery._many import end_all, note_begun, oldest_of
from engine.histogram import ANSWER_S, Histogram
from engine.records import Entry, VerdictKind

_PATIENCE_FACTOR = 2.0
_PATIENCE_MIN_S = 1.0
# How much of the slowest answer remembered is forgotten with each answer.
_FORGET = 0.002
# Part that the newest answer has in the usual one.
_SMOOTHING = 0.1


class InFlight:
    """The sends that are in flight with one provider."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: within that time the provider gives each send its verdict."""
        self._timeout_s = timeout_s
        self.in_flight = 0
        # How many of them were begun since the provider last stalled.
        self.expected = 0
        # How long an answer usually takes (smoothed), seconds; 0: there was none yet.
        self.usual_s = 0.0
        self._slowest_s = 0.0
        # Entries, and the time at which each began, by token, oldest first.
        self._entries: dict[int, Entry] = {}
        self._began_s: dict[int, float] = {}
        # Of those that were given up the time at which they began: their verdict is still to come.
        self._given_up: dict[int, float] = {}
        # Sends that were begun so far: the token of the last of them.
        self.begun = 0
        # From the begin of a send to its verdict.
        self.answers = Histogram(ANSWER_S)
        # When it last gave an answer; or when a send began while no answer was expected.
        self._answered_at_s = 0.0
        self._stalled_at_s = float("-inf")

    @property
    def hanging(self) -> int:
        """How many sends that nobody has given up were in flight when the provider last stalled, about."""
        return max(0, len(self._entries) - self.expected)

    def began(self, entries: Sequence[Entry], now_s: float) -> int:
        """Note that `entries` are being sent; returns the token of the first. Those of the others follow."""
        if not self.expected:
            self._answered_at_s = now_s
        count = len(entries)
        self.in_flight += count
        self.expected += count
        first = self.begun + 1
        self.begun += count
        note_begun(self._entries, self._began_s, entries, first, now_s)
        return first

    def began_s(self, token: int) -> float | None:
        """When the send of this token began; None: it has ended."""
        began_s = self._began_s.get(token)
        return self._given_up.get(token) if began_s is None else began_s

    def oldest_s(self, tokens: list[int]) -> float | None:
        """When the first of these sends began; None: one of them has ended, was given up, was in flight when
        the provider last stalled, or stands there twice."""
        oldest_s = oldest_of(self._began_s, tokens)
        return oldest_s if oldest_s is not None and oldest_s > self._stalled_at_s else None

    def all_ended(self, tokens: list[int], oldest_s: float, now_s: float) -> list[Entry]:
        """Note an answer for each of these sends, of which `oldest_s` has said when the first began; returns
        their entries. It comes to what `ended` does for each, if each had taken the mean of their times."""
        count = len(tokens)
        self.in_flight -= count
        self.expected -= count
        self._answered_at_s = now_s
        entries, took_s = end_all(self._entries, self._began_s, tokens, now_s)
        self.answers.add_all(took_s)
        mean_s = max(sum(took_s) / count, 1e-6)
        self._slowest_s = max(now_s - oldest_s, mean_s, self._slowest_s * (1 - _FORGET) ** count)
        self.usual_s += (mean_s - self.usual_s) * (1 - (1 - _SMOOTHING) ** count if self.usual_s else 1.0)
        return entries

    def ended(self, token: int, kind: VerdictKind, now_s: float) -> Entry | None:
        """Note the verdict for a token; returns the entry, or None when nobody waits for it any more."""
        began_s = self.began_s(token)
        if began_s is None:
            return None
        self.in_flight -= 1
        self.answers.add(now_s - began_s)
        if began_s > self._stalled_at_s:
            self.expected -= 1
            self._answered_at_s = now_s
        # A time-out says nothing about how long its answers take.
        if kind != "unknown":
            took_s = max(now_s - began_s, 1e-6)
            self._slowest_s = max(took_s, self._slowest_s * (1 - _FORGET))
            self.usual_s += (took_s - self.usual_s) * (_SMOOTHING if self.usual_s else 1.0)
        if token in self._given_up:
            del self._given_up[token]
            return None
        del self._began_s[token]
        return self._entries.pop(token)

    def answers_within(self, ahead_s: float, now_s: float) -> int:
        """How many of the expected answers are likely to come within `ahead_s`, seconds; 0 when answers have
        stopped coming."""
        if not self.usual_s or now_s - self._answered_at_s > max(ahead_s, 2 * self.usual_s):
            return 0
        return int(self.expected * ahead_s / self.usual_s)

    def patience_s(self, least_s: float = _PATIENCE_MIN_S) -> float:
        """How long an answer may take before the provider counts as stalled, seconds; see the module."""
        usual_s = _PATIENCE_FACTOR * self._slowest_s or self._timeout_s / 4
        return min(self._timeout_s / 2, max(least_s, usual_s))

    def silent(self, now_s: float, least_s: float = _PATIENCE_MIN_S) -> bool:
        """Whether answers are expected, and none has come for longer than the patience, as if that were
        `least_s` at least."""
        return self.expected > 0 and now_s - self._answered_at_s > self.patience_s(least_s)

    def stalled(self, now_s: float) -> None:
        """Note that the provider has stalled: of what is in flight now nothing is expected any more."""
        self.expected = 0
        self._stalled_at_s = now_s

    def from_before(self, began_s: float) -> bool:
        """Whether a send that began at `began_s` was in flight when the provider last stalled."""
        return began_s <= self._stalled_at_s

    def overdue(self, now_s: float) -> list[tuple[int, Entry]]:
        """The (token, entry) of each send that has waited longer than the patience, or that was in flight
        when the provider stalled."""
        before_s = max(now_s - self.patience_s(), self._stalled_at_s)
        found = []
        for token, began_s in self._began_s.items():
            if began_s > before_s:
                break
            found.append((token, self._entries[token]))
        return found

    def begun_before(self, before_s: float) -> list[int]:
        """The tokens of the sends that began before `before_s` and have no verdict yet."""
        begun = [token for token, began_s in self._began_s.items() if began_s < before_s]
        return begun + [token for token, began_s in self._given_up.items() if began_s < before_s]

    def give_up(self, token: int) -> None:
        """Wait no longer for the verdict of this token: it is to be sent elsewhere."""
        del self._entries[token]
        self._given_up[token] = self._began_s.pop(token)
