"""The activity of all divisions in the order of its streams.

Each division answers with its first rows, and may have more. What stands behind the last row of one that has
more is left out, so that nothing is passed over: it comes with the next answer.

Shards and divisions follow from one hash of the organisation (`engine.shards.shard_of`). So whatever divides
both numbers leaves the same remainder of either; where the shards are a multiple of the divisions, all that a
shard has is in one division.
"""

from __future__ import annotations

from collections.abc import Collection
from math import gcd
from operator import itemgetter
from typing import Any

from engine.stores.clickhouse.activity_log import ClickHouseActivityLog
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.clickhouse.division import all_of
from engine.stream_id import StreamId


class DividedActivityLog:
    """The port `ActivityLog`."""

    def __init__(self, store: DividedActivityStore, shards: int) -> None:
        """`shards`: how many there are."""
        self._common = gcd(shards, len(store.divisions))
        self._divisions = [ClickHouseActivityLog(division) for division in store.divisions]

    async def rows_between(
        self, shard: int, after: StreamId, before: StreamId, organisations: Collection[int]
    ) -> tuple[list[tuple[StreamId, list[Any]]], StreamId | None]:
        """See the port. Raises Unavailable, ConfigError."""
        found = await all_of(
            division.rows_between(shard, after, before, organisations)
            for division in self._divisions[shard % self._common :: self._common]
        )
        rows = sorted((row for part, _ in found for row in part), key=itemgetter(0))
        last = min((end for _, end in found if end is not None), default=None)
        return rows if last is None else [row for row in rows if row[0] <= last], last
