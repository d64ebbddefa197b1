"""Attempts by the ids that providers gave them, in all divisions.

A receipt names its message by an id of the provider, and no organisation: so each look-up goes to all
divisions. Receipts that are given up belong to no organisation and are in the first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from engine.activity.numbers import PLAIN, Numbers
from engine.activity.records import AttemptRecord
from engine.receipts.match import Reason
from engine.receipts.records import Receipt
from engine.records import Message
from engine.stores.clickhouse.attempts import ClickHouseAttempts, key_of
from engine.stores.clickhouse.division import Divided, all_of


class DividedAttempts(Divided[ClickHouseAttempts]):
    """The port `AttemptStore`. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str, timeout_s: float = 30.0, numbers: Numbers = PLAIN) -> None:
        """As `ClickHouseAttempts`; `url` may be several."""
        super().__init__(url, partial(ClickHouseAttempts, timeout_s=timeout_s, numbers=numbers))

    async def filed(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], list[AttemptRecord]]:
        """The attempts under each key, (provider, form of the id); keys without any are absent."""
        names = {key_of(*key): key for key in keys}
        return {names[number]: filed for number, filed in (await self._under(names)).items()}

    async def filed_by_message(self, message_ids: Collection[str]) -> dict[str, list[AttemptRecord]]:
        """The attempts of each message, by message id; messages without any are absent. Others that are filed
        under the same keys come with them, as in one division."""
        found = await all_of(division.keys_of(message_ids) for division in self.divisions)
        places = [place for part in found for place in part]
        under = await self._under({key for _, key in places})
        filed: dict[str, list[AttemptRecord]] = {}
        for message_id, key in places:
            filed.setdefault(message_id, []).extend(under.get(key, ()))
        return filed

    async def kept(self, attempts: Collection[tuple[str, int]]) -> dict[tuple[str, int], Message]:
        """The kept messages of attempts, by (message id, number of the attempt); others are absent."""
        found = await all_of(division.kept(attempts) for division in self.divisions)
        return {attempt: message for part in found for attempt, message in part.items()}

    async def give_up(self, receipts: Sequence[tuple[Receipt, Reason]], now_us: int) -> None:
        """Record receipts that match no message, each with the reason, as given up at `now_us`."""
        await self.divisions[0].give_up(receipts, now_us)

    async def unmatched(self, since_s: int) -> int:
        """How many receipts were given up since `since_s`, seconds since 1970."""
        return await self.divisions[0].unmatched(since_s)

    async def _under(self, keys: Collection[int]) -> dict[int, list[AttemptRecord]]:
        filed: dict[int, list[AttemptRecord]] = {}
        for part in await all_of(division.under(keys) for division in self.divisions):
            for key, records in part.items():
                filed.setdefault(key, []).extend(records)
        return filed
