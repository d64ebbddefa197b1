"""Rule: how long a provider takes to answer one send, as a distribution.

A distribution is written as one of

    p50=80ms,p90=150ms,p99=900ms     quantiles that were measured
    constant(50ms)
    exponential(mean=100ms)
    lognormal(median=80ms, sigma=0.6)

or stands in a file of quantiles: lines `quantile,time`, such as `0.99,900ms`.

Between two quantiles that are given the time grows evenly. Below the first it is that of the first, beyond
the last that of the last: whoever plans for p99.9 gives p99.9. The simulator of providers reads quantiles in
the same way.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from statistics import NormalDist

from engine.capacity import durations
from engine.written_numbers import real

# So many times of equal probability stand for a distribution in a simulation.
TABLE_SIZE = 16_384
ALLOWED = (
    "quantiles (p50=80ms,p90=150ms,p99=900ms), constant(50ms), exponential(mean=100ms), "
    "lognormal(median=80ms, sigma=0.6), or a file of quantiles"
)
# The longest time that a distribution may give, seconds: no provider is waited for longer.
_LONGEST_S = 3600.0
_NAMED = re.compile(r"(\w+)\s*\(([^()]*)\)")
_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)", re.ASCII)


class ResponseTimes:
    """A distribution of times, by its quantiles."""

    def __init__(self, times_s: Sequence[float], text: str) -> None:
        """`times_s`: times of equal probability, ascending, seconds. `text`: how it was written."""
        self.text = text
        self.times_s = times_s
        self.mean_s = math.fsum(times_s) / len(times_s)
        # Of the second moment, seconds squared.
        self.square_s2 = math.fsum(t * t for t in times_s) / len(times_s)

    @property
    def variation(self) -> float:
        """The squared coefficient of variation: variance by the square of the mean; 0 for a constant."""
        return max(0.0, self.square_s2 / self.mean_s**2 - 1) if self.mean_s else 0.0

    def quantile_s(self, part: float) -> float:
        """The time within which `part` (0 to 1) of the sends are answered, seconds."""
        place = part * len(self.times_s) - 0.5
        lower = min(max(int(place), 0), len(self.times_s) - 1)
        upper = min(lower + 1, len(self.times_s) - 1)
        weight = min(max(place - lower, 0.0), 1.0)
        return self.times_s[lower] * (1 - weight) + self.times_s[upper] * weight

    def scaled(self, factor: float) -> ResponseTimes:
        """The same with each time multiplied by `factor`."""
        return ResponseTimes([t * factor for t in self.times_s], f"{factor:g} times {self.text}")


def parse(text: str) -> ResponseTimes:
    """A distribution from its text. Raises ValueError: what is wrong, and what is allowed."""
    written = text.strip()
    if named := _NAMED.fullmatch(written):
        return _named(named[1].lower(), _arguments(named[2]), written)
    pairs = []
    for part in written.split(","):
        name, equals, value = part.partition("=")
        found = _QUANTILE.fullmatch(name.strip().lower())
        if not found or not equals:
            raise ValueError(f"{part.strip()!r} is no quantile; allowed are {ALLOWED}")
        pairs.append((float(found[1]) / 100, _time(value, name.strip())))
    return of_quantiles(pairs, written)


def parse_lines(lines: Iterable[str], text: str) -> ResponseTimes:
    """A distribution from the lines of a file of quantiles, which `text` names. Raises ValueError."""
    pairs = []
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.split(",")]
        if cells == [""] or (number == 1 and not re.match(r"[0-9.]", cells[0])):
            continue
        try:
            part, value = cells
            pairs.append((real(part), _time(value, f"line {number}")))
        except ValueError:
            raise ValueError(
                f"line {number} of {text} must be a quantile from 0 to 1 and a time, such as 0.99,900ms"
            ) from None
    return of_quantiles(pairs, text)


def of_quantiles(pairs: Sequence[tuple[float, float]], text: str, size: int = TABLE_SIZE) -> ResponseTimes:
    """A distribution from pairs (part, seconds), `size` times of equal probability. Raises ValueError."""
    ordered = sorted(pairs)
    parts = [part for part, _ in ordered]
    times = [time for _, time in ordered]
    if not pairs or len(set(parts)) != len(parts) or parts[0] <= 0 or parts[-1] >= 1:
        raise ValueError("quantiles must differ from each other and be greater than 0 and less than 1")
    if times != sorted(times):
        raise ValueError("a higher quantile must not have a shorter time")
    if times[0] <= 0:
        raise ValueError("a time must be greater than 0")

    def at(part: float) -> float:
        place = bisect_right(parts, part)
        if place in (0, len(parts)):
            return times[min(place, len(parts) - 1)]
        share = (part - parts[place - 1]) / (parts[place] - parts[place - 1])
        return times[place - 1] + share * (times[place] - times[place - 1])

    return _of(map(at, _parts(size)), text)


def _named(name: str, arguments: dict[str, str], text: str) -> ResponseTimes:
    def only(*names: str) -> list[str]:
        if sorted(arguments) != sorted(names):
            wanted = ", ".join(n for n in names if n) or "one time"
            raise ValueError(f"{name}(...) takes {wanted}; allowed are {ALLOWED}")
        return [arguments[n] for n in names]

    if name == "constant":
        (value,) = only("")
        return ResponseTimes([_time(value, "constant")], text)
    if name == "exponential":
        (value,) = only("mean")
        mean = _time(value, "mean")
        return _of((-mean * math.log1p(-part) for part in _parts()), text)
    if name == "lognormal":
        value, written = only("median", "sigma")
        median = _time(value, "median")
        try:
            sigma = real(written)
        except ValueError:
            sigma = -1.0
        if not 0 <= sigma <= 5:
            raise ValueError("sigma must be a number from 0 to 5")
        normal = NormalDist()
        return _of((median * math.exp(sigma * normal.inv_cdf(part)) for part in _parts()), text)
    raise ValueError(f"{name!r} is no distribution; allowed are {ALLOWED}")


def _arguments(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        found[name.strip().lower() if equals else ""] = (value if equals else name).strip()
    return found


def _parts(size: int = TABLE_SIZE) -> Iterable[float]:
    return ((i + 0.5) / size for i in range(size))


def _of(times_s: Iterable[float], text: str) -> ResponseTimes:
    return ResponseTimes([min(t, _LONGEST_S) for t in times_s], text)


def _time(text: str, name: str) -> float:
    try:
        found = durations.parse(text)
    except ValueError as e:
        raise ValueError(f"{name} must be {e}") from None
    if not 0 < found <= _LONGEST_S:
        raise ValueError(f"{name} must be a time greater than 0 and at most 1 hour")
    return found
