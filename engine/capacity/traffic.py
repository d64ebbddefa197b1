"""Records of the busiest minutes that were recorded, and the peaks that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.capacity.peaks import Peak
from engine.capacity.response_times import ResponseTimes, of_quantiles
from engine.records import Queue

_SECONDS = 60
_PARTS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class BusyOrganisation(msgspec.Struct, frozen=True, kw_only=True):
    """What one organisation sent in a queue's busiest minute."""

    organisation_id: int
    messages: int
    # Most of them that arrived at once.
    burst: int


class BusyMinute(msgspec.Struct, frozen=True, kw_only=True):
    """The busiest minute of one queue."""

    queue: Queue
    # When it began, seconds since 1970.
    at_s: int
    # Of all organisations.
    messages: int
    segments: int
    # The busiest ones.
    organisations: list[BusyOrganisation]
    # How long providers took to answer about then, milliseconds, by p50, p95 and p99; empty: not known.
    response_ms: dict[str, float] = {}


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """The busiest minutes of all queues in which anything was accepted."""

    days: int
    busiest: list[BusyMinute]


def peaks_of(minutes: Sequence[BusyMinute]) -> list[Peak]:
    """The peaks of busiest minutes; organisations that are not named are one, with single messages."""
    found = []
    for minute in minutes:
        found += [
            Peak(str(o.organisation_id), minute.queue, o.messages / _SECONDS, o.burst)
            for o in minute.organisations
        ]
        others = minute.messages - sum(o.messages for o in minute.organisations)
        if others > 0:
            found.append(Peak("others", minute.queue, others / _SECONDS))
    return found


def segments_of(minutes: Sequence[BusyMinute]) -> float:
    """Segments a message, in the mean of busiest minutes; 1 without any message."""
    messages = sum(minute.messages for minute in minutes)
    return sum(minute.segments for minute in minutes) / messages if messages else 1.0


def response_times_of(minute: BusyMinute) -> ResponseTimes | None:
    """How long providers took to answer; None: that is not known."""
    if set(minute.response_ms) != set(_PARTS):
        return None
    pairs = [(part, minute.response_ms[name] / 1000) for name, part in _PARTS.items()]
    text = ",".join(f"{name}={minute.response_ms[name]:.3g}ms" for name in _PARTS)
    return of_quantiles(pairs, text)
