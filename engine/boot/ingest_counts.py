"""What a process of the role `ingest` shows of itself."""

from __future__ import annotations

from contextlib import AsyncExitStack

import structlog

from engine.api.request_counts import RequestCounts
from engine.boot.counter_log import CounterLog
from engine.boot.meter import Meter
from engine.boot.process import Process
from engine.credit.quota import Quota
from engine.intake.ingest import Ingest


async def watch_ingest(process: Process, stack: AsyncExitStack, ingest: Ingest, quota: Quota) -> None:
    """Show what is counted on the way in, until `stack` ends."""
    meter = process.meter
    counters = await stack.enter_async_context(CounterLog(structlog.get_logger("ingest"), meter))
    counters.watch("credit found", ingest.counts)
    counters.watch("ledger answers", quota.answers)
    meter.watch("messages accepted", quota.accepted)
    meter.tally("smsengine_messages_refused", ingest.refused, ("code",))


def watch_requests(meter: Meter, counts: RequestCounts) -> None:
    """Show how requests are answered."""
    meter.tally("smsengine_http_requests", counts.statuses, ("status",))
    meter.tally("smsengine_http_refusals", counts.codes, ("code",))
