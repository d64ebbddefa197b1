"""What the reports and exports of the HTTP API ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from engine.activity.reports import Report, ReportQuery
from engine.stores.clickhouse.export import ExportQuery

# Makes a report. Raises Refusal 422, Unavailable.
ReportSource = Callable[[ReportQuery], Awaitable[Report]]
# Writes messages as a file, in parts. Raises Unavailable, also in the middle.
Exporter = Callable[[ExportQuery], AbstractAsyncContextManager[AsyncIterator[bytes]]]


class ReportServices(NamedTuple):
    """What is done with the messages that are recorded."""

    summary: ReportSource
    export: Exporter
    # Begins to erase a number in E.164; and how many changes of tables are under way. Both raise Unavailable.
    erase: Callable[[str], Awaitable[None]]
    erasures_under_way: Callable[[], Awaitable[int]]
