"""The rows of a report as `engine.activity.reports` says, in plain Python: `report_rows` says the same."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any, Literal

import msgspec

from engine.activity.countries import country_of
from engine.activity.reports import EFFECTS, ENDED, KNOWN, LINES, TIMES, Group, Quantiles, ReportRow

_NONE = [0] * len(ENDED)
_DELIVERED = ENDED.index("delivered")


class EventSum(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How often one event came in one group."""

    # The values of the query's `group_by` without `status`, in order, as the tables have them.
    group: tuple[str | int, ...]
    event: str
    events: int
    segments: int
    units: int
    # How long providers took to answer, and from the acceptance to the event: p50, p95, p99, microseconds;
    # NaN when there are none.
    answer_us: Sequence[float] = ()
    age_us: Sequence[float] = ()


class _Counts:
    """Of one group: messages, segments and units by status, but for `accepted`, in the order of `ENDED`;
    what began, in the same three measures; units by charge; and the events with times."""

    __slots__ = ("begun", "captured", "ended", "released", "retries", "times")

    def __init__(self) -> None:
        self.ended: tuple[list[int], list[int], list[int]] = (_NONE.copy(), _NONE.copy(), _NONE.copy())
        self.begun = [0, 0, 0]
        self.captured = self.released = self.retries = 0
        self.times: dict[str, EventSum] = {}

    def add(self, found: EventSum) -> None:
        """Add all events of a kind; each kind once."""
        effect = EFFECTS[found.event]
        events, segments, units = self.ended
        of_units = found.units if effect.moves_units else 0
        for place in effect.more:
            events[place] += found.events
            segments[place] += found.segments
            units[place] += of_units
        for place in effect.less:
            events[place] -= found.events
            segments[place] -= found.segments
            units[place] -= of_units
        if effect.begins:
            self.begun[0] += found.events
            self.begun[1] += found.segments
            self.begun[2] += found.units
        elif effect.captures:
            self.captured += found.units
        elif effect.releases:
            self.released += found.units
        if found.event == "retrying":
            self.retries = found.events
        elif found.event in ("sent", "delivered"):
            self.times[found.event] = found

    def quantiles(self, event: str, of: Literal["answer_us", "age_us"]) -> Quantiles | None:
        """Those of `sent` or `delivered`; None when there are none."""
        if (found := self.times.get(event)) is None:
            return None
        values = found.answer_us if of == "answer_us" else found.age_us
        if len(values) != 3:
            return None
        p50, p95, p99 = values
        if math.isnan(p50):
            return None
        # Whole microseconds.
        return Quantiles(int(p50 + 0.5) / 1000, int(p95 + 0.5) / 1000, int(p99 + 0.5) / 1000)

    def left(self) -> tuple[int, int, int, int]:
        """Messages, segments and units that have not ended, and units that are held."""
        (events, segments, units), begun = self.ended, self.begun
        held = begun[2] - self.captured - self.released
        return begun[0] - sum(events), begun[1] - sum(segments), begun[2] - sum(units), held


def rows_of(
    sums: Iterable[EventSum], group_by: Sequence[Group], zone: tzinfo, *, of_provider: bool = False
) -> list[ReportRow]:
    """The rows of a report, in the order of their groups; `zone`: that of its times. `of_provider`: the sums
    are those of one provider alone, with which nothing is that has not ended."""
    named = [name for name in group_by if name != "status"]
    groups: dict[tuple[str | int, ...], _Counts] = defaultdict(_Counts)
    for found in sums:
        groups[found.group].add(found)
    if of_provider:
        waiting: Mapping[tuple[str | int, ...], Sequence[int]] = {}
    elif "provider" in named:
        waiting = _waiting(groups, named.index("provider"))
    else:
        waiting = {group: counts.left() for group, counts in groups.items()}
    rows: list[ReportRow] = []
    made = _lines if "status" in group_by else _line
    # A place of all groups has either text or numbers.
    for group in sorted(groups):
        rows += made(_about(named, group, zone), groups[group], waiting.get(group, (0, 0, 0, 0)))
    return rows


def _waiting(
    groups: dict[tuple[str | int, ...], _Counts], place: int
) -> dict[tuple[str | int, ...], list[int]]:
    """What has not ended, by groups with no provider, which is at that place: what was accepted less what has
    ended, with whichever provider. Such groups are there afterwards."""
    waiting: dict[tuple[str | int, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for group, counts in list(groups.items()):
        whole = (*group[:place], "", *group[place + 1 :])
        groups[whole]
        for i, much in enumerate(counts.left()):
            waiting[whole][i] += much
    return waiting


def _lines(about: Mapping[str, Any], counts: _Counts, waiting: Sequence[int]) -> list[ReportRow]:
    """A row for each status that any message of the group has."""
    lines = {status: list(sums) for status, *sums in zip(ENDED, *counts.ended, strict=True)}
    lines["accepted"] = list(waiting[:3])
    return [
        ReportRow(**about, status=status, messages=messages, segments=segments, units=units)
        for status, (messages, segments, units) in ((status, lines[status]) for status in LINES)
        if messages or segments or units
    ]


def _line(about: Mapping[str, Any], counts: _Counts, waiting: Sequence[int]) -> list[ReportRow]:
    """The row of a group; none when no message is in it."""
    events, segments, units = counts.ended
    messages, captured, released = waiting[0] + sum(events), counts.captured, counts.released
    if not (messages or counts.retries or captured or released or any(events)):
        return []
    statuses: dict[str, Any] = dict(zip(ENDED, events, strict=True))
    known = sum([events[place] for place in KNOWN])
    delivered = events[_DELIVERED]
    return [
        ReportRow(
            **about,
            messages=messages,
            segments=waiting[1] + sum(segments),
            units=waiting[2] + sum(units),
            accepted=waiting[0],
            **statuses,
            retries=counts.retries,
            held=waiting[3],
            captured=captured,
            released=released,
            delivery_rate=round(delivered / known, 6) if known > 0 else None,
            answer_ms=counts.quantiles("sent", "answer_us"),
            sent_after_ms=counts.quantiles("sent", "age_us"),
            delivered_after_ms=counts.quantiles("delivered", "age_us"),
        )
    ]


def _about(named: Sequence[Group], group: Sequence[str | int], zone: tzinfo) -> dict[str, str | int]:
    """The group as the fields of a row that name it."""
    about: dict[str, str | int] = {}
    for name, value in zip(named, group, strict=True):
        if name in TIMES:
            about["time"] = datetime.fromtimestamp(int(value), zone).isoformat()
        elif name == "country":
            about["country"] = country_of(int(value))
        else:
            about[name] = value
    return about
