"""Whether a series of samples grows: a straight line through it, and how sure its slope is.

A series may come from several processes, one after another in the same place. Each then has a level of
its own, and all of them share one slope (least squares with a constant for each process). So a process
that was replaced neither hides a growth nor looks like one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

# Samples of one process that say something about a slope.
_SAMPLES_MIN = 6
# A short soak takes about so many samples.
_SAMPLES = 40
# How many standard errors a slope must be beyond what is allowed before the growth counts as seen.
_SURE = 3.0
# A line with a step in it leaves less than this of what a line without leaves.
_STEPS = 0.5


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One value at an instant, seconds from the start; `source`: which process it is of."""

    at_s: float
    value: float
    source: int = 0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A line through samples: its slope an hour and the standard error of that, in units of the value."""

    samples: int
    first: float
    last: float
    mean: float
    per_hour: float
    error_per_hour: float

    def grows(self, allowed_per_hour: float) -> bool:
        """Whether it surely grows by more than that an hour."""
        return self.per_hour - _SURE * self.error_per_hour > allowed_per_hour


def pause_between_samples_s(seconds: float) -> float:
    """Between two samples of a soak of `seconds`: a minute, or less, so that a short one shows growth too."""
    return min(60.0, max(5.0, seconds / _SAMPLES))


def fitted(samples: Iterable[Sample], warm_s: float) -> Fit | None:
    """The line through what comes `warm_s` seconds or more after the first sample of its process.

    None: no process has enough samples after that.
    """
    by_source: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_source[sample.source].append(sample)
    used = []
    for of_one in by_source.values():
        warm = [s for s in of_one if s.at_s - of_one[0].at_s >= warm_s]
        if len(warm) >= _SAMPLES_MIN:
            used += _parts(warm)
    if not used:
        return None
    count = sum(map(len, used))
    slope, rest, square = _line(used)
    free = max(1, count - len(used) - 1)
    error = math.sqrt(rest / free / square)
    every = sorted((s for of_one in used for s in of_one), key=lambda s: s.at_s)
    return Fit(
        samples=count,
        first=every[0].value,
        last=every[-1].value,
        mean=sum(s.value for s in every) / count,
        per_hour=slope * 3600,
        error_per_hour=error * 3600,
    )


def _line(parts: list[list[Sample]]) -> tuple[float, float, float]:
    """(slope that the parts share, squares of what is left of the values, squares of the times)."""
    square = product = 0.0
    centred: list[tuple[float, float]] = []
    for part in parts:
        at = sum(s.at_s for s in part) / len(part)
        level = sum(s.value for s in part) / len(part)
        centred += [(s.at_s - at, s.value - level) for s in part]
    for x, y in centred:
        square += x * x
        product += x * y
    slope = product / square
    return slope, sum((y - slope * x) ** 2 for x, y in centred), square


def _parts(samples: list[Sample]) -> list[list[Sample]]:
    """The samples of a process, parted where it steps; in one when no step explains them much better."""
    places = range(_SAMPLES_MIN, len(samples) - _SAMPLES_MIN + 1)
    parted = [[samples[:place], samples[place:]] for place in places]
    best = min(parted, key=lambda parts: _line(parts)[1], default=[samples])
    return best if _line(best)[1] < _STEPS * _line([samples])[1] else [samples]


def drawn(values: list[float], width: int = 40) -> str:
    """The values as a line of small bars, from nothing to the largest."""
    bars = "▁▂▃▄▅▆▇█"
    step = max(1.0, len(values) / width)
    picked = [values[int(i * step)] for i in range(int(len(values) / step))]
    most = max(picked, default=0.0) or 1.0
    return "".join(bars[max(0, min(7, int(v / most * 7.999)))] for v in picked)
