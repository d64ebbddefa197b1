"""What the reports of the HTTP API ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from engine.activity.reports import Report, ReportQuery

# Makes a report. Raises Refusal 422, Unavailable.
ReportSource = Callable[[ReportQuery], Awaitable[Report]]
