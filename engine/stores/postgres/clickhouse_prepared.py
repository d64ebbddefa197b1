"""What each node last made ready in ClickHouse, in PostgreSQL: the table `clickhouse_prepared`.

Under failure. Each call is one statement. After Unavailable nobody knows whether it was done; repeated, it
changes nothing more.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from engine.stores.postgres.connection import connect
from engine.stores.postgres.errors import translated

_TIMEOUT_S = 5.0
_AT = "SELECT prepared_at FROM clickhouse_prepared WHERE node = $1 AND sha256 = $2"
_FORGET = "DELETE FROM clickhouse_prepared WHERE node = $1"
_NOTE = """
INSERT INTO clickhouse_prepared (node, sha256) VALUES ($1, $2)
ON CONFLICT (node) DO UPDATE SET sha256 = EXCLUDED.sha256, prepared_at = now()"""


async def prepared_at(url: str, node: str, sha256: str) -> datetime | None:
    """When `node` made ready what has this digest; None: it never did, or has begun something else since.

    Raises Unavailable, ConfigError, as all calls here.
    """
    found: datetime | None = await _ask(url, _AT, node, sha256)
    return found


async def forget_prepared(url: str, node: str) -> None:
    """Note that `node` begins to make something else ready."""
    await _ask(url, _FORGET, node)


async def note_prepared(url: str, node: str, sha256: str) -> None:
    """Note that `node` has made ready what has this digest."""
    await _ask(url, _NOTE, node, sha256)


async def _ask(url: str, statement: str, *arguments: str) -> Any:
    with translated(in_full=True):
        connection = await connect(url, timeout_s=_TIMEOUT_S, command_timeout_s=_TIMEOUT_S)
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            connection.terminate()
