"""Which messages of an organisation match a filter, and all events of a batch, from the table `activity`.

The table is kept in the order of organisation, time of acceptance and id, so a page is read from where it
begins, backwards, as far as it needs. `to` and `reference` have indexes that pass over granules without them
(migration 0008). Reads alone.

    the query takes longer than `_QUERY_S`   the server ends it and says so: Unavailable, which says that a
                                             shorter time is found faster
    the server is away                       Unavailable, which says that it cannot be reached
    frozen, or it never answers              Unavailable `_PATIENCE_S` later: it gives no answer

In the last two a shorter time would help nobody. All may be asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine import ids
from engine.activity.numbers import PLAIN, Numbers
from engine.activity.records import MessageFilter, MessageKey
from engine.batches import Batch
from engine.records import ActivityRow
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.clickhouse.client import TooSlow

# How long a query may take, and how much later the server's word that it took longer may come, seconds.
_QUERY_S, _PATIENCE_S = 6.0, 1.0

_MATCHING = """
SELECT message_id FROM activity
WHERE organisation_id = {organisation:Int64} AND event IN {events:Array(String)}
"""
_ORDER = """
ORDER BY accepted_at DESC, message_id DESC LIMIT 1 BY accepted_at, message_id LIMIT {limit:UInt32}
"""


class ClickHouseMessageList:
    """The port `ArchivedMessages`, on the store of the activity."""

    def __init__(self, store: ClickHouseActivityStore, numbers: Numbers = PLAIN) -> None:
        """`numbers`: how recipients' numbers are stored."""
        self._store = store
        self._numbers = numbers

    async def matching(
        self,
        organisation_id: int,
        wanted: MessageFilter,
        events: Sequence[str],
        before: str,
        limit: int,
    ) -> list[str]:
        """See `ArchivedMessages.matching`."""
        conditions: list[str] = []
        given: dict[str, Any] = {"organisation": organisation_id, "events": list(events), "limit": limit}

        def add(condition: str, **values: Any) -> None:
            conditions.append(f" AND {condition}")
            given.update(values)

        if before:
            at = "fromUnixTimestamp64Micro({before_us:Int64}, 'UTC')"
            add(f"accepted_at <= {at} AND (accepted_at, message_id) < ({at}, {{before:String}})",
                before=before, before_us=ids.accepted_at_us(before))  # fmt: skip
        if wanted.since_us:
            add("accepted_at >= fromUnixTimestamp64Micro({since_us:Int64}, 'UTC')", since_us=wanted.since_us)
        if wanted.until_us:
            add("accepted_at < fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')", until_us=wanted.until_us)
        if wanted.batch is not None:
            add("accepted_at = fromUnixTimestamp64Micro({batch_us:Int64}, 'UTC')"
                " AND message_id BETWEEN {first:String} AND {last:String}",
                batch_us=ids.accepted_at_us(wanted.batch.first), first=wanted.batch.first,
                last=wanted.batch.last)  # fmt: skip
        if wanted.to:
            add("`to` IN {to:Array(String)}", to=self._numbers.forms(wanted.to))
        for column in ("reference", "queue"):
            if value := getattr(wanted, column):
                add(f"`{column}` = {{{column}:String}}", **{column: value})
        try:
            query = _MATCHING + "".join(conditions) + _ORDER
            rows = await self._store.ask(query, given, _QUERY_S, _PATIENCE_S)
        except TooSlow as e:
            if wanted.batch is not None:
                # All of a batch was accepted at one time.
                raise
            detail = f"{e.detail.rstrip('.')}; a list of a shorter time (`since`, `until`) is found faster."
            raise TooSlow(detail, e.retry_after) from e
        return [str(message_id) for (message_id,) in rows]

    async def rows_of(self, messages: Sequence[MessageKey]) -> Mapping[MessageKey, Sequence[ActivityRow]]:
        """See `ArchivedMessages.rows_of`."""
        return await self._store.rows_of(messages, _QUERY_S)

    async def rows_of_batch(self, organisation_id: int, batch: Batch) -> list[ActivityRow]:
        """See `ArchivedMessages.rows_of_batch`."""
        found = await self.matching(
            organisation_id, MessageFilter(batch=batch), ("accepted", "scheduled"), "", batch.size
        )
        at_us = ids.accepted_at_us(batch.first)
        assert at_us is not None
        keys = [MessageKey(organisation_id, message_id, at_us) for message_id in found]
        return [row for rows in (await self.rows_of(keys)).values() for row in rows]
