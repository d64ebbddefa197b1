"""Rule: which counts of a series a report is read from.

Of whole days the days, and of whole months the months; of other times the hours, where there are such counts,
and what is left the quarters of an hour. Of all these those with the fewest groups that the report can do
with (`added_of`)."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from engine.activity.report_rolling import Series
from engine.activity.reports import ReportQuery
from engine.stores.clickhouse.local_time import offsets_of
from engine.stores.clickhouse.report_narrow_sql import ALONE, BY, DAY, HOURS, MONTH, QUARTER, QUARTER_S
from engine.stores.clickhouse.report_period_sql import HOUR_MEMBERS, HOUR_S, MEMBERS

# A report of so many whole days is put together.
DAYS_MIN = 3
_DAY_S = 86_400
_EPOCH = date(1970, 1, 1)
# All names of this zone are one.
_UTC = ("UTC", "Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal")
# Quarters in an hour.
_QUARTERS = 4
# Of what begins so many quarters of an hour after 1970.
_HOUR_OF_DAY = "intDiv(begins, 4) % 24"


def zone_of(query: ReportQuery) -> str:
    """The zone in whose days a report is put together: UTC where its own has the same days all the while, as
    London has in winter."""
    if query.time_zone in _UTC:
        return "UTC"
    offsets = offsets_in(query.time_zone, query.from_s, query.until_s)
    return query.time_zone if any(ahead_s for _, ahead_s in offsets) else "UTC"


def is_long(query: ReportQuery) -> bool:
    """Whether a report has several days, and shows neither minutes nor what is not counted."""
    finer = {"minute", "reference"} & set(query.group_by) or query.campaign
    return not finer and query.until_s - query.from_s >= DAYS_MIN * _DAY_S


class Days(NamedTuple):
    """The whole days of a report: the first, and the one after the last; and when these begin, seconds since
    1970."""

    first: date
    last: date
    first_s: int
    last_s: int


def days_of(query: ReportQuery, zone: tzinfo, now_s: float) -> Days:
    """The whole days of a report in a time zone. The day in which it ends is whole as well when the end is
    not before `now_s`, seconds since 1970: nothing was accepted since."""
    first = datetime.fromtimestamp(query.from_s, zone).date()
    if midnight(first, zone) < query.from_s:
        first += timedelta(1)
    last = datetime.fromtimestamp(query.until_s, zone).date()
    if query.until_s >= now_s and midnight(last, zone) < query.until_s:
        last += timedelta(1)
    return Days(first, last, midnight(first, zone), midnight(last, zone))


def midnight(day: date, zone: tzinfo) -> int:
    """When a day begins in a time zone, seconds since 1970."""
    return int(datetime.combine(day, time(), zone).timestamp())


def added_of(query: ReportQuery, series: Series) -> int:
    """Of the counts of a series those that a report is read from, as what is added to the numbers of days and
    months of the counts with all groups."""
    if by_members(query):
        return MEMBERS
    asked = [name for name in BY if name in query.group_by or getattr(query, name)]
    if not series.narrow or len(asked) > 1:
        return 0
    return BY[asked[0]] if asked else ALONE


def by_members(query: ReportQuery) -> bool:
    """Whether a report says no more than how many of what each organisation has."""
    return (
        query.organisation_id is None
        and "organisation" in query.group_by
        and not set(query.group_by) & {"queue", "country", "provider"}
        and not (query.queue or query.country or query.provider)
    )


def whole(query: ReportQuery, days: Days, added: int) -> list[str]:
    """The periods of the whole days of a report, in SQL. `added`: as of `added_of`."""
    first, last = days.first, days.last
    month = (first.replace(day=1) + timedelta(31)).replace(day=1) if first.day > 1 else first
    until = last.replace(day=1)
    if "day" in query.group_by or month >= until:
        return [between(DAY + added, (first - _EPOCH).days, (last - _EPOCH).days)]
    numbers = [(d - _EPOCH).days for d in (first, month, until, last)]
    kinds = zip((DAY, MONTH, DAY), pairwise(numbers), strict=True)
    return [between(kind + added, *ends) for kind, ends in kinds if ends[0] < ends[1]]


def parts_of_days(query: ReportQuery, begin_s: int, end_s: int, added: int) -> list[str]:
    """The periods, in SQL, of a part of a report that is not of whole days. `added`: as of `added_of`."""
    if added in (0, MEMBERS):
        return _wide(query, begin_s, end_s, added)
    phases = tuple(HOURS) if added == ALONE else (0,)
    found = []
    for segment_s, until_s, ahead_s in _segments(query, begin_s, end_s):
        # A quarter of an hour has the offset that the zone has at its begin.
        begin, end = -(-segment_s // QUARTER_S), -(-until_s // QUARTER_S)
        phase_s = -ahead_s % HOUR_S
        split = phase_s not in phases and phase_s % QUARTER_S == 0 and "hour" not in query.group_by
        if split:
            phase_s = 0
        first, last = (_hour_from(place, phase_s // QUARTER_S) for place in (begin, end))
        last -= _QUARTERS if last > end else 0
        if phase_s not in phases or first >= last:
            found.append(between(QUARTER, begin, end))
            continue
        hours = between(added + HOURS[phase_s], first, last)
        if split:
            # The days of the zone begin within an hour of UTC: of that one the quarters are read.
            hour = -ahead_s % _DAY_S // HOUR_S
            found.append(f"({between(QUARTER, first, last)} AND {_HOUR_OF_DAY} = {hour})")
            hours = f"({hours} AND {_HOUR_OF_DAY} != {hour})"
        edges = ((begin, first), (last, end))
        found += [hours, *(between(QUARTER, *edge) for edge in edges if edge[0] < edge[1])]
    return found


def _wide(query: ReportQuery, begin_s: int, end_s: int, added: int) -> list[str]:
    """As `parts_of_days`, of counts that are not narrow: of members there are hours of UTC."""
    begin, end = begin_s // QUARTER_S, end_s // QUARTER_S
    hours = (-(-begin_s // HOUR_S), end_s // HOUR_S)
    # In some zones an hour of UTC is in two days.
    if not added or {"hour", "day"} & set(query.group_by) or hours[0] >= hours[1]:
        return [between(QUARTER + added, begin, end)]
    edges = [(begin, hours[0] * HOUR_S // QUARTER_S), (hours[1] * HOUR_S // QUARTER_S, end)]
    quarters = [between(QUARTER + added, *edge) for edge in edges if edge[0] < edge[1]]
    return [between(HOUR_MEMBERS, *hours), *quarters]


def _segments(query: ReportQuery, begin_s: int, end_s: int) -> list[tuple[int, int, int]]:
    """The parts of a time in which the zone of the report has one offset: where they begin and end, and the
    offset, seconds. A report that shows no hours and days may use those of UTC."""
    if not {"hour", "day"} & set(query.group_by):
        return [(begin_s, end_s, 0)]
    offsets = offsets_in(query.time_zone, query.from_s, query.until_s)
    ends = [since_s for since_s, _ in offsets[1:]] + [query.until_s]
    found = [
        (max(begin_s, since_s), min(end_s, until_s), ahead_s)
        for (since_s, ahead_s), until_s in zip(offsets, ends, strict=True)
    ]
    return [segment for segment in found if segment[0] < segment[1]]


@lru_cache(32)
def offsets_in(zone: str, from_s: int, until_s: int) -> list[tuple[int, int]]:
    """As `offsets_of`, of a zone by its name: a report needs them in several places."""
    return offsets_of(ZoneInfo(zone), from_s, until_s)


def _hour_from(quarter: int, phase: int) -> int:
    """The first hour that does not begin before a quarter of an hour; each begins so many quarters after a
    whole one."""
    return quarter + (phase - quarter) % _QUARTERS


def between(period: int, begin: int, end: int) -> str:
    """The counts of a period that begin in that time, in SQL."""
    return f"(period = {period} AND begins >= {begin} AND begins < {end})"
