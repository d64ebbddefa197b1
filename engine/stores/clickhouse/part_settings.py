"""How the parts of the tables are written and merged: settings of MergeTree that make an insert cheaper.

An archiver inserts about once a second, however few rows there are, and each insert makes a part in five
tables. What a small part costs is its files and how often it is merged, not its rows.

- A small part is one file instead of a dozen (packed): to make files is the dearest step of writing a part,
  and the file system looks the longer for room, the more were removed a moment ago. Servers from before the
  summer of 2026 write no such parts, and cannot read those that a newer one has written. In a cluster whose
  servers are upgraded one after another, the older ones could not fetch them, so a cluster has none.
- Statistics of columns, which newer servers make by themselves, help no query of this engine.
- Sixteen small parts are merged at once. Otherwise a server merges two or three as soon as they are some
  seconds old, and writes each row thirty times. Not those of `outstanding`, where the keys of a batch of
  receipts lie anywhere, so that each part costs each batch something.
- A part that came of a merge waits until there are many of its size (`merge_selector_base`). When a server
  chooses what to merge, it adds 5 MB to the size of each part, so parts of less look alike to it. Without
  this setting it writes one such part again with every few inserts, until that has 90 MB: for an hour at 650
  messages a second.

Only what a server knows and has otherwise is changed. A user who may not change it is told in the log, and
the engine runs without. Killed or answered twice: the next start finds what is left to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import structlog

from engine.errors import ConfigError
from engine.stores.clickhouse.client import ClickHouseUrl, answering
from engine.stores.clickhouse.cluster import on_cluster

log = structlog.get_logger()

# By name, as ClickHouse writes them in the statement of a table.
_PACKED = {"min_bytes_for_full_part_storage": "10485760"}
_PLAIN = {"auto_statistics_types": "''"}
_RARELY_MERGED = {"min_parts_to_merge_at_once": "16", "merge_selector_base": "30"}
_ALL = {**_PACKED, **_PLAIN, **_RARELY_MERGED}
_WANTED: Mapping[str, Mapping[str, str]] = {
    "activity": _ALL,
    "report_minutes": _ALL,
    "report_quarters": _ALL,
    "report_series": {**_PACKED, **_PLAIN},
    "outstanding_messages": _ALL,
    "outstanding": {**_PACKED, **_PLAIN},
    "kept_messages": {**_PACKED, **_PLAIN},
}
_SETTING = re.compile(r"(\w+) = ('[^']*'|[^\s,]+)")


async def settle_parts(client: Any, place: ClickHouseUrl, timeout_s: float) -> list[str]:
    """Let the tables that are there have the settings that are wanted of them; those that were changed.

    `client`: one of the database in `place`. Raises Unavailable, ConfigError.
    """
    async with answering(place, timeout_s):
        found = await client.query(
            "SELECT name, engine_full FROM system.tables "
            "WHERE database = currentDatabase() AND name IN {names:Array(String)}",
            parameters={"names": list(_WANTED)},
        )
        due = {
            table: wanting for table, text in found.result_rows if (wanting := _missing(table, text, place))
        }
        if not due:
            return []
        rows = (await client.query("SELECT name FROM system.merge_tree_settings")).result_rows
    known = {name for (name,) in rows}
    changed = []
    for table, wanting in sorted(due.items()):
        if settings := ", ".join(f"{name} = {value}" for name, value in wanting.items() if name in known):
            try:
                async with answering(place, timeout_s):
                    statement = f"ALTER TABLE {table} MODIFY SETTING {settings}"
                    await client.command(on_cluster(statement, place.cluster))
            except ConfigError as e:
                log.warning("inserts stay dearer than they need to be", table=table, reason=str(e))
                break
            changed.append(table)
    return changed


def _missing(table: str, engine_full: str, place: ClickHouseUrl) -> dict[str, str]:
    """The settings that the table is to have and has not, by the end of the statement that made it."""
    has = dict(_SETTING.findall(engine_full.partition(" SETTINGS ")[2]))
    wanted = _WANTED[table]
    return {
        name: value
        for name, value in wanted.items()
        if has.get(name) != value and not (place.cluster and name in _PACKED)
    }
