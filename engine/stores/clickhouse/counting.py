"""What the adapters that count the activity share: long statements, and tables that are made beside those
that reports read and then take the place of a partition as a whole.

Killed in the middle: such a table stays and nobody reads it, until it is dropped by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering

# A statement may take so long, seconds.
_TIMEOUT_S = 3600.0
# Inserts go on beside it: most machines have more than one processor.
_THREADS = 1
SETTINGS = {
    "async_insert": 0,
    "wait_end_of_query": 1,
    "max_threads": _THREADS,
    # Beyond so many bytes ClickHouse groups on its disk.
    "max_bytes_before_external_group_by": 400_000_000,
}


class ClickHouseCounting(ClickHouseAdapter):
    """Carries out statements that may take long. Every call raises Unavailable, and ConfigError when an
    operator must act."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError for a malformed URL."""
        super().__init__(url, _TIMEOUT_S)

    async def _query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            found = await client.query(sql, parameters=parameters, settings={"max_threads": _THREADS})
        rows: Sequence[Sequence[Any]] = found.result_rows
        return rows

    async def _run(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            await client.command(sql, parameters=parameters, settings=dict(settings or SETTINGS))

    async def _drop_leftovers(self, staging: str) -> None:
        """Drop the tables whose names begin so."""
        found = await self._query(
            "SELECT name FROM system.tables WHERE database = currentDatabase() "
            "AND startsWith(name, {staging:String})",
            {"staging": staging},
        )
        for (name,) in found:
            await self._run(f"DROP TABLE IF EXISTS {name}")
