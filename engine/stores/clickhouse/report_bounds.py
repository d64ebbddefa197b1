"""Rule: how large a report may be, and what one that is larger is refused with.

To add up the times of a count takes half a microsecond of a processor, so a bound on how many counts are read
is one on how long a report takes, whatever it is grouped by. Most reports read some ten thousand, however
many messages they are about. What reads more does so because the counts that it needs are not there: those of
the days of a time zone that nobody asked for before, or those of a part of a day of many organisations. The
refusal says so.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

from engine.activity.report_rolling import Series
from engine.activity.reports import ReportQuery
from engine.errors import Refusal
from engine.stores.clickhouse.report_cover import days_of, zone_of

# Most counts that a report reads. By hour with all groups the largest organisation of a thousand
# million events a year has 210,000 in 31 days.
COUNTS_MAX = 400_000
_OTHERWISE = "Ask for a shorter period or for fewer groups."


def needs_days_of_zone(query: ReportQuery, whole: Series | None, now_s: float) -> bool:
    """Whether a report that is put together would read less if the days of its time zone were counted.
    `whole`: the series that its whole days are read from; `now_s`: seconds since 1970."""
    zone = zone_of(query)
    if zone == "UTC" or "hour" in query.group_by or (whole is not None and whole.zone == zone):
        return False
    return "day" in query.group_by or not _parts_of_days(query, zone, now_s)


def too_many_counts(query: ReportQuery, whole: Series | None, now_s: float) -> Refusal:
    """What a report that is put together is refused with when it reads more than `COUNTS_MAX`; the arguments
    are those of `needs_days_of_zone`."""
    if needs_days_of_zone(query, whole, now_s):
        return too_large(
            f"the days of {query.time_zone} are not counted yet",
            "Ask again later, or now for a shorter period, for fewer groups or in days of UTC.",
        )
    zone = "UTC" if whole is None else whole.zone
    parts = [] if "hour" in query.group_by else _parts_of_days(query, zone, now_s)
    if parts:
        # Whether its whole days alone would be few enough nobody has counted.
        ends = " and ".join(parts)
        return too_large(
            f"it reads too much, and more so because it {ends} within a day of {zone}",
            f"Ask for one that {ends} at midnight, {zone}, for a shorter period or for fewer groups.",
        )
    return too_large("it reads too much", _OTHERWISE)


def too_many_groups(most: int) -> Refusal:
    """What a report with more groups than `most` is refused with."""
    return too_large(f"it has more than {most:,} groups")


def too_large(why: str, otherwise: str = _OTHERWISE) -> Refusal:
    """The refusal of a report for its size."""
    return Refusal("report_too_large", 422, f"The report is too large: {why}. {otherwise}")


def _parts_of_days(query: ReportQuery, zone: str, now_s: float) -> list[str]:
    """Which of "begins" and "ends" a report does within a day of a zone."""
    days = days_of(query, ZoneInfo(zone), now_s)
    parts = {"begins": query.from_s < days.first_s, "ends": days.last_s < query.until_s}
    return [end for end, is_within in parts.items() if is_within]
