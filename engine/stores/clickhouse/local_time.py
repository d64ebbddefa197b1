"""Rule: hours and days of a time zone in SQL, for a server that does not know the zone.

ClickHouse makes a table of about 4.5 MB for each zone that it was ever asked for, and never frees it. Whoever
asks for a report may name any of 600. So it is told how far the zone is from UTC, and since when.
"""

from __future__ import annotations

from datetime import datetime, tzinfo
from itertools import pairwise

_DAY_S = 86_400
_HOUR_S = 3600


def offsets_of(zone: tzinfo, from_s: int, until_s: int) -> list[tuple[int, int]]:
    """How far a zone is ahead of UTC from `from_s` to `until_s`, seconds since 1970: the first instant of
    each offset, and the offset, seconds."""

    found = [(from_s, _offset(zone, from_s))]
    # No zone goes to another offset and back within a day.
    for begin_s in range(from_s, until_s, _DAY_S):
        end_s = min(begin_s + _DAY_S, until_s)
        ahead = _offset(zone, end_s)
        if ahead != found[-1][1]:
            found.append((_since(zone, ahead, begin_s, end_s), ahead))
    return found


def _since(zone: tzinfo, ahead: int, begin_s: int, end_s: int) -> int:
    """The first instant of the offset that the zone has at `end_s`, and did not have at `begin_s`."""
    while end_s - begin_s > 1:
        middle_s = (begin_s + end_s) // 2
        if _offset(zone, middle_s) == ahead:
            end_s = middle_s
        else:
            begin_s = middle_s
    return end_s


def _offset(zone: tzinfo, at_s: int) -> int:
    ahead = datetime.fromtimestamp(at_s, zone).utcoffset()
    return int(ahead.total_seconds()) if ahead else 0


def hour_sql(time: str, offsets: list[tuple[int, int]]) -> str:
    """When the hour of a time begins by the clocks of the zone, seconds since 1970."""
    seconds = _seconds(time)
    return f"{seconds} - ({seconds} + {_ahead(seconds, offsets)}) % {_HOUR_S}"


def day_sql(time: str, offsets: list[tuple[int, int]]) -> str:
    """The day of a time in the zone: days since 1970."""
    seconds = _seconds(time)
    return f"toUInt32(intDiv({seconds} + {_ahead(seconds, offsets)}, {_DAY_S}))"


def _seconds(time: str) -> str:
    return f"toInt64(toUnixTimestamp({time}))"


def _ahead(seconds: str, offsets: list[tuple[int, int]]) -> str:
    """The offset at that time."""
    if len(offsets) == 1:
        return f"({offsets[0][1]:d})"
    cases = [f"{seconds} < {until_s:d}, {ahead:d}" for (_, ahead), (until_s, _) in pairwise(offsets)]
    return f"multiIf({', '.join(cases)}, {offsets[-1][1]:d})"
