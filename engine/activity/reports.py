"""Rule: what reports say, from the counts of events.

All counts of a period are those of the messages that were *accepted* in it, whenever their events came. So
each message is in one period only, and a report may change until its last messages have ended.

A message counts once, under the status it has now (`engine.lifecycle`). The tables have no statuses, only how
often each event came, because a message's status changes and a count that has been added up cannot be. The
numbers of messages by status are differences of those counts:

    delivered         delivered
    undelivered       undelivered
    sent              sent - resent - delivered - undelivered
    failed, expired, canceled, outcome_unknown     themselves
    accepted          (accepted + scheduled) - (sent - resent) - failed - expired - canceled - outcome_unknown

They add up to accepted + scheduled, which is the number of messages, in every group and at every moment:
each event takes a message out of one line and adds it to another. `accepted` has everything that has not
ended: what waits, is scheduled, is to be tried again, or is set aside. `resent` is a message that a
provider had taken and that is sent again after its receipt: it waits again.

Bound of this. A message with two receipts that contradict each other (undelivered, then delivered; or one
for each of two attempts) counts in both of their lines, and once less in `sent`; one that was delivered
although its attempts ended without an answer counts in `delivered` and in its former line, and once less in
`sent`. The sum is right all the same. The history of the message shows what happened.

By provider: a message is with the provider of the event that it counts by, and what has not ended is with
none, "". Units: `captured`, `released` and `held` follow the events that moved them, so they agree with the
books.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any, Literal, NamedTuple

import msgspec

from engine.activity.countries import country_of
from engine.lifecycle import EVENTS, MessageEvent, Status

Group = Literal[
    "status", "queue", "provider", "country", "reference", "organisation", "minute", "hour", "day"
]
Order = Literal["time", "messages", "failure", "latency"]
# Of which one report has one at most.
TIMES: tuple[Group, ...] = ("minute", "hour", "day")
# What the period of a report may be, as the API and the command line say it.
PERIODS = (
    "Periods begin and end at quarters of an hour, by minute at whole minutes. They are ten years long at "
    "most, 31 days by hour, by reference and of a campaign, 7 days by hour and two other groups beside "
    "status, a day by minute: days of the time zone."
)
# `retrying` of a message that a provider had taken before.
RESENT = "resent"
# The events that the tables count, but for those that are `resent` there.
COUNTED = tuple(event for event in EVENTS if event not in ("dead", "receipt"))

# The statuses in which a message has ended without a receipt, by event.
_ENDS: dict[str, Status] = {
    event: meaning.status
    for event, meaning in EVENTS.items()
    if meaning.entry == "done" and meaning.status != "sent"
}
_LINES: tuple[Status, ...] = (
    "accepted", "sent", "outcome_unknown", "canceled", "expired", "failed", "undelivered", "delivered",
)  # fmt: skip
_ENDED: tuple[Status, ...] = tuple(status for status in _LINES if status != "accepted")


class _Effect(NamedTuple):
    """What one more event of a kind changes in the numbers of a group."""

    # Places in `_ENDED` of statuses that have one message more, and one less.
    more: tuple[int, ...] = ()
    less: tuple[int, ...] = ()
    # What is sent again holds no units: they stay with the first attempt.
    moves_units: bool = True
    begins: bool = False
    captures: bool = False
    releases: bool = False


def _effect_of(event: MessageEvent) -> _Effect:
    """See the lines at the top of the module."""
    meaning, receipt = EVENTS[event], event in ("delivered", "undelivered")
    ends = receipt or event == "sent" or event in _ENDS
    return _Effect(
        more=(_ENDED.index(meaning.status),) if ends else (),
        less=(_ENDED.index("sent"),) if receipt else (),
        begins=meaning.charge == "holds",
        captures=meaning.charge == "captures",
        releases=meaning.charge == "releases",
    )


_EFFECTS: dict[str, _Effect] = {event: _effect_of(event) for event in EVENTS}
_EFFECTS[RESENT] = _Effect(less=(_ENDED.index("sent"),), moves_units=False)
_NONE = [0] * len(_ENDED)
_DELIVERED = _ENDED.index("delivered")
# Of messages with these it is known whether they were delivered.
_KNOWN = tuple(_ENDED.index(status) for status in ("delivered", "undelivered", "failed", "expired"))


class ReportQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages a report is about, and how they are grouped."""

    # Of the acceptance, seconds since 1970; before `until_s`.
    from_s: int
    until_s: int
    group_by: tuple[Group, ...]
    # IANA name; of hours and days.
    time_zone: str = "UTC"
    # None: of all.
    organisation_id: int | None = None
    queue: str = ""
    provider: str = ""
    # ISO 3166.
    country: str = ""
    # Only messages of this campaign (`engine.activity.campaigns`).
    campaign: str = ""


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


class Quantiles(msgspec.Struct, frozen=True, gc=False):
    """Quantiles of a duration, milliseconds."""

    p50: float
    p95: float
    p99: float


class ReportRow(msgspec.Struct, kw_only=True, gc=False):
    """One group of a report. What it is not grouped by is left out, and so are, by status, all but the first
    three numbers."""

    # When the minute, hour or day begins, RFC 3339 in the time zone of the report.
    time: str | msgspec.UnsetType = msgspec.UNSET
    organisation: int | msgspec.UnsetType = msgspec.UNSET
    status: Status | msgspec.UnsetType = msgspec.UNSET
    queue: str | msgspec.UnsetType = msgspec.UNSET
    # "": what has not ended, or ended without a provider.
    provider: str | msgspec.UnsetType = msgspec.UNSET
    # ISO 3166; "001": none.
    country: str | msgspec.UnsetType = msgspec.UNSET
    # What the references begin with.
    reference: str | msgspec.UnsetType = msgspec.UNSET
    messages: int = 0
    segments: int = 0
    units: int = 0
    # Messages by status.
    accepted: int | msgspec.UnsetType = msgspec.UNSET
    sent: int | msgspec.UnsetType = msgspec.UNSET
    outcome_unknown: int | msgspec.UnsetType = msgspec.UNSET
    canceled: int | msgspec.UnsetType = msgspec.UNSET
    expired: int | msgspec.UnsetType = msgspec.UNSET
    failed: int | msgspec.UnsetType = msgspec.UNSET
    undelivered: int | msgspec.UnsetType = msgspec.UNSET
    delivered: int | msgspec.UnsetType = msgspec.UNSET
    # Attempts that failed for now.
    retries: int | msgspec.UnsetType = msgspec.UNSET
    # Units by charge.
    held: int | msgspec.UnsetType = msgspec.UNSET
    captured: int | msgspec.UnsetType = msgspec.UNSET
    released: int | msgspec.UnsetType = msgspec.UNSET
    # Of the messages of which it is known whether they were delivered (delivered, undelivered, failed,
    # expired) the part that was; null when there are none.
    delivery_rate: float | msgspec.UnsetType | None = msgspec.UNSET
    # How long providers took to answer; null without an attempt.
    answer_ms: Quantiles | msgspec.UnsetType | None = msgspec.UNSET
    # From the acceptance until a provider took the message, and until it arrived.
    sent_after_ms: Quantiles | msgspec.UnsetType | None = msgspec.UNSET
    delivered_after_ms: Quantiles | msgspec.UnsetType | None = msgspec.UNSET


class Report(msgspec.Struct, kw_only=True):
    """The messages that were accepted in a period, in groups."""

    # Times as RFC 3339.
    from_time: str
    until_time: str
    time_zone: str
    # False: rows that were archived by an earlier version are still being counted.
    complete: bool
    rows: list[ReportRow]


class _Counts:
    """Of one group: messages, segments and units by status, but for `accepted`, in the order of `_ENDED`;
    what began, in the same three measures; units by charge; and the events with times."""

    __slots__ = ("begun", "captured", "ended", "released", "retries", "times")

    def __init__(self) -> None:
        self.ended: tuple[list[int], list[int], list[int]] = (_NONE.copy(), _NONE.copy(), _NONE.copy())
        self.begun = [0, 0, 0]
        self.captured = self.released = self.retries = 0
        self.times: dict[str, EventSum] = {}

    def add(self, found: EventSum) -> None:
        """Add all events of a kind; each kind once."""
        effect = _EFFECTS[found.event]
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


def ordered(rows: list[ReportRow], order: Order, limit: int, messages_min: int) -> list[ReportRow]:
    """At most `limit` rows of groups with at least `messages_min` messages; the worst first by `failure` and
    `latency` (until a provider took the message, p95), the largest first by `messages`."""
    rows = [row for row in rows if abs(row.messages) >= messages_min]
    if order == "messages":
        rows.sort(key=lambda row: -row.messages)
    elif order == "failure":
        rows = [row for row in rows if isinstance(row.delivery_rate, float)]
        rows.sort(key=lambda row: (row.delivery_rate, -row.messages))
    elif order == "latency":
        rows.sort(key=lambda row: -_p95(row))
        rows = [row for row in rows if _p95(row) >= 0]
    return rows[:limit]


def _p95(row: ReportRow) -> float:
    return row.sent_after_ms.p95 if isinstance(row.sent_after_ms, Quantiles) else -math.inf


def _lines(about: Mapping[str, Any], counts: _Counts, waiting: Sequence[int]) -> list[ReportRow]:
    """A row for each status that any message of the group has."""
    lines = {status: list(sums) for status, *sums in zip(_ENDED, *counts.ended, strict=True)}
    lines["accepted"] = list(waiting[:3])
    return [
        ReportRow(**about, status=status, messages=messages, segments=segments, units=units)
        for status, (messages, segments, units) in ((status, lines[status]) for status in _LINES)
        if messages or segments or units
    ]


def _line(about: Mapping[str, Any], counts: _Counts, waiting: Sequence[int]) -> list[ReportRow]:
    """The row of a group; none when no message is in it."""
    events, segments, units = counts.ended
    messages, captured, released = waiting[0] + sum(events), counts.captured, counts.released
    if not (messages or counts.retries or captured or released or any(events)):
        return []
    statuses: dict[str, Any] = dict(zip(_ENDED, events, strict=True))
    known = sum([events[place] for place in _KNOWN])
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
