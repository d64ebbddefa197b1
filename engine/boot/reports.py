"""Puts together where the reports of the API come from."""

from __future__ import annotations

from contextlib import AsyncExitStack

from engine.api.report_ports import ReportServices
from engine.boot.numbers import numbers_for
from engine.boot.process import closed_by
from engine.config import Config
from engine.stores.clickhouse.divided.erasure import DividedErasure
from engine.stores.clickhouse.divided.export import DividedExport
from engine.stores.clickhouse.divided.reports import DividedReports
from engine.stores.redis.link import RedisLink
from engine.stores.redis.receipt_erasure import RedisReceiptErasure


def report_services(config: Config, stack: AsyncExitStack, link: RedisLink) -> ReportServices:
    """`stack` closes the connections. Raises ConfigError for a malformed URL."""
    url = config.clickhouse.url
    erasure = closed_by(stack, DividedErasure(url, numbers=numbers_for(config)))
    waiting = RedisReceiptErasure(link, config.shards)

    async def erase(number: str) -> None:
        # In this order: what waits in Redis is put into ClickHouse when it is given up.
        await waiting.erase(number)
        await erasure.erase(number)

    return ReportServices(
        summary=closed_by(stack, DividedReports(url)).summary,
        export=closed_by(stack, DividedExport(url)).messages,
        erase=erase,
        erasures_under_way=erasure.under_way,
    )
