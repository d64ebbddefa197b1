"""Service: what has become of the messages of a batch, from all of their events.

As for one message the stream is asked first and the table second. A batch costs one pass through the tail of
the stream and two queries, however many messages it has.

    ClickHouse does not answer    Unavailable: what is archived of the batch is not known
    Redis does not answer         Unavailable
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec

from engine.activity.history import describe, rfc3339
from engine.activity.ports import ArchivedMessages, ArchiveProgress
from engine.batches import Batch
from engine.lifecycle import Charge, Status
from engine.records import ActivityRow
from engine.shards import shard_of

# So many messages are described before others have a turn.
_TURN = 50


class BatchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a batch: the body of `GET /v1/batches/{id}`."""

    id: str
    accepted_at: str
    # Messages that were accepted; by status; and their units by charge.
    messages: int
    statuses: dict[Status, int]
    units: dict[Charge, int]
    # No message of it is going to be sent any more.
    over: bool


class Batches:
    """Looks up batches."""

    def __init__(self, progress: ArchiveProgress, archived: ArchivedMessages, shards: int) -> None:
        self._progress = progress
        self._archived = archived
        self._shards = shards

    async def rows(self, organisation_id: int, batch: Batch) -> dict[str, Sequence[ActivityRow]]:
        """All rows of each message of the batch, by its id, some perhaps twice. Raises Unavailable,
        ConfigError."""
        shard = shard_of(organisation_id, self._shards)
        recent = await self._progress.recent_rows_of_batch(shard, organisation_id, batch)
        archived = await self._archived.rows_of_batch(organisation_id, batch)
        found: defaultdict[str, list[ActivityRow]] = defaultdict(list)
        for row in (*recent, *archived):
            found[row.message_id].append(row)
        return dict(found)

    async def progress(self, organisation_id: int, batch: Batch) -> BatchProgress | None:
        """What has become of the batch; None when the organisation has no such one. Raises Unavailable,
        ConfigError."""
        found = await self.rows(organisation_id, batch)
        if not found:
            return None
        statuses: Counter[Status] = Counter()
        units: Counter[Charge] = Counter()
        for number, rows in enumerate(found.values()):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            view = describe(rows)
            statuses[view.status] += 1
            units[view.charge] += view.units
        accepted_at_us = next(iter(found.values()))[0].accepted_at_us
        return BatchProgress(
            id=batch.id,
            accepted_at=rfc3339(accepted_at_us),
            messages=len(found),
            statuses=dict(statuses),
            units=dict(units),
            over=not statuses.keys() & {"scheduled", "accepted"},
        )
