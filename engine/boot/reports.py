"""Puts together where the reports of the API come from."""

from __future__ import annotations

from contextlib import AsyncExitStack

from engine.api.report_ports import ReportServices
from engine.boot.process import closed_by
from engine.config import Config
from engine.stores.clickhouse.export import ClickHouseExport
from engine.stores.clickhouse.reports import ClickHouseReports


def report_services(config: Config, stack: AsyncExitStack) -> ReportServices:
    """`stack` closes the connections. Raises ConfigError for a malformed URL."""
    url = config.clickhouse.url
    return ReportServices(
        closed_by(stack, ClickHouseReports(url)).summary, closed_by(stack, ClickHouseExport(url)).messages
    )
