"""Rule: how many segments a second leave a backlog, by what left it lately.

Turns move messages from the lists of a line to its ready stream, and the organisations that wait share what
is moved by their weights (`functions/queue`). So the pace of an organisation is its share of the pace of its
line, also when it has just begun to wait, or was paused until now. The pace of a line is measured over the
time in which messages were moved at all:

    moved for ten seconds without a break    by what was moved in the last ten
    for less                                 by what was moved since it began, or went on after a pause, a
                                             fault or a restart
    for less than a second                   nobody knows
    an older version beside this one         by the last ten seconds: it does not write when it began

What is put off leaves when it is recalled, so that is counted by itself. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# What has left is counted over about so many seconds.
DRAIN_S = 10
# Before that nobody knows the pace, seconds.
_KNOWN_S = 1.0


class LinePace(NamedTuple):
    """What is known of the pace of one queue of one shard."""

    # Segments that turns moved in about the last `DRAIN_S` seconds.
    moved: int
    # For how long they have been moved without a break, milliseconds, below 0 where that is not known; and
    # how many segments were, after the first step.
    lasted_ms: int
    since: int
    # Of those that wait.
    weight: float

    @property
    def rate(self) -> float | None:
        """Segments a second; None: nobody knows."""
        lasted_s = self.lasted_ms / 1000
        if lasted_s < 0 or lasted_s >= DRAIN_S:
            return self.moved / DRAIN_S or None
        return self.since / lasted_s or None if lasted_s >= _KNOWN_S else None


class Part(NamedTuple):
    """What one organisation has in one queue."""

    line: LinePace
    # Segments behind the ready stream, that are put off, and that left both in about the last `DRAIN_S`
    # seconds.
    behind: int
    put_off: int
    left: int


def rate_of(parts: Iterable[Part], weight: float) -> float | None:
    """The segments a second that leave the backlog of an organisation of this weight; None: it is unknown.

    Where some are put off, that is what left lately: most may wait for a provider that takes little.
    """
    rates = [_rate(part, weight) for part in parts]
    return sum(rate for rate in rates if rate) or None


def _rate(part: Part, weight: float) -> float | None:
    if part.put_off:
        return part.left / DRAIN_S
    if not part.behind or (rate := part.line.rate) is None:
        return None
    return rate * min(1.0, weight / part.line.weight) if part.line.weight > 0 else rate
