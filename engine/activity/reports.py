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
from typing import Literal, NamedTuple

import msgspec

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
# All that are counted, and of which of them times are shown: how long providers took to answer, and how long
# after the acceptance the event came.
SUMMED: tuple[str, ...] = (*COUNTED, RESENT)
TIMED = (("sent", "answer_us"), ("sent", "age_us"), ("delivered", "age_us"))

# The statuses in which a message has ended without a receipt, by event.
_ENDS: dict[str, Status] = {
    event: meaning.status
    for event, meaning in EVENTS.items()
    if meaning.entry == "done" and meaning.status != "sent"
}
LINES: tuple[Status, ...] = (
    "accepted", "sent", "outcome_unknown", "canceled", "expired", "failed", "undelivered", "delivered",
)  # fmt: skip
ENDED: tuple[Status, ...] = tuple(status for status in LINES if status != "accepted")


class Effect(NamedTuple):
    """What one more event of a kind changes in the numbers of a group."""

    # Places in `ENDED` of statuses that have one message more, and one less.
    more: tuple[int, ...] = ()
    less: tuple[int, ...] = ()
    # What is sent again holds no units: they stay with the first attempt.
    moves_units: bool = True
    begins: bool = False
    captures: bool = False
    releases: bool = False


def _effect_of(event: MessageEvent) -> Effect:
    """See the lines at the top of the module."""
    meaning, receipt = EVENTS[event], event in ("delivered", "undelivered")
    ends = receipt or event == "sent" or event in _ENDS
    return Effect(
        more=(ENDED.index(meaning.status),) if ends else (),
        less=(ENDED.index("sent"),) if receipt else (),
        begins=meaning.charge == "holds",
        captures=meaning.charge == "captures",
        releases=meaning.charge == "releases",
    )


EFFECTS: dict[str, Effect] = {event: _effect_of(event) for event in EVENTS}
EFFECTS[RESENT] = Effect(less=(ENDED.index("sent"),), moves_units=False)
# Places in `ENDED`: of messages with these it is known whether they were delivered.
KNOWN = tuple(ENDED.index(status) for status in ("delivered", "undelivered", "failed", "expired"))


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


class Sums(NamedTuple):
    """How often each event came in each group."""

    # The values of the query's `group_by` without `status`, in order, as the tables have them; each once.
    groups: list[tuple[str | int, ...]]
    # By group and event (`SUMMED`): how many, segments and units, each of 64 bits.
    numbers: bytes
    # By group and times (`TIMED`): p50, p95 and p99, microseconds, as numbers of 64 bits; NaN when there are
    # none.
    times: bytes


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
