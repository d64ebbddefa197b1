"""When keys were last used, in PostgreSQL: to the minute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from engine.stores.postgres.pool import Pool

# Several processes note the same keys: each passes over those that another one has in hand.
_NOTE = """
UPDATE {table} SET last_used_at = now() WHERE id IN (
    SELECT id FROM {table} WHERE id = ANY($1::bigint[])
        AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)"""


class KeyUses:
    """Of one kind of keys."""

    def __init__(self, pool: Pool, table: Literal["api_keys", "admin_keys"]) -> None:
        self._pool = pool
        self._statement = _NOTE.format(table=table)

    async def note(self, key_ids: Sequence[int]) -> None:
        """Note that these keys are in use now; again within a minute it does nothing. Raises Unavailable."""
        async with self._pool.connection() as connection:
            await connection.execute(self._statement, key_ids)
