"""The number of shards, which belongs to the data and is kept with them, in PostgreSQL.

Written once, at the first start. From then on a configuration may name the same number or none.

Under failure. Two nodes that start for the first time with different numbers: the one whose row
is written first wins, the other is refused. Killed between the tables and the row: the next
start writes it, and finds what organisations there are spread by the number that it infers.
"""

from __future__ import annotations

from typing import Any

import asyncpg
import structlog

from engine.config import SHARDS_DEFAULT, SHARDS_MAX
from engine.errors import ConfigError, Unavailable
from engine.shards import shard_of
from engine.stores.postgres.errors import translated

log = structlog.get_logger("layout")

_TIMEOUT_S = 5.0
_KEPT = "SELECT shards FROM layout"
_KEEP = "INSERT INTO layout (shards) VALUES ($1) ON CONFLICT DO NOTHING"
# Enough to tell one number of shards from another.
_ACCOUNTS = "SELECT organisation_id, shard FROM accounts ORDER BY organisation_id LIMIT 1000"


def agreed(kept: int, wanted: int) -> int:
    """The number of shards that is kept. Raises ConfigError when another one is wanted; 0: any."""
    if wanted not in (0, kept):
        raise ConfigError(
            f"`shards` must be {kept} or left out, not {wanted}: the data of this engine are spread over"
            f" {kept} shards, and that cannot be changed."
        )
    return kept


async def keep_shards(url: str, wanted: int) -> int:
    """The number of shards, kept from now on if none was; `wanted` is the configuration's, 0: none.

    The tables are of this version. Raises ConfigError when it differs from what is kept, Unavailable.
    """
    with translated(in_full=True):
        connection = await asyncpg.connect(url, timeout=_TIMEOUT_S, command_timeout=_TIMEOUT_S)
        try:
            kept: int | None = await connection.fetchval(_KEPT)
            if kept is None:
                await connection.execute(_KEEP, await _inferred(connection, wanted or SHARDS_DEFAULT))
                kept = await connection.fetchval(_KEPT)
        finally:
            connection.terminate()
    assert kept is not None
    return agreed(kept, wanted)


async def confirm_shards(url: str, shards: int) -> None:
    """That a role which starts has the number that is kept. Raises ConfigError when it has not.

    PostgreSQL is away or refuses: passes, for workers start without it; `up` has looked before.
    """
    try:
        with translated():
            connection = await asyncpg.connect(url, timeout=_TIMEOUT_S, command_timeout=_TIMEOUT_S)
            try:
                kept = await connection.fetchval(_KEPT)
            finally:
                connection.terminate()
    except (Unavailable, ConfigError) as e:
        log.warning("the number of shards cannot be confirmed", reason=str(e))
        return
    if kept is not None:
        agreed(kept, shards)


async def _inferred(connection: Any, likely: int) -> int:
    """The number by which the organisations there are were spread; `likely` when it can be that."""
    accounts = await connection.fetch(_ACCOUNTS)
    shards: int
    for shards in (likely, *range(1, SHARDS_MAX + 1)):
        if all(shard_of(organisation_id, shards) == shard for organisation_id, shard in accounts):
            return shards
    raise ConfigError("The organisations in PostgreSQL are not spread over shards by any one number.")
