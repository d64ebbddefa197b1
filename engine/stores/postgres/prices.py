"""The price table in PostgreSQL.

Under failure. A change is one transaction: it takes effect as a whole or not at all. After
`Unavailable` nobody knows which. Putting the same table again is safe; it changes nothing the second
time. Two changes at once are made one after the other, and the later one stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.changes import difference
from engine.errors import Refusal
from engine.intake.pricing import first_wrong
from engine.records import PriceSheet
from engine.stores.postgres.changes import note_change
from engine.stores.postgres.pool import Pool

_VERSION = "SELECT version FROM price_version"
# One statement, so that version and prices belong together.
_READ = """
SELECT v.version, p.prefix, p.units FROM price_version v LEFT JOIN prices p ON true ORDER BY p.prefix"""
_LOCK = "SELECT version FROM price_version FOR UPDATE"
_REMOVE = "DELETE FROM prices WHERE prefix <> ALL($1::text[])"
# An entry that does not change keeps its `changed_at`.
_WRITE = """
INSERT INTO prices (prefix, units) SELECT * FROM unnest($1::text[], $2::int[])
ON CONFLICT (prefix) DO UPDATE SET units = EXCLUDED.units, changed_at = now()
WHERE prices.units <> EXCLUDED.units"""
_COUNT_UP = "UPDATE price_version SET version = version + 1"


class Prices:
    """Reads and replaces the whole table. Every call raises Unavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def version(self) -> int:
        """The present version; 0 when no prices were ever set."""
        async with self._pool.connection() as connection:
            version: int = await connection.fetchval(_VERSION)
        return version

    async def read(self) -> PriceSheet:
        """The present table, units a segment by prefix; empty when no prices were ever set."""
        async with self._pool.connection() as connection:
            return await _read(connection)

    async def replace(self, prices: Mapping[str, int], version: int | None = None) -> PriceSheet:
        """Replace the whole table by `prices`; returns the table then. The same prices change nothing.

        `version`: replace only this version; None: any. Raises Refusal 422, which names the wrong
        entry, and 409 when another version is there.
        """
        if wrong := first_wrong(prices):
            field, allowed = wrong
            raise Refusal("invalid_field", 422, f"`{field}` must be {allowed}.", field)
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            now = await _read(connection)
            if now.prices == prices:
                return now
            if version not in (None, now.version):
                detail = f"The prices were changed meanwhile: version {now.version} stands, not {version}."
                raise Refusal("version_conflict", 409, detail, "version")
            sheet = await _write(connection, prices)
            before, after = difference(now.prices, sheet.prices)
            await note_change(
                connection,
                {"version": now.version, "prices": before},
                {"version": sheet.version, "prices": after},
            )
            return sheet

    async def seed(self, prices: Mapping[str, int]) -> bool:
        """Write `prices` if the table is empty; whether this call did."""
        async with self._pool.transaction() as connection:
            await connection.execute(_LOCK)
            if (await _read(connection)).prices:
                return False
            await _write(connection, prices)
        return True


async def _read(connection: Any) -> PriceSheet:
    rows = await connection.fetch(_READ)
    prices = {prefix: units for _, prefix, units in rows if prefix is not None}
    return PriceSheet(version=rows[0][0], prices=prices)


async def _write(connection: Any, prices: Mapping[str, int]) -> PriceSheet:
    await connection.execute(_REMOVE, list(prices))
    await connection.execute(_WRITE, list(prices), list(prices.values()))
    await connection.execute(_COUNT_UP)
    return await _read(connection)
