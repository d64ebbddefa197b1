"""The prices that are in force, as one process knows them.

A process looks every second whether the version of the table in PostgreSQL has changed,
and then reads the table and swaps it whole: a submission is priced by one table, before
or after the change. Nobody who asks for a price ever waits.

Under failure. PostgreSQL away: the prices last known stay in force; a change that nobody
could make meanwhile is not missed. Before any were known: Unavailable, rather than a
price from a configuration that the table has overruled long ago. Frozen: prices are as
old as the freeze for a second after it.
"""

from __future__ import annotations

import asyncio

import structlog

from engine.errors import ConfigError, Unavailable
from engine.intake.ports import PriceStore
from engine.intake.pricing import PriceTable

log = structlog.get_logger("prices")

_LOOK_S = 1.0


class PriceList:
    """`refresh` once before serving, then `run` until canceled."""

    def __init__(self, store: PriceStore, look_s: float = _LOOK_S) -> None:
        self._store = store
        self._look_s = look_s
        self._version = 0
        self._table: PriceTable | None = None
        self._away = False

    def units_per_segment(self, to: str) -> int:
        """The price of this destination. Raises Unavailable while no prices are known.

        Between two awaits of the caller all answers are by the same table.
        """
        if self._table is None:
            raise Unavailable("The prices are not known yet.")
        return self._table.units_per_segment(to)

    async def refresh(self) -> None:
        """Look once; what cannot be learned is left as it was."""
        try:
            if await self._store.version() != self._version:
                sheet = await self._store.read()
                if sheet.prices:
                    self._table = PriceTable(sheet.prices)
                self._version = sheet.version
                log.info("prices in force", version=sheet.version, entries=len(sheet.prices))
            self._away = False
        except (Unavailable, ConfigError) as e:
            if not self._away:
                log.warning("prices cannot be looked up; the last known stay", reason=str(e))
            self._away = True

    async def run(self) -> None:
        """Keep up with changes, until canceled."""
        while True:
            await asyncio.sleep(self._look_s)
            await self.refresh()
