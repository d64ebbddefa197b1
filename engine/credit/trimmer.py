"""Trims applied usage, as late as the standbys of PostgreSQL ask for (`retention.py`)."""

from __future__ import annotations

import structlog

from engine.credit.ports import LedgerStore, UsageStream
from engine.credit.retention import Retention
from engine.stream_id import StreamId

log = structlog.get_logger("ledger")

# A standby that holds up trimming for so long is named in the log, and again after as long, seconds.
_SLOW_STANDBY_S = 60.0


class Trimmer:
    """Trims the usage streams of a leading ledger."""

    def __init__(self, store: LedgerStore, usage: UsageStream, retention: Retention) -> None:
        self._store = store
        self._usage = usage
        self._retention = retention
        self._named_at_s = float("-inf")

    def forget(self) -> None:
        """Begin anew, because another ledger may have led meanwhile."""
        self._retention.forget()

    async def trim(self, now_s: float, applied: dict[int, StreamId], entries: int) -> None:
        """Trim what is not needed any more; once a second or so. Raises Unavailable.

        `applied`: by shard, how far the committed books are. `entries`: how many the streams have together.
        Killed or frozen here: less is trimmed. Answered late: positions that were trimmed once do no harm.
        """
        # Read after the commits, so what is written by now has all that is applied.
        standing = await self._store.standing()
        self._retention.note(now_s, applied, standing)
        trim = self._retention.due(now_s, standing, entries)
        if trim is not None:
            await self._usage.trim(trim.positions)
        waits_s = self._retention.waits_s(now_s)
        forced = trim is not None and trim.forced
        if (forced or waits_s >= _SLOW_STANDBY_S) and now_s - self._named_at_s >= _SLOW_STANDBY_S:
            self._named_at_s = now_s
            log.warning(
                "usage is trimmed that a standby of PostgreSQL lacks: its promotion would lose charges"
                if forced
                else "usage stays in Redis for a standby of PostgreSQL that is far behind",
                standby=standing.slowest,
                bytes_behind=standing.written - (standing.kept or 0),
                entries=entries,
                do="Bring the standby back, or drop its replication slot.",
            )
