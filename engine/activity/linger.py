"""Rule: how long the rows of a block may wait for it to fill, by how long inserts took lately.

A row is read in the store when its block was inserted: so long after it came as it waited for its block to
fill, and as the insert took. The first row waits longest. So where inserts take longer, blocks are cut
sooner; but not much sooner, because each insert costs the store a fixed time of its CPU, and inserts that are
slow for want of CPU would become slower. When inserts are quick blocks are no larger for it: rows that are
few are not to wait longer than they must.
"""

from __future__ import annotations

# How far what is expected of inserts follows one that took longer, and one that took less. It settles where
# about four of five take less.
_UP = 0.5
_DOWN = 0.1


class Linger:
    """How long the first row of the next block may wait; `note` says how long each insert took."""

    def __init__(self, lag_s: float, most_s: float, least_s: float) -> None:
        """`lag_s`: how late the first row may be read, seconds, for as long as that leaves it between
        `least_s` and `most_s` to wait."""
        self._lag_s, self._most_s, self._least_s = lag_s, most_s, least_s
        self._insert_s = max(0.0, lag_s - most_s)

    @property
    def seconds(self) -> float:
        """How long the first row of a block may wait for others."""
        return min(self._most_s, max(self._least_s, self._lag_s - self._insert_s))

    def note(self, took_s: float) -> None:
        """A block was stored `took_s` seconds after it was cut."""
        # What is beyond the bound changes nothing, and so is soon forgotten.
        more_s = min(took_s, self._lag_s - self._least_s) - self._insert_s
        self._insert_s += more_s * (_UP if more_s > 0 else _DOWN)
