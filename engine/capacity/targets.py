"""Rule: what is promised, such as `express p99 <= 2s`: of the messages of a queue, that part is sent in time.

The latency of a message is the time from its submission to the answer of the provider that accepted it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from engine.capacity import durations
from engine.records import QUEUES, Queue

ALLOWED = "a queue, a quantile and a time, such as 'express p99 <= 2s'"
_TARGET = re.compile(r"\s*(\w+)\s+p(\d{1,2}(?:\.\d{1,2})?)\s*(?:<=|≤|<)\s*(.+)", re.DOTALL | re.ASCII)


class Target(NamedTuple):
    """`part` (0 to 1) of the messages of `queue` are sent within `latency_s` seconds."""

    queue: Queue
    part: float
    latency_s: float

    def __str__(self) -> str:
        return f"{self.queue} p{self.part * 100:g} <= {durations.show(self.latency_s)}"


def parse(text: str) -> Target:
    """A target from its text. Raises ValueError, whose text says what is allowed."""
    found = _TARGET.fullmatch(text)
    queue = next((q for q in QUEUES if found and q == found[1].lower()), None)
    if not found or queue is None:
        raise ValueError(f"{text.strip()!r} must be {ALLOWED}; queues are {' and '.join(QUEUES)}")
    part = float(found[2]) / 100
    if not 0 < part < 1:
        raise ValueError(f"{text.strip()!r}: the quantile must be greater than p0 and less than p100")
    try:
        latency_s = durations.parse(found[3])
    except ValueError as e:
        raise ValueError(f"{text.strip()!r}: the time must be {e}") from None
    if latency_s <= 0:
        raise ValueError(f"{text.strip()!r}: the time must be greater than 0")
    return Target(queue, part, latency_s)
