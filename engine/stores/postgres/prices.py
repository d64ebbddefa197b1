"""The price table in PostgreSQL.

Under failure. A change is one transaction: it took effect whole or not at all, and after
`Unavailable` nobody knows which; putting the same table again is safe, it changes nothing
the second time. Two that change at once come one after the other, the later one stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import Refusal
from engine.intake.pricing import first_wrong
from engine.records import PriceSheet
from engine.stores.postgres.pool import Pool

_VERSION = "SELECT version FROM price_version"
# One statement, so that version and prices are of one instant.
_READ = """
SELECT v.version, p.prefix, p.units FROM price_version v LEFT JOIN prices p ON true ORDER BY p.prefix"""
_LOCK = "SELECT version FROM price_version FOR UPDATE"
_REMOVE = "DELETE FROM prices WHERE prefix <> ALL($1::text[])"
# An entry that stays as it was keeps its `changed_at`.
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
        """The version that stands; 0: no prices were ever set."""
        async with self._pool.connection() as connection:
            version: int = await connection.fetchval(_VERSION)
        return version

    async def read(self) -> PriceSheet:
        """The table, by prefix; empty as long as no prices were ever set."""
        async with self._pool.connection() as connection:
            return await _read(connection)

    async def replace(self, prices: Mapping[str, int], version: int | None = None) -> PriceSheet:
        """Let the table be `prices` and nothing else; the same again changes nothing.

        `version`: only if that one stands; None: whichever does. Raises Refusal 422 naming
        the entry that is wrong, 409 when another version stands.
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
            return await _write(connection, prices)

    async def seed(self, prices: Mapping[str, int]) -> bool:
        """Fill a table that is empty; whether this call did."""
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
