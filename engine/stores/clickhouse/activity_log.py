"""The activity in the order of its streams, for a notifier that was away while it was archived.

Under failure: these are reads, so every call may be repeated.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from engine.stores.clickhouse.activity import SELECTED, ClickHouseActivityStore
from engine.stream_id import StreamId
from engine.webhooks.events import TYPES

# Rows of one answer. Entries are not cut: the last one is there as a whole.
_ROWS_MAX = 2_000
_READ_S = 60.0
_BETWEEN = f"""
SELECT stream_ms, stream_seq, {SELECTED}
FROM activity
WHERE shard = {{shard:UInt16}} AND stream_ms BETWEEN {{after_ms:UInt64}} AND {{before_ms:UInt64}}
  AND (stream_ms, toUInt64(stream_seq)) > ({{after_ms:UInt64}}, {{after_seq:UInt64}})
  AND (stream_ms, toUInt64(stream_seq)) < ({{before_ms:UInt64}}, {{before_seq:UInt64}})
  AND event IN {tuple(TYPES)!r}
  AND (callback_url != '' OR organisation_id IN ({{organisations}}))
ORDER BY stream_ms, stream_seq
LIMIT {_ROWS_MAX} WITH TIES
"""  # noqa: S608 - built from the constants above
_KEPT_AT = 21


class ClickHouseActivityLog:
    """The port `ActivityLog`."""

    def __init__(self, store: ClickHouseActivityStore) -> None:
        self._store = store

    async def rows_between(
        self, shard: int, after: StreamId, before: StreamId, organisations: Collection[int]
    ) -> tuple[list[tuple[StreamId, list[Any]]], StreamId | None]:
        """See the port. Raises Unavailable, ConfigError."""
        parameters = {
            "shard": shard, "after_ms": after.ms, "after_seq": after.sequence,
            "before_ms": before.ms, "before_seq": before.sequence,
        }  # fmt: skip
        # Numbers of our own; an empty list would be no SQL.
        query = _BETWEEN.replace("{organisations}", ", ".join(map(str, sorted(organisations) or [0])))
        found = await self._store.ask(query, parameters, _READ_S)
        rows = []
        for ms, sequence, *values in found:
            row = list(values)
            # A row has `kept` before the columns that came later; nobody is told of it.
            row.insert(_KEPT_AT, "")
            rows.append((StreamId(int(ms), int(sequence)), row))
        return rows, rows[-1][0] if len(rows) >= _ROWS_MAX else None
