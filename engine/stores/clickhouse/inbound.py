"""Inbound messages in ClickHouse (`engine.inbound.ports.InboundStore`).

Under failure: a message that is inserted twice is there once, and reads change nothing; so every call may be
repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any

from clickhouse_connect.datatypes.registry import get_from_name

from engine.inbound.records import InboundMessage
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering

# Answer after the rows are stored, with the outcome.
INBOUND_SETTINGS = {"async_insert": 0, "wait_end_of_query": 1}
_COLUMNS = {
    "organisation_id": "Int64",
    "at": "DateTime64(6, 'UTC')",
    "id": "String",
    "provider": "LowCardinality(String)",
    "sender": "String",
    "recipient": "String",
    "text": "String",
    "keyword": "String",
    "action": "LowCardinality(String)",
    "missing_parts": "UInt8",
}
_PAGE = """
SELECT organisation_id, at, id, provider, sender, recipient, text, keyword, action, missing_parts
FROM inbound_messages FINAL
WHERE organisation_id = {organisation:Int64}
    AND (at, id) < (fromUnixTimestamp64Micro({at_us:Int64}, 'UTC'), {id:String})
ORDER BY at DESC, id DESC LIMIT {limit:UInt32}"""


class ClickHouseInbound(ClickHouseAdapter):
    """The port `InboundStore`. Connects at the first use, and again after a failure.

    Every call raises Unavailable, and ConfigError when an operator must act.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        """`timeout_s`: the deadline of each call, seconds. Raises ConfigError for a malformed URL."""
        super().__init__(url, timeout_s)

    async def add(self, messages: Sequence[InboundMessage]) -> None:
        """Store messages."""
        columns: list[list[Any]] = [[getattr(message, name) for message in messages] for name in _COLUMNS]
        columns[1] = [round(message.at.timestamp() * 1e6) for message in messages]
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            await client.insert(
                "inbound_messages",
                columns,
                column_names=list(_COLUMNS),
                column_types=[get_from_name(kind) for kind in _COLUMNS.values()],
                column_oriented=True,
                settings=INBOUND_SETTINGS,
            )

    async def page(self, organisation_id: int, before: tuple[int, str], limit: int) -> list[InboundMessage]:
        """At most `limit` messages of an organisation, 0 for those of nobody, the newest first.

        `before`: time, microseconds, and id, behind which the page begins.
        """
        parameters = {"organisation": organisation_id, "at_us": before[0], "id": before[1], "limit": limit}
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            found = await client.query(_PAGE, parameters=parameters)
        return [_message(row) for row in found.result_rows]


def _message(row: Sequence[Any]) -> InboundMessage:
    """The driver gives times in UTC without their zone."""
    fields = dict(zip(_COLUMNS, row, strict=True))
    return InboundMessage(**fields | {"at": fields["at"].replace(tzinfo=UTC)})
