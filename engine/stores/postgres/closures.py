"""What new messages are refused for: drains of queues and of one node, as they stand in PostgreSQL."""

from __future__ import annotations

from engine.records import QUEUES, Queue
from engine.stores.postgres.pool import Pool

_READ = """
SELECT ARRAY(SELECT queue FROM queue_drains),
    EXISTS (SELECT FROM node_wishes WHERE node = $1 AND drained_at IS NOT NULL)"""


class PostgresClosures:
    """The port `ClosureStore`, for one node."""

    def __init__(self, pool: Pool, node: str) -> None:
        self._pool = pool
        self._node = node

    async def closed(self) -> tuple[frozenset[Queue], bool]:
        """(the queues that are drained, whether the node is). Raises Unavailable."""
        async with self._pool.connection() as connection:
            queues, node_drained = await connection.fetchrow(_READ, self._node)
        return frozenset(queue for queue in QUEUES if queue in queues), node_drained
