"""Exports: an organisation's messages are in its division."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from engine.stores.clickhouse.division import Divided
from engine.stores.clickhouse.export import ClickHouseExport, ExportQuery


class DividedExport(Divided[ClickHouseExport]):
    """Writes exports. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str) -> None:
        """As `ClickHouseExport`; `url` may be several."""
        super().__init__(url, ClickHouseExport)

    def messages(self, query: ExportQuery) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """As of `ClickHouseExport`."""
        return self.of(query.organisation_id).messages(query)
