"""Rule: reports by the days of a zone, from days of UTC and what is moved between them.

By the clocks of a zone most of a day of UTC is in one day, and some hours are in the day before or after. So
a day of the zone is the one of UTC, less the hours that are in another, and with those of another that are in
it: of Berlin one or two hours in 24 are added up, and not all.

Each count that is moved is added where the zone's clocks have it, and taken off where UTC has it, if that is
read (`_report_sums`). So it does not matter which are read beside those that must be, as long as each is read
once: what is taken off where it is added is nothing.
"""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from typing import NamedTuple

from engine.activity.reports import ReportQuery
from engine.stores.clickhouse.report_cover import Days, between, offsets_in
from engine.stores.clickhouse.report_narrow_sql import ALONE, BY, DAY, HOURS, QUARTER, QUARTER_S
from engine.stores.clickhouse.report_period_sql import HOUR_S

# Where a count is added that is in no group, and taken off that is in none: as of `_report_sums`.
_NOWHERE = 0xFFFFFFFF
_DAY_S, _DAY_QUARTERS = 86_400, 96
_EPOCH = date(1970, 1, 1)


class Moved(NamedTuple):
    """What is read of a series, in SQL: periods, the time of the group that a count is added to, and that of
    the one it is taken off; and the part of the counts that is moved, at most."""

    periods: list[str]
    time: str
    off: str
    part: float


def moved(query: ReportQuery, days: Days, added: int) -> Moved | None:
    """What is read of the series of UTC; None: what lies between the ends of the report, as `parts_of_days`
    says. `days`: in the report's zone, which is not UTC (`zone_of`); `added`: as of `added_of`."""
    ahead = [ahead_s for _, ahead_s in _offsets(query)]
    if "hour" in query.group_by:
        return None
    step_s = HOUR_S if added in (ALONE, *BY.values()) else QUARTER_S
    ends = [query.from_s, *([query.until_s] if days.last_s < query.until_s else [])]
    if days.first >= days.last or not any(ahead) or any(time_s % step_s for time_s in (*ahead, *ends)):
        return None
    return _days(query, days, added, added + (HOURS[0] if step_s == HOUR_S else QUARTER))


def _days(query: ReportQuery, days: Days, added: int, part: int) -> Moved:
    """Of days; `part`: the period of what is moved."""
    first, last = (days.first - _EPOCH).days, (days.last - _EPOCH).days
    from_quarter, until_quarter = query.from_s // QUARTER_S, max(query.until_s, days.last_s) // QUARTER_S
    zones = f"toUInt32(intDiv(begins + {_ahead(query)}, {_DAY_QUARTERS}))"
    utc = f"intDiv(begins, {_DAY_QUARTERS})"
    is_read = f"{utc} >= {first} AND {utc} < {last}"
    parts = between(part, min(from_quarter, first * _DAY_QUARTERS), max(until_quarter, last * _DAY_QUARTERS))
    is_in = f"begins >= {from_quarter} AND begins < {until_quarter}"
    return Moved(
        # Of a day that is read, what the report begins after or ends before is taken off too.
        [between(DAY + added, first, last), f"({parts} AND NOT ({zones} = {utc} AND {is_read} AND {is_in}))"],
        f"multiIf(period = {DAY + added}, begins, {is_in}, {zones}, {_NOWHERE})",
        f"if(period = {part} AND {is_read}, {utc}, {_NOWHERE})",
        max(abs(ahead_s) for _, ahead_s in _offsets(query)) / _DAY_S,
    )


def _offsets(query: ReportQuery) -> list[tuple[int, int]]:
    return offsets_in(query.time_zone, query.from_s, query.until_s)


def _ahead(query: ReportQuery) -> str:
    """How far the zone is ahead of UTC in the quarter of an hour `begins`, in quarters, in SQL."""
    # A quarter of an hour has the offset that the zone has at its begin.
    ahead = [(-(-since_s // QUARTER_S), ahead_s // QUARTER_S) for since_s, ahead_s in _offsets(query)]
    cases = [f"begins < {until:d}, {of:d}" for (_, of), (until, _) in pairwise(ahead)]
    return f"multiIf({', '.join(cases)}, {ahead[-1][1]:d})" if cases else f"({ahead[0][1]:d})"
