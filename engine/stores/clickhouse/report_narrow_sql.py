"""Rule: the SQL of narrow counts, which have one of queue, country and provider, or none of them.

A report over a year by hour, or by the days of a time zone that is not counted, would add up all
combinations of them, of which there may be hundreds in each quarter of an hour. The hours of zones that are
half an hour or a quarter off begin in the middle of those of UTC: so there are three kinds of hours without
any group.
"""

from __future__ import annotations

# Numbers of periods in `report_series`: with all groups, of an organisation or of all together.
DAY, MONTH, QUARTER = 1, 2, 3
QUARTER_S = 900
# Of narrow counts, the numbers of hours by when they begin after a whole hour of UTC, seconds; those with a
# group have the first alone.
HOURS = {0: 4, 900: 5, 1800: 6}
# What is added to the number of a day, month or hour in narrow counts: without a group, and with each.
ALONE = 10
BY = {"queue": 20, "country": 30, "provider": 40}
_KINDS = (ALONE, *BY.values())
NARROW_DAYS = tuple(DAY + kind for kind in _KINDS)
_GROUP = "queue, country, provider, event"
_MEASURES = "sum(events), sum(segments), sum(units), sumMap(answers), sumMap(ages), 0"


def _hour_sql(quarter: str, phase_s: int) -> str:
    """The first quarter of an hour in an hour that begins so long after a whole one; both since 1970."""
    phase = phase_s // QUARTER_S
    return f"toUInt32({quarter} - ({quarter} + {(4 - phase) % 4}) % 4)"


def begins_of_day_sql(day: str, month: str) -> list[tuple[int, str]]:
    """Periods of narrow counts and when they begin, in SQL, of a day and a month."""
    return [(kind + unit, begin) for kind in _KINDS for unit, begin in ((DAY, day), (MONTH, month))]


def begins_of_quarter_sql(quarter: str) -> list[tuple[int, str]]:
    """Periods of narrow counts and when they begin, in SQL, of a quarter of an hour."""
    found = [(ALONE + number, _hour_sql(quarter, phase_s)) for phase_s, number in HOURS.items()]
    return found + [(kind + HOURS[0], _hour_sql(quarter, 0)) for kind in BY.values()]


def kept_by_sql(group: str, kind: str) -> str:
    """A group in SQL where counts have it, and its default elsewhere; `kind`: what is added to the numbers of
    their periods."""
    return f"if({kind} IN (0, {BY[group]}), {group}, {0 if group == 'country' else repr('')})"


def _made_sql(inner: str, periods: list[tuple[int, str]]) -> str:
    """Counts `inner` once more for each of some periods."""
    added = ", ".join(f"({period}, {begin})" for period, begin in periods)
    kept = ", ".join(f"{kept_by_sql(group, 'intDiv(of_period, 10) * 10')} AS of_{group}" for group in BY)
    return f"""
SELECT zone, from_ms, filled, toUInt8(p.1) AS of_period, organisation_id, toUInt32(p.2) AS begin, 0,
    {kept}, event, {_MEASURES}
FROM ({inner}) ARRAY JOIN [{added}] AS p
GROUP BY zone, from_ms, filled, of_period, organisation_id, begin, {", ".join(f"of_{group}" for group in BY)},
    event"""  # noqa: S608 - our own names


def _added_up(begin: str, groups: str) -> str:
    """The counts by quarters of some days, added up before they are counted for several periods."""
    columns = (
        "sum(r.events) AS events, sum(r.segments) AS segments, sum(r.units) AS units, "
        "sumMap(r.answers) AS answers, sumMap(r.ages) AS ages"
    )
    return f"""
    SELECT zone, from_ms, filled, organisation_id, {begin} AS at, {groups}, event, {columns}
    FROM MADE AS r WHERE period = {QUARTER} AND begins >= toUInt32({{first:Date}}) * 96
        AND begins < toUInt32({{last:Date}}) * 96
    GROUP BY zone, from_ms, filled, organisation_id, at, {", ".join(BY)}, event"""  # noqa: S608 - our own names; values are parameters


_NO_GROUPS = "'' AS queue, toUInt16(0) AS country, '' AS provider"
_HOURS_ALONE = [(period, begin) for period, begin in begins_of_quarter_sql("at") if period < ALONE + 10]
_HOURS_BY = [(kind + HOURS[0], "at") for kind in BY.values()]
# Of the days from `first` until `last`, the narrow counts by hour from those of the quarters in `MADE`, and
# those by day from those of the days.
HOURS_ALONE_SQL = _made_sql(_added_up("begins", _NO_GROUPS), _HOURS_ALONE)
HOURS_BY_SQL = _made_sql(_added_up(_hour_sql("begins", 0), ", ".join(BY)), _HOURS_BY)
DAYS_SQL = _made_sql(
    f"SELECT * FROM MADE WHERE period = {DAY} AND begins >= toUInt32({{first:Date}}) "  # noqa: S608 - our own names
    "AND begins < toUInt32({last:Date})",
    [(period, "begins") for period in NARROW_DAYS],
)
