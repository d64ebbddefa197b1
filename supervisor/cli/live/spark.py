"""Rule: a row of numbers as a line of bars of eight heights."""

from __future__ import annotations

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def spark(points: Sequence[float], width: int, top: float) -> str:
    """The last `width` points, the newest at the right; `top` is as high as the highest bar.

    A point of nothing is a blank, so that little can be told from nothing.
    """
    shown = points[-width:]
    bars = (_BARS[min(int(p / top * len(_BARS)), len(_BARS) - 1)] if p > 0 else " " for p in shown)
    return "".join(bars).rjust(width)
