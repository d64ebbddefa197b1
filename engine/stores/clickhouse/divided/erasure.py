"""Erases a number from every division: any of them may have it."""

from __future__ import annotations

from functools import partial

from engine.activity.numbers import PLAIN, Numbers
from engine.stores.clickhouse.division import Divided, all_of
from engine.stores.clickhouse.erasure import ClickHouseErasure


class DividedErasure(Divided[ClickHouseErasure]):
    """Erases in all divisions. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str, timeout_s: float = 20.0, numbers: Numbers = PLAIN) -> None:
        """As `ClickHouseErasure`; `url` may be several."""
        super().__init__(url, partial(ClickHouseErasure, timeout_s=timeout_s, numbers=numbers))

    async def erase(self, number: str) -> None:
        """Begin to erase a number, in E.164 with the plus sign, in every division. Safe to repeat: when one
        does not answer, the others have begun."""
        await all_of(division.erase(number) for division in self.divisions)

    async def under_way(self) -> int:
        """How many changes of tables are not done yet, of all divisions."""
        return sum(await all_of(division.under_way() for division in self.divisions))
