"""Puts together where the reports of the API come from."""

from __future__ import annotations

from contextlib import AsyncExitStack

from engine.api.report_ports import ReportServices
from engine.boot.numbers import numbers_for
from engine.boot.process import closed_by
from engine.config import Config
from engine.stores.clickhouse.erasure import ClickHouseErasure
from engine.stores.clickhouse.export import ClickHouseExport
from engine.stores.clickhouse.reports import ClickHouseReports


def report_services(config: Config, stack: AsyncExitStack) -> ReportServices:
    """`stack` closes the connections. Raises ConfigError for a malformed URL."""
    url = config.clickhouse.url
    erasure = closed_by(stack, ClickHouseErasure(url, numbers=numbers_for(config)))
    return ReportServices(
        summary=closed_by(stack, ClickHouseReports(url)).summary,
        export=closed_by(stack, ClickHouseExport(url)).messages,
        erase=erasure.erase,
        erasures_under_way=erasure.under_way,
    )
