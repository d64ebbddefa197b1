"""Rule: what a message costs: units for each segment, by the prefix of its destination."""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.errors import ConfigError
from engine.prefix_table import PrefixTable

_UNITS_MAX = 1_000_000
_ENTRIES_MAX = 10_000
# E.164 numbers have no more digits.
_PREFIX = re.compile(r"(\+[0-9]{1,15})?")
_SHOWN_MAX = 20


class PriceTable:
    """Prices by prefix of the destination in E.164 form ("+98"). The longest prefix that matches counts."""

    __slots__ = ("_base", "_prices")

    def __init__(self, prices: Mapping[str, int]) -> None:
        """Raises ConfigError unless "" has a price for all other destinations and all are at least 1."""
        if "" not in prices:
            raise ConfigError('The prices need an entry "" for all other destinations.')
        for prefix, price in prices.items():
            if price < 1:
                raise ConfigError(f'The price of prefix "{prefix}" must be at least 1 unit a segment.')
        self._prices = PrefixTable(prices)
        self._base = prices[""]

    def units_per_segment(self, to: str) -> int:
        """Units for each segment to this destination; at most one look-up for each prefix length."""
        return self._prices.longest(to, self._base)

    def in_force(self) -> tuple[dict[str, int], tuple[int, ...]]:
        """The prices by prefix, and the lengths of the prefixes, the longest first. Neither ever changes."""
        return self._prices.values, self._prices.lengths


def first_wrong(prices: Mapping[str, int]) -> tuple[str, str] | None:
    """What is wrong with the table `prices`, as (field, what is allowed); None when nothing is."""
    if "" not in prices:
        return "prices", 'a table with an entry "" for all other destinations'
    if len(prices) > _ENTRIES_MAX:
        return "prices", f"a table of at most {_ENTRIES_MAX} entries"
    for prefix, units in prices.items():
        field = f'prices["{prefix[:_SHOWN_MAX]}"]'
        if not _PREFIX.fullmatch(prefix):
            return field, 'the entry of a prefix such as "+98", "+" and 1 to 15 digits'
        if not 1 <= units <= _UNITS_MAX:
            return field, f"from 1 to {_UNITS_MAX} units a segment"
    return None
