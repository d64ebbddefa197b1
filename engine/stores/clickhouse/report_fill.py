"""Counts the rows that were archived before the views of the reports stood.

A month of rows is counted into tables of its own, day by day, and then takes the place of the month's
partition of filled rows as a whole. So it may be done again, and by two processes at once: the same comes
out. What a process leaves behind when it is killed is tables that nobody reads; the next filling drops
them.
"""

from __future__ import annotations

import uuid

from engine.stores.clickhouse.counting import ClickHouseCounting

_DAY_S = 86_400


class ClickHouseReportFill(ClickHouseCounting):
    """The port `ReportFill`, of the counts by minute and by the quarter of an hour.

    Every call raises Unavailable, and ConfigError when an operator must act.
    """

    # Tables: from when on the view counts, and what is filled; and how the names begin of those of before.
    _start, _filled, _staging = "report_start", "report_filled", "report_filling_"

    async def due_ms(self) -> int:
        """Rows of the streams before this time, milliseconds since 1970, are to be counted; 0: none are."""
        sql = f"SELECT (SELECT max(from_ms) FROM {self._start}), (SELECT max(until_ms) FROM {self._filled})"  # noqa: S608 - our own names
        [(from_ms, until_ms)] = await self._query(sql)
        return int(from_ms) if from_ms > until_ms else 0

    async def fill(self, until_ms: int) -> None:
        """Count all rows of the streams before `until_ms`, and note that it is done.

        They must all be in the table. Killed or never answered: nothing of a month was counted, or all.
        """
        await self._drop_leftovers(self._staging)
        staging = f"{self._staging}{uuid.uuid4().hex}"
        for month in await self._months():
            await self._fill_month(month, staging)
        await self._note(until_ms)

    async def _months(self) -> list[int]:
        found = await self._query("SELECT DISTINCT toYYYYMM(accepted_at) FROM activity")
        return [int(month) for (month,) in found]

    async def _note(self, until_ms: int) -> None:
        await self._run(f"INSERT INTO report_filled VALUES ({until_ms:d})")  # noqa: S608 - a number

    async def _days(self, month: int) -> range:
        """The days of a month that have rows: their begins, seconds since 1970."""
        [(first, last)] = await self._query(
            "SELECT toUnixTimestamp(toStartOfDay(min(accepted_at))), toUnixTimestamp(max(accepted_at)) "  # noqa: S608 - a number
            f"FROM activity WHERE toYYYYMM(accepted_at) = {month:d}"
        )
        return range(first, last + 1, _DAY_S)

    async def _fill_month(self, month: int, staging: str) -> None:
        minutes, quarters = f"{staging}_minutes", f"{staging}_quarters"
        counted, summed = await self._select("activity_to_report"), await self._select("report_to_quarters")
        await self._run(f"CREATE TABLE {minutes} AS report_minutes")
        await self._run(f"CREATE TABLE {quarters} AS report_quarters")
        for day in await self._days(month):
            await self._run(
                f"INSERT INTO {minutes} SELECT * FROM ({counted}) WHERE filled = 1 "  # noqa: S608 - the view's own text
                f"AND minute >= fromUnixTimestamp({day:d}) AND minute < fromUnixTimestamp({day + _DAY_S:d}) "
                f"AND toYYYYMM(minute) = {month:d}"
            )
        await self._run(f"INSERT INTO {quarters} {summed.replace('report_minutes', minutes)}")
        for table, counts in (("report_minutes", minutes), ("report_quarters", quarters)):
            await self._run(f"ALTER TABLE {table} REPLACE PARTITION (1, {month:d}) FROM {counts}")
            await self._run(f"DROP TABLE {counts}")

    async def _select(self, view: str) -> str:
        """The statement of a view, so that it is written in one place."""
        [(text,)] = await self._query(
            f"SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = '{view}'"  # noqa: S608 - our own names
        )
        return str(text)
