"""Service: the prices that are in force, as one process knows them.

A process looks every second whether the version of the table in PostgreSQL has changed, and if so reads
the table and replaces it as a whole. So a submission is priced by one table, the one before the
change or the one after it. Nobody who asks for a price waits.

    PostgreSQL away             the prices last known stay in force; nobody can change them meanwhile
    away before any are known   Unavailable: the configuration may have a price that the table has
                                overruled long ago
    frozen                      for a second after it wakes, the process goes by the prices from before
"""

from __future__ import annotations

import structlog

from engine.clocks.waits import next_tick
from engine.errors import ConfigError, Unavailable
from engine.intake.ports import PriceStore
from engine.intake.pricing import PriceTable

log = structlog.get_logger("prices")

_LOOK_S = 1.0


class PriceList:
    """The prices in force. Call `refresh` once before serving, then `run` until canceled."""

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

    def in_force(self) -> tuple[dict[str, int], tuple[int, ...]]:
        """As `PriceTable.in_force`. Raises Unavailable while no prices are known."""
        if self._table is None:
            raise Unavailable("The prices are not known yet.")
        return self._table.in_force()

    async def refresh(self) -> None:
        """Look once whether the prices have changed. What cannot be read stays as it was."""
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
            await next_tick(self._look_s)
            await self.refresh()
