"""Rule: durations as people write them, such as 80ms, 2s, 10min."""

from __future__ import annotations

import math
import re

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(us|ms|s|min|h)", re.ASCII)
ALLOWED = "a number with a unit: us, ms, s, min or h, such as 80ms"


def parse(text: str) -> float:
    """Seconds of a text such as "80ms". Raises ValueError, whose text says what is allowed."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ValueError(ALLOWED)
    return float(found[1]) * _UNITS_S[found[2]]


def show(seconds: float) -> str:
    """A duration in three digits or so, in the unit that suits it: "1.2 ms", "85 ms", "2 s", "12 min"."""
    if not math.isfinite(seconds):
        return "for ever"
    for unit, size in (("ms", 1e-3), ("s", 1.0), ("min", 60.0)):
        value = seconds / size
        if value < (999.5 if unit == "ms" else 119.5):
            return f"{_digits(value)} {unit}"
    return f"{_digits(seconds / 3600)} h"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
