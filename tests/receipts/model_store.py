"""A model of what the matching of receipts asks of ClickHouse: attempts as its views file them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from random import Random
from typing import Any

import msgspec

from engine.activity.records import AttemptRecord
from engine.errors import Unavailable
from engine.receipts.ids import normal
from engine.receipts.match import Reason
from engine.receipts.records import Receipt
from engine.records import ActivityRow, Message

_rows = msgspec.msgpack.Decoder(list[ActivityRow]).decode
# What the record of an attempt has of its row, and the records of what receipts made of it.
_ALL = AttemptRecord.__struct_fields__
_FIRST = _ALL[: _ALL.index("segment") + 1]


class ModelStore:
    """The port `AttemptStore`; some of its answers never come. `rows`: all that was archived."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._filed: dict[tuple[str, str], list[AttemptRecord]] = defaultdict(list)
        self.rows: list[ActivityRow] = []

    def archive(self, blob: bytes) -> None:
        """Store the rows of an entry of the activity."""
        for row in _rows(blob):
            self.rows.append(row)
            fields = _ALL if row.event == "sent" else _FIRST
            filed: Any = AttemptRecord(**{name: getattr(row, name) for name in fields})
            for name in (row.provider_message_id or row.message_id).split(","):
                self._filed[row.provider, normal(name)].append(filed)

    async def filed(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], list[AttemptRecord]]:
        if self._rng.random() < 0.05:
            raise Unavailable("the store is away")
        return {key: list(self._filed[key]) for key in keys if key in self._filed}

    async def filed_by_message(self, message_ids: Collection[str]) -> dict[str, list[AttemptRecord]]:
        return {
            name: [f for some in self._filed.values() for f in some if f.message_id == name]
            for name in message_ids
        }

    async def kept(self, attempts: Collection[tuple[str, int]]) -> dict[tuple[str, int], Message]:
        return {}

    async def give_up(self, receipts: Sequence[tuple[Receipt, Reason]], now_us: int) -> None:
        raise AssertionError("nothing is given up")
