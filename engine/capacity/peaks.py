"""Rule: how many messages arrive at the peak, by organisation and queue, and how many at once.

An organisation's messages come in bursts of `burst` messages; the bursts come at random times (a Poisson
process), so that there are `messages_per_second` in the mean. A burst of 1 is plain random traffic. Bursts of
different organisations come independently of each other.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from typing import NamedTuple

from engine.records import QUEUES, Queue
from engine.written_numbers import is_whole, real

COLUMNS = ("organisation", "queue", "messages_per_second", "burst")
# Bounds of what a file may ask: more is a slip of the keyboard.
_RATE_MAX, _BURST_MAX, _ROWS_MAX = 1e6, 10_000_000, 1_000_000


class Peak(NamedTuple):
    """The peak traffic of one organisation in one queue."""

    organisation: str
    queue: Queue
    messages_per_second: float
    # Most messages that arrive at once.
    burst: int = 1


def read(lines: Iterable[str], origin: str) -> list[Peak]:
    """Peaks from the lines of a CSV text with a header; `origin` names it in errors.

    `burst` may be left out. Raises ValueError, which names the line, the column and what is allowed.
    """
    reader = csv.reader(lines, skipinitialspace=True)
    header = [cell.strip().lower() for cell in next(reader, [])]
    if header and header[0].startswith("\ufeff"):
        header[0] = header[0].removeprefix("\ufeff")
    if missing := [name for name in COLUMNS[:3] if name not in header]:
        raise ValueError(f"{origin} has no column {missing[0]!r}; its first line must be {','.join(COLUMNS)}")
    found: dict[tuple[str, Queue], Peak] = {}
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        peak = _peak(dict(zip(header, cells, strict=False)), f"{origin}, line {reader.line_num}")
        key = peak.organisation, peak.queue
        if key in found:
            raise ValueError(f"{origin}, line {reader.line_num}: {key[0]} has a line for {key[1]} already")
        if len(found) >= _ROWS_MAX:
            raise ValueError(f"{origin} has more than {_ROWS_MAX:,} lines")
        found[key] = peak
    if not found:
        raise ValueError(f"{origin} has no peaks: a line for each organisation and queue is needed")
    return list(found.values())


def _peak(row: dict[str, str], place: str) -> Peak:
    organisation = row.get("organisation", "").strip()
    if not organisation:
        raise ValueError(f"{place}: organisation must not be empty")
    name = row.get("queue", "").strip().lower()
    queue = next((q for q in QUEUES if q == name), None)
    if queue is None:
        raise ValueError(f"{place}: queue must be {' or '.join(QUEUES)}")
    rate = _number(row.get("messages_per_second", ""))
    if not 0 < rate <= _RATE_MAX:
        raise ValueError(f"{place}: messages_per_second must be a number greater than 0, at most 1,000,000")
    written = row.get("burst", "").strip() or "1"
    if not (is_whole(written) and 1 <= int(written) <= _BURST_MAX):
        raise ValueError(f"{place}: burst must be a whole number from 1 to {_BURST_MAX:,}")
    return Peak(organisation, queue, rate, int(written))


def _number(text: str) -> float:
    try:
        value = real(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
