"""Rule: the rows of a report, from how often each event came in each group; made in `_report_rows.pyx`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.activity import _report_rows
from engine.activity.countries import country_of
from engine.activity.reports import EFFECTS, ENDED, KNOWN, SUMMED, Effect, Group, ReportRow, Sums


def _numbers_of(effect: Effect) -> tuple[list[int], bool, bool, bool, bool]:
    """An effect as the rows are made with it: by status in which a message ends, how many more it has."""
    ended = [effect.more.count(place) - effect.less.count(place) for place in range(len(ENDED))]
    return ended, effect.moves_units, effect.begins, effect.captures, effect.releases


_report_rows.prepare([_numbers_of(EFFECTS[event]) for event in SUMMED], KNOWN, country_of)


def rows_of(
    sums: Sums, group_by: Sequence[Group], begins: Callable[[int], str], *, of_provider: bool = False
) -> list[ReportRow]:
    """The rows of a report, in the order of their groups. `begins`: the time of a group, as the tables have
    it, as RFC 3339. `of_provider`: the sums are those of one provider alone, with which nothing is that has
    not ended. Raises ValueError when the sums are not those of so many groups."""
    return _report_rows.rows_of(sums, group_by, begins, of_provider)
