"""Bars as SVG, written by hand: a page of a report needs no library for two panels of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _LABELS, _ROW, _GAP = 900, 270, 34, 46
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")
_STYLE = "font-family: sans-serif; font-size: 13px"


@dataclass(frozen=True)
class Panel:
    """One set of bars. `dots`: the values of each bar, which ends at their median. `stacks`: the parts of
    each bar, which are put one behind another."""

    title: str
    dots: Mapping[str, Sequence[float]] = field(default_factory=dict)
    stacks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def svg(panels: Sequence[Panel]) -> str:
    """The panels, one below another."""
    parts, top = [], 10
    for panel in panels:
        drawn, height = _panel(panel, top)
        parts += drawn
        top += height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" style="{_STYLE}">'
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{top}" fill="white"/>', *parts, "</svg>"]) + "\n"


def _panel(panel: Panel, top: int) -> tuple[list[str], int]:
    sums = {name: sum(parts.values()) for name, parts in panel.stacks.items()}
    most = (
        max([*sums.values(), *(max(values) for values in panel.dots.values() if values)], default=1.0) or 1.0
    )
    scale = (_WIDTH - _LABELS - 80) / most
    parts = [_text(10, top + 16, panel.title, bold=True)]
    y = top + 28
    names = list(dict.fromkeys(name for stack in panel.stacks.values() for name in stack))
    for label, values in panel.dots.items():
        middle = statistics.median(values) if values else 0.0
        parts += [_text(10, y + 20, label), _bar(_LABELS, y + 5, middle * scale, _COLOURS[0])]
        parts += [
            f'<circle cx="{_LABELS + value * scale:.1f}" cy="{y + 16}" r="4" fill="{_COLOURS[1]}"/>'
            for value in values
        ]
        parts.append(_text(_LABELS + max(*values, middle) * scale + 10, y + 20, f"{middle:,.0f}"))
        y += _ROW
    for label, stack in panel.stacks.items():
        x = float(_LABELS)
        parts.append(_text(10, y + 20, label))
        for name, value in stack.items():
            parts.append(_bar(x, y + 5, value * scale, _COLOURS[names.index(name) % len(_COLOURS)]))
            x += value * scale
        parts.append(_text(x + 10, y + 20, f"{sums[label]:,.0f}"))
        y += _ROW
    if names:
        parts += _legend(names, y)
        y += _ROW
    return parts, y - top + _GAP - _ROW // 2


def _legend(names: Sequence[str], y: int) -> list[str]:
    parts, x = [], 10
    for place, name in enumerate(names):
        parts += [_bar(x, y + 6, 12, _COLOURS[place % len(_COLOURS)]), _text(x + 18, y + 20, name)]
        x += 34 + 8 * len(name)
    return parts


def _bar(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="22" fill="{colour}" opacity="0.85"/>'


def _text(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}"{weight}>{escape(text)}</text>'
