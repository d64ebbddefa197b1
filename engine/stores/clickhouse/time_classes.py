"""Rule: quantiles of times that are counted in classes.

A time of t microseconds is in the class floor(8 log2 t): each class is an eighth of an octave wide, 9 %.
Within a
class the times are taken to be spread evenly by their logarithm, so a quantile is off by less than that.
ClickHouse counts them (0011_report_days.sql), because such counts add up in a hundredth of the time that
digests take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

# Classes in an octave.
_WIDTH = 8


def quantiles_of(counts: Mapping[int, int], parts: Sequence[float]) -> list[float]:
    """The quantiles, microseconds, in the order of `parts`, which ascend; NaN when nothing was counted.

    `counts`: how many times are in each class.
    """
    total, seen = sum(counts.values()), 0
    if not total:
        return [math.nan] * len(parts)
    found: list[float] = []
    for number, count in sorted(counts.items()):
        while len(found) < len(parts) and parts[len(found)] * total <= seen + count:
            inside = (parts[len(found)] * total - seen) / count
            found.append(2 ** ((number + inside) / _WIDTH))
        seen += count
    # The sum of parts may lack a hair of the whole.
    return found + [2 ** ((max(counts) + 1) / _WIDTH)] * (len(parts) - len(found))
