"""Which messages of an organisation match a filter: an organisation's messages are in its division."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.activity.numbers import PLAIN, Numbers
from engine.activity.records import MessageFilter, MessageKey
from engine.batches import Batch
from engine.records import ActivityRow
from engine.shards import shard_of
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.clickhouse.division import Divided, all_of
from engine.stores.clickhouse.message_list import ClickHouseMessageList


class DividedMessageList:
    """The port `ArchivedMessages` over all divisions."""

    def __init__(self, store: Divided[ClickHouseActivityStore], numbers: Numbers = PLAIN) -> None:
        """`numbers`: how recipients' numbers are stored."""
        self._divisions = [ClickHouseMessageList(division, numbers) for division in store.divisions]

    async def matching(
        self,
        organisation_id: int,
        wanted: MessageFilter,
        events: Sequence[str],
        before: str,
        limit: int,
    ) -> list[str]:
        """See `ArchivedMessages.matching`."""
        return await self._of(organisation_id).matching(organisation_id, wanted, events, before, limit)

    async def rows_of(self, messages: Sequence[MessageKey]) -> Mapping[MessageKey, Sequence[ActivityRow]]:
        """See `ArchivedMessages.rows_of`."""
        asked: dict[ClickHouseMessageList, list[MessageKey]] = {}
        for key in messages:
            asked.setdefault(self._of(key.organisation_id), []).append(key)
        found = await all_of(division.rows_of(keys) for division, keys in asked.items())
        return {key: rows for part in found for key, rows in part.items()}

    async def rows_of_batch(self, organisation_id: int, batch: Batch) -> list[ActivityRow]:
        """See `ArchivedMessages.rows_of_batch`."""
        return await self._of(organisation_id).rows_of_batch(organisation_id, batch)

    def _of(self, organisation_id: int) -> ClickHouseMessageList:
        return self._divisions[shard_of(organisation_id, len(self._divisions))]
