from collections.abc import Callable, Collection, Sequence

from engine.activity.reports import Group, ReportRow, Sums

def prepare(
    effects: Sequence[tuple[Sequence[int], bool, bool, bool, bool]],
    known: Collection[int],
    country_of: Callable[[int], str],
) -> None:
    """Before any rows are made: the effects of the events in `SUMMED` (by status in `ENDED` how many messages
    more, whether they move units, begin, capture, release); the places in `ENDED` of messages of which it is
    known whether they were delivered; and what countries are called."""

def rows_of(
    sums: Sums, group_by: Sequence[Group], begins: Callable[[int], str], of_provider: bool
) -> list[ReportRow]:
    """As `engine.activity.report_rows.rows_of`."""
