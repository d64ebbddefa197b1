"""Rule: reports by the days or hours of a zone, from days or hours of UTC and what is moved between them.

By the clocks of a zone most of a day of UTC is in one day, and some hours are in the day before or after. So
a day of the zone is the one of UTC, less the hours that are in another, and with those of another that are in
it: of Berlin one or two hours in 24 are read and added up, and not all. The same is done for the hours of a
zone that is half an hour or a quarter off, with quarters of an hour.

Each count that is moved is added where the zone's clocks have it, and taken off where UTC has it, if that is
read (`_report_sums`). So it does not matter which are read beside those that must be, as long as each is read
once: what is taken off where it is added is nothing.
"""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from engine.activity.reports import ReportQuery
from engine.stores.clickhouse.report_cover import Days, between, offsets_in
from engine.stores.clickhouse.report_narrow_sql import ALONE, BY, DAY, HOURS, QUARTER, QUARTER_S
from engine.stores.clickhouse.report_period_sql import HOUR_S
from engine.stores.clickhouse.report_statements import time_sql

# Where a count is added that is in no group, and taken off that is in none: as of `_report_sums`.
_NOWHERE = 0xFFFFFFFF
_DAY_QUARTERS, _HOUR_QUARTERS = 96, 4
_EPOCH = date(1970, 1, 1)
_AT = f"fromUnixTimestamp(toUInt32(begins * {QUARTER_S}))"
_HOUR_AT = f"fromUnixTimestamp(toUInt32(intDiv(begins, {_HOUR_QUARTERS}) * {HOUR_S}))"


class Moved(NamedTuple):
    """What is read of a series, in SQL: periods, the time of the group that a count is added to, and that of
    the one it is taken off."""

    periods: list[str]
    time: str
    off: str


def moved(query: ReportQuery, days: Days, added: int) -> Moved | None:
    """What is read of the series of UTC; None: what lies between the ends of the report, as `parts_of_days`
    says. `days`: in the report's zone; `added`: as of `added_of`."""
    ahead = [ahead_s for _, ahead_s in offsets_in(query.time_zone, query.from_s, query.until_s)]
    if "hour" in query.group_by:
        is_off = any(ahead_s % HOUR_S for ahead_s in ahead)
        fits = added in BY.values() and is_off and not any(ahead_s % QUARTER_S for ahead_s in ahead)
        return _hours(query, added) if fits else None
    step_s = HOUR_S if added in (ALONE, *BY.values()) else QUARTER_S
    ends = [query.from_s, *([query.until_s] if days.last_s < query.until_s else [])]
    if days.first >= days.last or any(time_s % step_s for time_s in (*ahead, *ends)):
        return None
    return _days(query, days, added, added + (HOURS[0] if step_s == HOUR_S else QUARTER))


def _days(query: ReportQuery, days: Days, added: int, part: int) -> Moved:
    """Of days; `part`: the period of what is moved."""
    first, last = (days.first - _EPOCH).days, (days.last - _EPOCH).days
    from_quarter, until_quarter = query.from_s // QUARTER_S, max(query.until_s, days.last_s) // QUARTER_S
    zones, utc = time_sql(query, "day", _AT), f"intDiv(begins, {_DAY_QUARTERS})"
    is_read = f"{utc} >= {first} AND {utc} < {last}"
    parts = between(
        part, min(from_quarter, first * _DAY_QUARTERS), max(until_quarter, last * _DAY_QUARTERS)
    )
    is_in = f"begins >= {from_quarter} AND begins < {until_quarter}"
    return Moved(
        [between(DAY + added, first, last), f"({parts} AND NOT ({zones} = {utc} AND {is_read}))"],
        f"multiIf(period = {DAY + added}, begins, {is_in}, {zones}, {_NOWHERE})",
        f"if(period = {part} AND {is_read}, {utc}, {_NOWHERE})",
    )


def _hours(query: ReportQuery, added: int) -> Moved:
    """Of hours, with quarters of an hour that are moved."""
    begin, end = query.from_s // QUARTER_S, query.until_s // QUARTER_S
    first, last = -(-begin // _HOUR_QUARTERS) * _HOUR_QUARTERS, end // _HOUR_QUARTERS * _HOUR_QUARTERS
    # An hour of UTC is added where its begin is.
    zones, of_hour = (f"toUInt32({time_sql(query, 'hour', time)})" for time in (_AT, _HOUR_AT))
    is_read = f"begins >= {first} AND begins < {last}"
    parts = f"{between(QUARTER, begin, end)} AND NOT ({zones} = {of_hour} AND {is_read})"
    return Moved(
        [between(added + HOURS[0], first, last), f"({parts})"],
        zones,
        f"if(period = {QUARTER} AND {is_read}, {of_hour}, {_NOWHERE})",
    )
