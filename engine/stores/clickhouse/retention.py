"""How long what is recorded stays, as the settings say: TTLs of ClickHouse.

The tables are changed only where they are not as wanted, because a change of a TTL rewrites what is there, in
the background. Killed or answered twice: the next start finds what is left to do.

Rows as a whole go by months, which are the partitions: all rows of one are over at the same time, the days
that they are kept after its end. So ClickHouse drops its parts without reading them, where a TTL by the day
would have it write the month anew again and again.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from engine.stores.clickhouse.client import answering, connect, parse_url
from engine.stores.clickhouse.division import all_of, urls_of


class KeptDays(NamedTuple):
    """How many days each kind stays; 0: for good."""

    # The numbers of recipients in the activity; the activity; counts by minute; what recipients wrote.
    numbers: int = 0
    events: int = 0
    minutes: int = 0
    inbound: int = 0
    # The texts of messages; 0: none is recorded any more, and what was recorded goes.
    texts: int = 0


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
# Where texts are not recorded any more, those of before go a day after their acceptance: there is no
# removal.
_TEXTS = _Rule(
    "activity",
    r"`text` String[^\n]* TTL toDateTime\(accepted_at\) \+ toIntervalDay\((\d+)\)",
    "ALTER TABLE activity MODIFY COLUMN text TTL toDateTime(accepted_at) + toIntervalDay({days})",
    "",
)


def _by_month(table: str, time: str) -> _Rule:
    """A TTL of whole months of a table, by its column `time`."""
    month = f"toStartOfMonth({time}) + toIntervalMonth(1)"
    # Newer servers write it with parentheses.
    written = re.escape(month)
    return _Rule(
        table,
        rf"\nTTL \(?{written}\)? \+ toIntervalDay\((\d+)\)",
        f"ALTER TABLE {table} MODIFY TTL {month} + toIntervalDay({{days}})",
        f"ALTER TABLE {table} REMOVE TTL",
    )


_EVENTS = _by_month("activity", "accepted_at")
_INBOUND = _by_month("inbound_messages", "at")
_MINUTES = _Rule(
    "report_minutes",
    r"\nTTL minute \+ toIntervalDay\((\d+)\)",
    "ALTER TABLE report_minutes MODIFY TTL minute + toIntervalDay({days})",
    "ALTER TABLE report_minutes REMOVE TTL",
)


async def keep_for(url: str, kept: KeptDays, timeout_s: float) -> list[str]:
    """Let what is recorded stay for so many days, in each division of `url`.

    Returns the tables that were changed. Raises Unavailable, ConfigError.
    """
    changed = await all_of(_keep_for(one, kept, timeout_s) for one in urls_of(url))
    return [table for tables in changed for table in tables]


async def _keep_for(url: str, kept: KeptDays, timeout_s: float) -> list[str]:
    wanted = (
        (_NUMBERS, kept.numbers),
        (_EVENTS, kept.events),
        (_MINUTES, kept.minutes),
        (_INBOUND, kept.inbound),
        (_TEXTS, kept.texts),
    )
    place = parse_url(url)
    client = await connect(place, database=place.database, timeout_s=timeout_s)
    changed = []
    try:
        async with answering(place, timeout_s):
            for rule, days in wanted:
                found = await _days(client, rule)
                if found and not days and not rule.removal:
                    days = 1
                if found != days:
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
