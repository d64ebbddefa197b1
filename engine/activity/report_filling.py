"""Service: the activity of before the reports, counted once after an upgrade.

It waits until everything that was put on the streams before the time that the tables name is archived, and
then has it counted. On new data there is nothing to do. Killed, frozen, or done by two processes at once:
what was counted is replaced by the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import structlog

from engine.activity.ports import ActivityStream
from engine.clocks.backoff import Backoff
from engine.errors import ConfigError, Unavailable

log = structlog.get_logger()

# How often is looked whether the streams are archived so far, seconds.
_LOOK_S = 2.0


class ReportFill(Protocol):
    """Where rows are counted. Every call raises Unavailable, and ConfigError when an operator must act."""

    async def due_ms(self) -> int:
        """Rows of the streams before this time, milliseconds since 1970, are to be counted; 0: none are."""

    async def fill(self, until_ms: int) -> None:
        """Count all rows of the streams before `until_ms`, and note that it is done."""


async def fill_reports(
    fill: ReportFill,
    stream: ActivityStream,
    draining: asyncio.Event,
    *,
    active: Callable[[], bool],
    now_us: Callable[[], int],
    look_s: float = _LOOK_S,
) -> None:
    """Have everything counted that is to be, and return; or when `draining` is set. `active`: whether this
    process is the one that archives; `now_us`: the time of Redis, microseconds."""
    backoff, idle = Backoff(look_s, 60.0), Backoff(look_s, 60.0)
    while not draining.is_set():
        pause_s = look_s
        try:
            if not active():
                # Another archives that shard, perhaps for months.
                pause_s = idle.next()
            else:
                idle.reset()
                due_ms = await fill.due_ms()
                if not due_ms:
                    return
                if await _archived(stream, due_ms, now_us() // 1000):
                    log.info("activity of before the reports is counted")
                    await fill.fill(due_ms)
                    log.info("activity of before the reports has been counted")
                    return
        except (Unavailable, ConfigError) as e:
            log.warning("activity of before the reports cannot be counted", reason=str(e))
            pause_s = backoff.next()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(draining.wait(), pause_s)


async def _archived(stream: ActivityStream, due_ms: int, now_ms: int) -> bool:
    """Whether nothing of before `due_ms` waits in the streams, nor can come."""
    if now_ms <= due_ms:
        return False
    backlog = await stream.backlog()
    return all(part.first is None or part.first.ms >= due_ms for part in backlog)
