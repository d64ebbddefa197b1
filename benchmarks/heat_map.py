"""Heat maps as SVG: rows are numbers of processes, columns concurrencies, one map below another."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from typing import NamedTuple

_LEFT, _CELL_WIDTH, _CELL_HEIGHT, _HEAD, _GAP = 110, 110, 44, 58, 24
# Red, yellow and green of the same lightness, from bad to good.
_COLOURS = ((238, 119, 102), (238, 221, 136), (136, 204, 136))


class HeatMap(NamedTuple):
    """One map: values by (processes, concurrency), their text, and which cells are framed."""

    title: str
    values: Mapping[tuple[int, int], float]
    text: Callable[[float], str]
    framed: Collection[tuple[int, int]]
    low_is_good: bool


def svg(maps: Sequence[HeatMap], rows: Sequence[int], columns: Sequence[int]) -> str:
    """The maps, one below another; a cell without a value is left out."""
    each = _HEAD + _CELL_HEIGHT * len(rows) + _GAP
    width, height = max(_LEFT + _CELL_WIDTH * len(columns) + 20, 480), each * len(maps)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'style="font-family: sans-serif; font-size: 13px">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for n, one in enumerate(maps):
        parts += _drawn(one, rows, columns, n * each)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawn(one: HeatMap, rows: Sequence[int], columns: Sequence[int], top: int) -> list[str]:
    parts = [_text(10, top + 20, one.title, "start"), _text(10, top + 46, "processes", "start")]
    values = [math.log(max(value, 1e-9)) for value in one.values.values()]
    low, high = min(values, default=0.0), max(values, default=0.0)
    for n, column in enumerate(columns):
        parts.append(_text(_LEFT + _CELL_WIDTH * (n + 0.5), top + 46, f"concurrency {column}"))
    for m, row in enumerate(rows):
        y = top + _HEAD + _CELL_HEIGHT * m
        parts.append(_text(10, y + 27, str(row), "start"))
        for n, column in enumerate(columns):
            value = one.values.get((row, column))
            if value is None:
                continue
            part = (math.log(max(value, 1e-9)) - low) / (high - low) if high > low else 1.0
            x = _LEFT + _CELL_WIDTH * n
            frame = 'stroke="#222222" stroke-width="3"' if (row, column) in one.framed else 'stroke="white"'
            parts.append(
                f'<rect x="{x + 2}" y="{y + 2}" width="{_CELL_WIDTH - 4}" height="{_CELL_HEIGHT - 4}" '
                f'fill="{_colour(1 - part if one.low_is_good else part)}" {frame}/>'
            )
            parts.append(_text(x + _CELL_WIDTH / 2, y + 27, one.text(value)))
    return parts


def _colour(good: float) -> str:
    """From bad, 0, to good, 1."""
    place = min(int(good * 2), 1)
    share = good * 2 - place
    mixed = [round(a + (b - a) * share) for a, b in zip(_COLOURS[place], _COLOURS[place + 1], strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})"


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
