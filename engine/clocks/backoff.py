"""Pauses after failed attempts: each is twice as long as the one before, up to a maximum.

Jitter keeps processes that failed together from trying again together. With a source of randomness
each pause is drawn evenly from the upper half of its length ("equal jitter" in Brooker, "Exponential
Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from random import Random

# After 40 doublings any first pause is above its maximum.
_DOUBLINGS_MAX = 40


def pause_after(failures: int, first: float, most: float, rng: Random | None = None) -> float:
    """The pause after so many failures in a row, from 1; in the unit of `first` and `most`.

    For those who keep the number of failures elsewhere. `rng`: where jitter comes from; None: the
    pause is exact.
    """
    whole = min(most, first * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))
    return whole if rng is None else whole * (0.5 + rng.random() / 2)


class Backoff:
    """The pauses of one task that is tried again and again, seconds."""

    def __init__(self, first_s: float, max_s: float, rng: Random | None = None) -> None:
        """`first_s`, `max_s`: the first and the longest pause. `rng` gives jitter; None: there is none."""
        self._first_s = first_s
        self._max_s = max_s
        self._rng = rng
        # Failures in a row since the last `reset`.
        self.failures = 0

    def next(self) -> float:
        """Note that an attempt failed; how long to wait before the next one, seconds."""
        self.failures += 1
        return pause_after(self.failures, self._first_s, self._max_s, self._rng)

    def reset(self) -> None:
        """Note that an attempt succeeded; the next failure counts as the first."""
        self.failures = 0
