"""Inbound messages: an organisation's are in its division, and those of nobody in that of organisation 0."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from engine.inbound.records import InboundMessage
from engine.stores.clickhouse.division import Divided, all_of
from engine.stores.clickhouse.inbound import ClickHouseInbound


class DividedInbound(Divided[ClickHouseInbound]):
    """The port `InboundStore`. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        """As `ClickHouseInbound`; `url` may be several."""
        super().__init__(url, partial(ClickHouseInbound, timeout_s=timeout_s))

    async def add(self, messages: Sequence[InboundMessage]) -> None:
        """Store messages."""
        divided: dict[ClickHouseInbound, list[InboundMessage]] = {}
        for message in messages:
            divided.setdefault(self.of(message.organisation_id), []).append(message)
        await all_of(division.add(part) for division, part in divided.items())

    async def page(self, organisation_id: int, before: tuple[int, str], limit: int) -> list[InboundMessage]:
        """As of `ClickHouseInbound`."""
        return await self.of(organisation_id).page(organisation_id, before, limit)
