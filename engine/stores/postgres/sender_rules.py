"""Who may use which senders, and what destinations take, in PostgreSQL.

Under failure. A change is one transaction: it takes effect as a whole or not at all. After `Unavailable`
nobody knows which. Asking for the same again is safe; it changes nothing the second time. Two changes at once
are made one after the other, and the later one stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from engine.changes import difference
from engine.errors import Refusal
from engine.intake.phone_numbers import sender as sender_id
from engine.intake.records import (
    SENDER_KINDS,
    DestinationSheet,
    SenderKind,
    SenderRules,
    SenderRulesChanges,
)
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.directory import no_organisation
from engine.stores.postgres.pool import Pool

ENTRIES_MAX = 1_000
_PREFIX = re.compile(r"\+[0-9]{1,15}")
_SHOWN_MAX = 20

_CHANGES = """
SELECT v.version, r.organisation_id, r.senders, r.default_sender, r.destinations
FROM sender_rules_version v LEFT JOIN sender_rules r ON r.version > $1"""
_LOCK = "SELECT version FROM sender_rules_version FOR UPDATE"
_COUNT_UP = """
UPDATE sender_rules_version
SET version = greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint)
RETURNING version"""
_OF = """
SELECT r.senders, coalesce(r.default_sender, ''), r.destinations
FROM organisations o LEFT JOIN sender_rules r ON r.organisation_id = o.id WHERE o.id = $1"""
_WRITE = """
INSERT INTO sender_rules (organisation_id, senders, default_sender, destinations, version)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (organisation_id) DO UPDATE
SET (senders, default_sender, destinations, version)
    = (EXCLUDED.senders, EXCLUDED.default_sender, EXCLUDED.destinations, EXCLUDED.version)"""
# One statement, so that the version and the rules belong together.
_DESTINATIONS = """
SELECT v.version, d.prefix, d.senders
FROM sender_rules_version v LEFT JOIN destination_rules d ON true ORDER BY d.prefix"""
_REMOVE_DESTINATIONS = "DELETE FROM destination_rules"
_WRITE_DESTINATION = "INSERT INTO destination_rules (prefix, senders) VALUES ($1, $2)"


class SenderBook:
    """Reads and changes the rules. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def changes(self, since: int) -> SenderRulesChanges:
        """What was set after the version `since`; all of it after 0."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_CHANGES, since)
        return SenderRulesChanges(
            rows[0][0], {row[1]: _rules(*row[2:]) for row in map(tuple, rows) if row[1]}
        )

    async def of(self, organisation_id: int) -> SenderRules:
        """The rules of an organisation. Raises Refusal 404."""
        async with self._pool.connection() as connection:
            return await _of(connection, organisation_id)

    async def change(self, organisation_id: int, values: Mapping[str, Any]) -> SenderRules:
        """Set those of the fields of `SenderRules` that `values` names. Returns the rules then.

        Doing it again changes nothing. Raises Refusal 404, 422.
        """
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            now = await _of(connection, organisation_id)
            wanted = _checked(msgspec.structs.replace(now, **values))
            if wanted != now:
                version = await connection.fetchval(_COUNT_UP)
                await connection.execute(
                    _WRITE, organisation_id, wanted.senders, wanted.default, wanted.destinations, version
                )
                before, after = map(msgspec.structs.asdict, (now, wanted))
                await note_change(connection, *difference(before, after))
            return wanted

    async def destinations(self) -> DestinationSheet:
        """What destinations take."""
        async with self._pool.connection() as connection:
            return await _destinations(connection)

    async def replace_destinations(
        self, rules: Mapping[str, tuple[SenderKind, ...]], version: int | None = None
    ) -> DestinationSheet:
        """Let `rules` be what all destinations take; the sheet then. The same rules change nothing.

        `version`: replace only this version; None: any. Raises Refusal 422, and 409 when another one stands.
        """
        _check_prefixes("rules", (prefix for prefix in rules if prefix))
        wanted = {prefix: tuple(k for k in SENDER_KINDS if k in kinds) for prefix, kinds in rules.items()}
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            now = await _destinations(connection)
            if now.rules == wanted:
                return now
            if version not in (None, now.version):
                detail = f"The rules were changed meanwhile: version {now.version} stands, not {version}."
                raise Refusal("version_conflict", 409, detail, "version")
            await connection.execute(_REMOVE_DESTINATIONS)
            await connection.executemany(_WRITE_DESTINATION, list(wanted.items()))
            await connection.fetchval(_COUNT_UP)
            await note_change(connection, *difference(now.rules, wanted))
            return await _destinations(connection)


def _checked(rules: SenderRules) -> SenderRules:
    """The rules with every sender in the one form that messages have it in. Raises Refusal 422."""
    senders = rules.senders
    if senders is not None:
        _check_count("senders", len(senders))
        senders = tuple(dict.fromkeys(_sender(f"senders[{n}]", text) for n, text in enumerate(senders)))
    default = _sender("default", rules.default) if rules.default else ""
    if default and senders is not None and default not in senders:
        raise Refusal("invalid_field", 422, "`default` must be one of `senders`, or empty.", "default")
    destinations = rules.destinations
    if destinations is not None:
        _check_prefixes("destinations", destinations)
        destinations = tuple(dict.fromkeys(destinations))
    return SenderRules(senders=senders, default=default, destinations=destinations)


def _sender(field: str, text: str) -> str:
    try:
        if text:
            return sender_id(text)
    except Refusal as refusal:
        detail = refusal.detail.replace("`from` must", f"`{field}` must", 1)
        raise Refusal(refusal.code, refusal.status, detail, field) from refusal
    raise Refusal("invalid_sender", 422, f"`{field}` must be a sender, not empty.", field)


def _check_prefixes(field: str, prefixes: Iterable[str]) -> None:
    count = 0
    for prefix in prefixes:
        count += 1
        if not _PREFIX.fullmatch(prefix):
            named = f'{field}["{prefix[:_SHOWN_MAX]}"]'
            detail = f'`{named}` must be a prefix such as "+98", "+" and 1 to 15 digits.'
            raise Refusal("invalid_field", 422, detail, named)
    _check_count(field, count)


def _check_count(field: str, count: int) -> None:
    if count > ENTRIES_MAX:
        raise Refusal("invalid_field", 422, f"`{field}` must have at most {ENTRIES_MAX} entries.", field)


async def _of(connection: Any, organisation_id: int) -> SenderRules:
    row = await connection.fetchrow(_OF, organisation_id)
    if row is None:
        raise no_organisation()
    return _rules(*row)


def _rules(senders: list[str] | None, default: str, destinations: list[str] | None) -> SenderRules:
    return SenderRules(
        senders=None if senders is None else tuple(senders),
        default=default,
        destinations=None if destinations is None else tuple(destinations),
    )


async def _destinations(connection: Any) -> DestinationSheet:
    rows = await connection.fetch(_DESTINATIONS)
    rules = {prefix: tuple(senders) for _, prefix, senders in rows if prefix is not None}
    return DestinationSheet(version=rows[0][0], rules=rules)
