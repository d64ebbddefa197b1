"""Reports over all divisions.

An organisation's report is its division's. Of all organisations each division is asked, and its counts are
added up: each event is counted in one division, with its times by class, which add up too (quantiles do not).
Each division has series of its own, counted so far as it is, and what came later beside them; so a report is
put together in each division by itself.
"""

from __future__ import annotations

from engine.activity.reports import Report, ReportQuery
from engine.errors import Unavailable
from engine.stores.clickhouse._report_sums import ReportSums
from engine.stores.clickhouse.division import Divided, all_of
from engine.stores.clickhouse.report_statements import GROUPS_MAX
from engine.stores.clickhouse.reports import ClickHouseReports, add, report_of, sums_of

# Groups that come to nothing, where counts are moved from day to day (`report_together`), are few.
_GROUPS_MAX = 4 * GROUPS_MAX


class DividedReports(Divided[ClickHouseReports]):
    """Reads reports. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str) -> None:
        """As `ClickHouseReports`; `url` may be several."""
        super().__init__(url, ClickHouseReports)

    async def summary(self, query: ReportQuery) -> Report:
        """The report that the query asks for. Raises Refusal 422 when it has too many rows, or reads too
        many in a division."""
        if query.organisation_id is not None:
            return await self.of(query.organisation_id).summary(query)
        if len(self.divisions) == 1:
            return await self.divisions[0].summary(query)
        found = await all_of(division.answers(query) for division in self.divisions)
        answers = [answer for _, of_division in found for answer in of_division]
        sums = ReportSums(_GROUPS_MAX)
        for answer in answers:
            try:
                await add(sums, answer)
            except ValueError as e:
                raise Unavailable("A division of ClickHouse has answered with half a report.") from e
        return await report_of(query, all(complete for complete, _ in found), await sums_of(sums, answers))
