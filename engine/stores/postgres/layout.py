"""The number of shards. It belongs to the data, so it is kept with them in PostgreSQL.

It is written once, at the first start. From then on a configuration may name the same number or none.

Under failure. Two nodes start for the first time with different numbers: the one whose row
is written first wins, the other is refused. Killed after the tables are made and before the row is
written: the next start writes it; it infers the number from the organisations that are there.
"""

from __future__ import annotations

from typing import Any

import structlog

from engine.config import SHARDS_DEFAULT, SHARDS_MAX
from engine.errors import ConfigError, Unavailable
from engine.shards import shard_of
from engine.stores.postgres.connection import connect
from engine.stores.postgres.errors import translated
from engine.written_numbers import plural

log = structlog.get_logger("layout")

_TIMEOUT_S = 5.0
_KEPT = "SELECT shards FROM layout"
_KEEP = "INSERT INTO layout (shards) VALUES ($1) ON CONFLICT DO NOTHING"
# So many accounts are enough to tell one number of shards from another.
_ACCOUNTS = "SELECT organisation_id, shard FROM accounts ORDER BY organisation_id LIMIT 1000"


def agreed(kept: int, wanted: int) -> int:
    """`kept`, the number of shards that is kept. Raises ConfigError unless `wanted` is the same or 0."""
    if wanted not in (0, kept):
        raise ConfigError(
            f"`shards` must be {kept} or left out, not {wanted}: the data of this engine are spread over"
            f" {kept} {plural('shard', kept)}, and that cannot be changed."
        )
    return kept


async def keep_shards(url: str, wanted: int) -> int:
    """The number of shards; when none is kept yet, keep one.

    `wanted` is the number in the configuration, 0 when it names none. The tables must be of this
    version. Raises ConfigError when `wanted` differs from the number that is kept, Unavailable.
    """
    with translated(in_full=True):
        connection = await connect(url, timeout_s=_TIMEOUT_S, command_timeout_s=_TIMEOUT_S)
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
    """Check that a role starts with the number that is kept. Raises ConfigError when it does not.

    When PostgreSQL is away or refuses, the check is passed over: workers start without it, and
    `smsengine up` has checked before.
    """
    try:
        with translated():
            connection = await connect(url, timeout_s=_TIMEOUT_S, command_timeout_s=_TIMEOUT_S)
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
    """The number of shards that the accounts fit; `likely` when they fit it. Raises ConfigError."""
    accounts = await connection.fetch(_ACCOUNTS)
    shards: int
    for shards in (likely, *range(1, SHARDS_MAX + 1)):
        if all(shard_of(organisation_id, shards) == shard for organisation_id, shard in accounts):
            return shards
    raise ConfigError("The organisations in PostgreSQL are not spread over shards by any one number.")
