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
    """Where reports and exports come from."""

    summary: ReportSource
    export: Exporter
