"""What the intake asks of whoever knows the prices."""

from __future__ import annotations

from typing import Protocol

from engine.records import PriceSheet


class Prices(Protocol):
    """What a segment costs now (see price_list.PriceList and pricing.PriceTable)."""

    def units_per_segment(self, to: str) -> int:
        """Without waiting; the same table answers until the caller awaits something."""


class PriceStore(Protocol):
    """Where the prices are kept. Every call raises Unavailable."""

    async def version(self) -> int:
        """Goes up with each change; cheap to ask."""

    async def read(self) -> PriceSheet:
        """All prices; none as long as nobody has set any."""
