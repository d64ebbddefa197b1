"""A line chart as SVG text, for a page that opens offline: no script, no font, colours by the page's
style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 560, 280, 64, 44, 14, 16


class Line(NamedTuple):
    """One line of a chart: its name, and points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


class Mark(NamedTuple):
    """A straight line across a chart, upright at `x` or level at `y`; one of the two is None."""

    name: str
    x: float | None = None
    y: float | None = None


class Axis(NamedTuple):
    """What an axis shows, and how: its name, its ticks, the text of a tick, and whether it is logarithmic."""

    name: str
    ticks: Sequence[float]
    text: Callable[[float], str]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value is between the first and the last tick, 0 to 1."""
        low, high = self.ticks[0], self.ticks[-1]
        if self.logarithmic:
            value, low, high = (math.log(max(v, 1e-12)) for v in (value, low, high))
        part = (value - low) / (high - low) if high > low else 0.5
        return min(max(part, 0.0), 1.0)


def ticks_between(low: float, high: float, *, logarithmic: bool = False) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    if logarithmic:
        steps = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
        first = max((s for s in steps if s <= low), default=steps[0])
        last = min((s for s in steps if s >= high and s > first), default=steps[-1])
        return [s for s in steps if first <= s <= last]
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9)))
    step = next(step * m for m in (0.2, 0.5, 1, 2, 5, 10) if (high - low) / (step * m) <= 6)
    first = math.floor(low / step)
    return [n * step for n in range(first, first + math.ceil(high / step - first) + 1)]


def chart(title: str, x: Axis, y: Axis, lines: Sequence[Line], marks: Sequence[Mark] = ()) -> str:
    """The chart as an SVG element; what it shows is also in its title, for those who do not see it."""
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    for tick in y.ticks:
        level = _y(y, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level}" y2="{level}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{level + 4}" text-anchor="end">{escape(y.text(tick))}</text>')
    for tick in x.ticks:
        parts.append(
            f'<text x="{_x(x, tick)}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{escape(x.text(tick))}</text>"
        )
    parts.append(
        f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x.name)}</text>"
    )
    for mark in marks:
        parts += _mark(x, y, mark)
    for n, line in enumerate(lines):
        points = " ".join(f"{_x(x, a)},{_y(y, b)}" for a, b in line.points)
        parts.append(f'<polyline class="line line{n}" points="{points}"/>')
        parts.append(
            f'<text class="name line{n}" x="{_LEFT + 10}" y="{_TOP + 14 + 16 * n}">{escape(line.name)}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def _mark(x: Axis, y: Axis, mark: Mark) -> list[str]:
    if mark.x is not None:
        at = _x(x, mark.x)
        line = f'<line class="mark" x1="{at}" x2="{at}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        anchor = "end" if at > _WIDTH * 0.6 else "start"
        shift = -6 if anchor == "end" else 6
        text = f'<text class="mark" x="{at + shift}" y="{_HEIGHT - _BOTTOM - 8}" text-anchor="{anchor}">'
    else:
        at = _y(y, mark.y or 0.0)
        line = f'<line class="mark" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>'
        text = f'<text class="mark" x="{_WIDTH - _RIGHT - 4}" y="{at - 5}" text-anchor="end">'
    return [line, f"{text}{escape(mark.name)}</text>"]


def _x(axis: Axis, value: float) -> float:
    return round(_LEFT + axis.place(value) * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(_HEIGHT - _BOTTOM - axis.place(value) * (_HEIGHT - _BOTTOM - _TOP), 1)
