"""What operators wish of nodes, in PostgreSQL: the table `node_wishes`.

Under failure. A change is one transaction, and waits for any other: it takes effect as a whole or not at
all. After `Unavailable` nobody knows which. Repeated, it changes nothing more.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.changes import difference
from engine.nodes.ports import Allowed
from engine.nodes.records import NodeWish, QueueScale
from engine.records import QUEUES, IdempotentCall, Queue
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import check_text
from engine.stores.postgres.idempotency import claim
from engine.stores.postgres.pool import Pool

# Others go on reading meanwhile.
_LOCK = "LOCK TABLE node_wishes IN SHARE ROW EXCLUSIVE MODE"
_ALL = """
SELECT node, drained_at, reason, express, normal, express_concurrency, normal_concurrency FROM node_wishes"""
_ONE = f"{_ALL} WHERE node = $1"
# Whoever drains it again keeps since when, and without a reason the one before.
_DRAIN = """
INSERT INTO node_wishes (node, drained_at, reason) VALUES ($1, now(), $2)
ON CONFLICT (node) DO UPDATE SET drained_at = coalesce(node_wishes.drained_at, now()),
    reason = coalesce(nullif(EXCLUDED.reason, ''), node_wishes.reason)"""
_RESUME = "UPDATE node_wishes SET drained_at = NULL, reason = '' WHERE node = $1"
_SCALE = """
INSERT INTO node_wishes (node, {queue}) VALUES ($1, $2)
ON CONFLICT (node) DO UPDATE SET {queue} = EXCLUDED.{queue}"""
_SCALE_CONCURRENCY = "UPDATE node_wishes SET {queue}_concurrency = $2 WHERE node = $1"


class PostgresNodeWishes:
    """The port `NodeWishes`. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def all(self) -> dict[str, NodeWish]:
        """By name, of those nodes of which anything was ever wished."""
        async with self._pool.connection() as connection:
            return await _all(connection)

    async def of(self, node: str) -> NodeWish:
        """What is wished of one node."""
        async with self._pool.connection() as connection:
            return await _one(connection, node)

    async def drain(
        self, node: str, reason: str, allowed: Allowed, once: IdempotentCall | None = None
    ) -> NodeWish:
        """Let the node take nothing new; the wish then. `allowed` is asked when it is not drained yet.

        With `once` it is done at most once: when it is repeated later, and somebody has resumed the node
        meanwhile, that stays. Raises Refusal 409 when `once` was used for another request, 422 for the
        reason, and what `allowed` raises.
        """
        if reason:
            check_text("reason", reason)
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            before = await _one(connection, node)
            if await claim(connection, once) is None:
                if not before.drained:
                    allowed(await _all(connection))
                await connection.execute(_DRAIN, node, reason)
            return await _noted(connection, node, before)

    async def resume(self, node: str, once: IdempotentCall | None = None) -> NodeWish:
        """Let the node work; the wish then. `once` as in `drain`."""
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            before = await _one(connection, node)
            if await claim(connection, once) is None:
                await connection.execute(_RESUME, node)
            return await _noted(connection, node, before)

    async def scale(
        self,
        node: str,
        queue: Queue,
        wanted: QueueScale,
        allowed: Allowed,
        once: IdempotentCall | None = None,
    ) -> NodeWish:
        """Let the node have the workers of the queue that are wanted. As `drain`."""
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            before = await _one(connection, node)
            if await claim(connection, once) is None:
                allowed(await _all(connection))
                await connection.execute(_SCALE.format(queue=queue), node, wanted.processes)
                if wanted.concurrency is not msgspec.UNSET:
                    await connection.execute(_SCALE_CONCURRENCY.format(queue=queue), node, wanted.concurrency)
            return await _noted(connection, node, before)


async def _all(connection: Any) -> dict[str, NodeWish]:
    return {row["node"]: _wish(row) for row in await connection.fetch(_ALL)}


async def _one(connection: Any, node: str) -> NodeWish:
    row = await connection.fetchrow(_ONE, node)
    return NodeWish() if row is None else _wish(row)


async def _noted(connection: Any, node: str, before: NodeWish) -> NodeWish:
    """The wish now; what has changed of it is recorded."""
    wish = await _one(connection, node)
    if wish != before:
        was, now = (msgspec.structs.asdict(one) for one in (before, wish))
        await note_change(connection, *difference(was, now))
    return wish


def _wish(row: Any) -> NodeWish:
    processes = {queue: row[queue] for queue in QUEUES if row[queue] is not None}
    found = {queue: row[f"{queue}_concurrency"] for queue in QUEUES}
    return NodeWish(
        drained_at=row["drained_at"],
        reason=row["reason"],
        processes=processes,
        concurrency={queue: number for queue, number in found.items() if number is not None},
    )
