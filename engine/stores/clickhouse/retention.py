"""How long what is recorded stays, as the settings say: TTLs of ClickHouse.

The tables are changed only where they are not as wanted, because a change of a TTL rewrites what is there, in
the background. Killed or answered twice: the next start finds what is left to do.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from engine.stores.clickhouse.client import answering, connect, parse_url


class _Rule(NamedTuple):
    """One TTL: how it is found in the statement that made the table, set and removed."""

    table: str
    found: str
    change: str
    removal: str


_NUMBERS = _Rule(
    "activity",
    r"`to` String[^\n]* TTL toDateTime\(accepted_at\) \+ toIntervalDay\((\d+)\)",
    "ALTER TABLE activity MODIFY COLUMN to TTL toDateTime(accepted_at) + toIntervalDay({days})",
    "ALTER TABLE activity MODIFY COLUMN to REMOVE TTL",
)
_MINUTES = _Rule(
    "report_minutes",
    r"\nTTL minute \+ toIntervalDay\((\d+)\)",
    "ALTER TABLE report_minutes MODIFY TTL minute + toIntervalDay({days})",
    "ALTER TABLE report_minutes REMOVE TTL",
)


async def keep_for(url: str, *, numbers_days: int, minutes_days: int, timeout_s: float) -> list[str]:
    """Let the numbers in the activity, and the counts by minute, stay for so many days; 0: for good.

    Returns the tables that were changed. Raises Unavailable, ConfigError.
    """
    place = parse_url(url)
    client = await connect(place, database=place.database, timeout_s=timeout_s)
    changed = []
    try:
        async with answering(place, timeout_s):
            for rule, days in ((_NUMBERS, numbers_days), (_MINUTES, minutes_days)):
                if await _days(client, rule) != days:
                    # The server goes on with what is there by itself.
                    sql = rule.change.format(days=days) if days else rule.removal
                    await client.command(sql, settings={"alter_sync": 0, "mutations_sync": 0})
                    changed.append(rule.table)
    finally:
        await client.close()
    return changed


async def _days(client: Any, rule: _Rule) -> int:
    """How many days the rule has now; 0: there is no TTL."""
    found = await client.query(f"SHOW CREATE TABLE {rule.table}")
    match = re.search(rule.found, found.result_rows[0][0])
    return int(match[1]) if match else 0
