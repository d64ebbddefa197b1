"""Counts of durations by size, cheap enough to be kept for every message.

An observation costs less than a tenth of a microsecond in a batch (benchmarks/micro/bench_histogram.py): no
lock, no label. What is shown of it, and how those of several processes are added up, is in `engine.metrics`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

# Upper bounds, seconds. Neighbours are a factor of 1.3 to 2.5 apart, so that a quantile that is read between
# two of them is off by less than that.
ROUND_TRIP_S = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)  # fmt: skip
ANSWER_S = (
    *(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0),
    *(10.0, 20.0, 30.0, 60.0),
)  # fmt: skip
SENT_S = (
    *(0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    *(5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0),
)  # fmt: skip
DELIVERED_S = (
    *(0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0),
    *(3600.0, 7200.0, 14400.0, 43200.0, 86400.0),
)  # fmt: skip


class Histogram:
    """How many observations there were up to each bound since the process began."""

    __slots__ = ("_edges", "_in_s", "_sum", "bounds_s", "counts")

    def __init__(self, bounds_s: Sequence[float], *, unit_s: float = 1.0) -> None:
        """`bounds_s`: upper bounds, ascending, seconds. `unit_s`: the unit of what is added, seconds."""
        self.bounds_s = tuple(bounds_s)
        # One for each bound, and the last for what is above all of them; each observation is in one.
        self.counts = [0] * (len(self.bounds_s) + 1)
        # Whole numbers for a smaller unit: they are compared with whole numbers faster.
        self._edges = [bound if unit_s == 1.0 else round(bound / unit_s) for bound in self.bounds_s]
        self._in_s = unit_s
        self._sum = 0.0

    @property
    def sum_s(self) -> float:
        """The sum of all observations, seconds."""
        return self._sum * self._in_s

    def add(self, duration: float) -> None:
        """One observation, in the unit of the histogram. One below 0, by clocks that differ, counts as 0."""
        self.counts[bisect_left(self._edges, duration)] += 1
        if duration > 0:
            self._sum += duration

    def add_all(self, durations: Iterable[float]) -> None:
        """As `add`, for many at once."""
        ordered = sorted(durations)
        counts, edges = self.counts, self._edges
        first, end = 0, len(ordered)
        # One search for each bucket that has any, not one for each observation.
        while first < end:
            bucket = bisect_left(edges, ordered[first])
            beyond = bisect_right(ordered, edges[bucket], first) if bucket < len(edges) else end
            counts[bucket] += beyond - first
            first = beyond
        if ordered:
            self._sum += sum(ordered) if ordered[0] >= 0 else sum(max(0, d) for d in ordered)
