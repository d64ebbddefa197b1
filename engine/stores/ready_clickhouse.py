"""ClickHouse is made ready for a node that starts; a node for which it was ready starts without it too.

Nothing that is accepted or sent waits for ClickHouse, so a node that starts again while ClickHouse is away
should go on: what is recorded waits in Redis. But tables that are not of this version, or servers in another
order, would be found only when ClickHouse is back. So each node notes in PostgreSQL what it last made ready:
which servers, in which order, by which scripts, how long rows stay. Where the note says the same, there is
nothing that ClickHouse would be asked to do.

  killed before the note   the next start makes it ready again, which changes nothing more
  killed after it          it is ready
  settings changed         the note goes before anything is changed, so one of before never counts again
  ClickHouse comes back    empty, or as another: inserts are refused with a sentence, as while a node runs
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import structlog

from engine.config import Config
from engine.errors import Unavailable
from engine.stores import migrate
from engine.stores.clickhouse.client import connect, parse_url
from engine.stores.clickhouse.division import all_of, urls_of
from engine.stores.clickhouse.retention import KeptDays, keep_for
from engine.stores.clickhouse.rights import confirm_rights
from engine.stores.postgres.clickhouse_prepared import forget_prepared, note_prepared, prepared_at

log = structlog.get_logger()

_SCRIPTS = Path(__file__).parent / "clickhouse" / "migrations"
_TIMEOUT_S = 10.0


async def ready_clickhouse(config: Config, *, may_be_away: bool) -> None:
    """Make tables, times of keeping and rights in ClickHouse as this version and `config` want them.

    PostgreSQL must have its tables. With `may_be_away` a ClickHouse that does not answer is enough where
    this node made the same ready before; the log says so. Raises ConfigError, and Unavailable otherwise.
    """
    url, node, kept = config.clickhouse.url, config.node_name, _kept(config)
    digest = digest_of(url, kept)
    before = await prepared_at(config.postgres.url, node, digest)
    if before is None:
        await forget_prepared(config.postgres.url, node)
    try:
        if before and may_be_away:
            # A script may take long, and has a deadline for that; whether anybody is there shows at once.
            await all_of(_reach(one) for one in urls_of(url))
        await migrate.migrate_clickhouse(url)
        await keep_for(url, kept, _TIMEOUT_S)
        await confirm_rights(url, _TIMEOUT_S)
    except Unavailable as e:
        if before is None or not may_be_away:
            raise
        log.warning(
            "ClickHouse is away; the node starts without it, and what is recorded waits in Redis",
            reason=str(e),
            was_ready_at=before.isoformat(timespec="seconds"),
        )
        return
    if before is None:
        await note_prepared(config.postgres.url, node, digest)


def digest_of(url: str, kept: KeptDays) -> str:
    """SHA-256 of what is made ready, without passwords. Raises ConfigError for a malformed URL."""
    places = [parse_url(one) for one in urls_of(url)]
    scripts = migrate.scripts_in(_SCRIPTS)
    named = (
        [(p.shown, p.user, p.database, p.cluster) for p in places],
        [(script.number, script.sha256) for script in scripts],
        tuple(kept),
    )
    return hashlib.sha256(msgspec.json.encode(named)).hexdigest()


def _kept(config: Config) -> KeptDays:
    activity = config.activity
    return KeptDays(
        numbers=activity.numbers_days or 0,
        events=activity.events_days or 0,
        minutes=activity.minutes_days,
        inbound=activity.inbound_days or 0,
        texts=activity.texts_days or 0,
    )


async def _reach(url: str) -> None:
    place = parse_url(url)
    client = await connect(place, database=place.database, timeout_s=_TIMEOUT_S)
    await client.close()
