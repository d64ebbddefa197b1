from collections.abc import Callable, Sequence

from engine.activity.reports import Group, ReportRow, Sums

def rows_of(
    sums: Sums, group_by: Sequence[Group], begins: Callable[[int], str], of_provider: bool = False
) -> list[ReportRow]:
    """The rows of a report, in the order of their groups. `begins`: the time of a group, as the tables have
    it, as RFC 3339. `of_provider`: the sums are those of one provider alone, with which nothing is that has
    not ended. Raises ValueError when the sums are not those of so many groups."""
