"""What a message costs: units per segment by the destination's prefix."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import ConfigError


class PriceTable:
    """Prices by prefix of the destination in E.164 form ("+98"); the longest that matches counts."""

    __slots__ = ("_base", "_lengths", "_prices")

    def __init__(self, prices: Mapping[str, int]) -> None:
        """Raises ConfigError unless "" has a price for all other destinations and all are at least 1."""
        if "" not in prices:
            raise ConfigError('The prices need an entry "" for all other destinations.')
        for prefix, price in prices.items():
            if price < 1:
                raise ConfigError(f'The price of prefix "{prefix}" must be at least 1 unit a segment.')
        self._prices = dict(prices)
        self._base = prices[""]
        # Only lengths that occur are looked up, the longest first; "" is what remains.
        self._lengths = tuple(sorted({len(prefix) for prefix in prices} - {0}, reverse=True))

    def units_per_segment(self, to: str) -> int:
        """Units for each segment to this destination; at most one look-up for each prefix length."""
        prices = self._prices
        for length in self._lengths:
            price = prices.get(to[:length])
            if price is not None:
                return price
        return self._base
