"""Whether the user in `clickhouse.url` may do what the archiver and the readers do, found out beforehand.

Each table that the engine writes is given an insert of no rows, with the settings of a real one. That
changes nothing, needs the same rights on the table and on what its views feed, and works on every
version. The settings that the server lets nobody change are known from `system.settings`; one that has
the wanted value already is in nobody's way, because it is not sent then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigError, EngineError
from engine.stores.clickhouse.activity import INSERT_SETTINGS
from engine.stores.clickhouse.attempts import UNMATCHED_SETTINGS
from engine.stores.clickhouse.client import answering, connect, parse_url
from engine.stores.clickhouse.division import all_of, urls_of
from engine.stores.clickhouse.inbound import INBOUND_SETTINGS
from engine.stores.clickhouse.report_periods import WINDOW_SETTINGS

# By table, the settings of its inserts.
_WRITTEN: dict[str, Mapping[str, Any]] = {
    "activity": {**INSERT_SETTINGS, "insert_deduplication_token": "check"},
    "kept_messages": {**INSERT_SETTINGS, "insert_deduplication_token": "check"},
    "receipts_unmatched": UNMATCHED_SETTINGS,
    "inbound_messages": INBOUND_SETTINGS,
    "report_series": {**WINDOW_SETTINGS, "insert_deduplication_token": "check"},
    "report_zones": {},
}


async def confirm_rights(url: str, timeout_s: float) -> None:
    """Confirm that the user may write the tables of each division of `url`, which must be of this version.

    Raises ConfigError, which says what is missing, and Unavailable. Killed or never answered: nothing
    was changed.
    """
    await all_of(_confirm_rights(one, timeout_s) for one in urls_of(url))


async def _confirm_rights(url: str, timeout_s: float) -> None:
    place = parse_url(url)
    client = await connect(place, database=place.database, timeout_s=timeout_s)
    try:
        for table, settings in _WRITTEN.items():
            if fixed := unchangeable(client.server_settings, settings):
                raise ConfigError(
                    f"ClickHouse does not let the user `{place.user}` change settings that the engine needs; "
                    f"allow it in the user's profile, or set there {', '.join(fixed)}."
                )
            try:
                async with answering(place, timeout_s):
                    await client.command(
                        f"INSERT INTO {table} SELECT * FROM {table} WHERE 0",  # noqa: S608 - our own names
                        settings=dict(settings),
                    )
            except ConfigError as e:
                raise ConfigError(f"ClickHouse's table `{table}` cannot be written: {_bare(e)}") from e
    finally:
        await client.close()


def unchangeable(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Settings, as `name = value`, that are not as wanted and that the user may not change.

    `known`: rows of `system.settings` by name, with `value` and `readonly`.
    """
    return [
        f"{name} = {value}"
        for name, value in wanted.items()
        if (row := known.get(name)) is not None and row.readonly and str(row.value) != str(value)
    ]


def _bare(error: EngineError) -> str:
    return str(error).partition(" refuses: ")[2] or str(error)
