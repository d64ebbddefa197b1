"""The places of fences that are booked in part (`Portion.begun`).

Some quotas of such a fence are ended while the books of its shard stand before it. Redis may lose the fence
then, and its holder would go on to spend units that the books give to others. A ledger that leads later
cannot see that in the position, so the place of the fence is kept in the transaction that ends its first
quotas, and counts as seen.
"""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from engine.credit.ledger_records import StreamMark
from engine.stream_id import StreamId

_SAVE = """
INSERT INTO begun_fences (shard, generation, position, link)
SELECT shard, s.generation, b.position, b.link
FROM unnest($1::int[], $2::text[], $3::text[]) AS b (shard, position, link) JOIN shards s USING (shard)
ON CONFLICT (shard) DO UPDATE
    SET generation = EXCLUDED.generation, position = EXCLUDED.position, link = EXCLUDED.link"""

_READ = """
SELECT shard, b.position, b.link FROM begun_fences b JOIN shards USING (shard, generation)"""


async def save_begun(connection: asyncpg.Connection, begun: Mapping[int, StreamMark]) -> None:
    """Keep the places right after these fences, by shard. Called in the transaction that books a part."""
    places = [(shard, str(mark.position), mark.link) for shard, mark in begun.items()]
    await connection.execute(_SAVE, *map(list, zip(*places, strict=True)))


async def read_begun(connection: asyncpg.Connection) -> dict[int, StreamMark]:
    """By shard, the place right after the last fence that was begun in its present generation."""
    return {
        shard: StreamMark(StreamId.parse(position), link)
        for shard, position, link in await connection.fetch(_READ)
    }
