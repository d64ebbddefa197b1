"""Activity in all divisions.

Under failure. A block is divided by its rows alone, so a block that is sent again is divided as before. Each
division gets its part under the token of the block, and remembers it by itself: what was stored in one before
another failed is recognised there when the whole block comes again. Killed in between, or never answered:
some divisions have their part; the same insert completes the others.

A division remembers the last 1,000 tokens (`engine.stores.clickhouse.activity`). So while a part is tried
again in one division, others must not go on to take blocks. Two things see to that:

  - A division for which a block has no rows takes an insert of no rows first, and the parts are sent only
    after that. So while one division is away, nobody stores a block anywhere: an archiver stores at most the
    parts of the one block that it had begun.
  - A process does not send a part again that was taken, as long as it tries that block. So also where a
    division takes inserts of no rows and refuses others, only an archiver that takes over the block of
    another sends those parts again. That is recognised if less than 1,000 blocks came since.

While one division is away nothing is archived, in none: blocks wait in Redis, and go on when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from engine.activity.records import ActivityBlock, MessageKey
from engine.credit.laws import Units
from engine.records import ActivityRow, Message
from engine.shards import shard_of
from engine.stores.clickhouse.activity import COLUMNS, ClickHouseActivityStore
from engine.stores.clickhouse.divided._divide import divide
from engine.stores.clickhouse.division import Divided, all_of
from engine.stream_id import StreamId

_WIDTHS = {"Bool": 1, "UInt16": 2, "UInt32": 4, "UInt64": 8, "Int64": 8, "String": 0}
# A time is one of 64 bits.
_OF_COLUMNS = [_WIDTHS.get(kind, 8) for kind in COLUMNS.values()]
_ORGANISATIONS = list(COLUMNS).index("organisation_id")
# Blocks that were begun and not completed. An archiver tries one at a time, and others may complete it.
_BEGUN_MAX = 100
_message = msgspec.json.Decoder(Message).decode


class DividedActivityStore(Divided[ClickHouseActivityStore]):
    """The port `ActivityStore`. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str, timeout_s: float = 30.0) -> None:
        """As `ClickHouseActivityStore`; `url` may be several."""
        super().__init__(url, partial(ClickHouseActivityStore, timeout_s=timeout_s))
        # By token, the divisions that took their part of a block which another division did not take yet.
        self._taken: dict[str, set[int]] = {}

    async def insert(self, block: ActivityBlock, token: str) -> None:
        """Store the block as a whole, in each division its own rows; a second insert with the same `token`
        stores nothing. Raises also when a division takes no inserts for which the block has no rows."""
        if len(self.divisions) == 1:
            await self.divisions[0].insert(block, token)
            return
        if not block.rows:
            return
        parts = await asyncio.to_thread(parts_of, block, len(self.divisions))
        each = list(enumerate(zip(self.divisions, parts, strict=True)))
        await all_of(division.insert_nothing() for _, (division, part) in each if not part.rows)
        # The latest stands last; the first has waited longest.
        taken = self._taken[token] = self._taken.pop(token, set())
        if len(self._taken) > _BEGUN_MAX:
            del self._taken[next(iter(self._taken))]

        async def insert_part(number: int, division: ClickHouseActivityStore, part: ActivityBlock) -> None:
            await division.insert(part, token)
            taken.add(number)

        await all_of(
            insert_part(number, division, part)
            for number, (division, part) in each
            if part.rows and number not in taken
        )
        self._taken.pop(token, None)

    async def rows_of(
        self, messages: Sequence[MessageKey], timeout_s: float | None = None
    ) -> dict[MessageKey, list[ActivityRow]]:
        """As of `ClickHouseActivityStore`: each division is asked for the messages of its organisations."""
        asked: dict[ClickHouseActivityStore, list[MessageKey]] = {}
        for key in messages:
            asked.setdefault(self.of(key.organisation_id), []).append(key)
        found = await all_of(division.rows_of(keys, timeout_s) for division, keys in asked.items())
        return {key: rows for part in found for key, rows in part.items()}

    async def ping(self, timeout_s: float) -> None:
        """Ask whether all divisions answer within `timeout_s` seconds."""
        await all_of(division.ping(timeout_s) for division in self.divisions)

    async def units_between(
        self, shard: int, first: StreamId, end: StreamId, timeout_s: float
    ) -> tuple[dict[int, Units], int]:
        """As of `ClickHouseActivityStore`, of all divisions together."""
        found = await all_of(
            division.units_between(shard, first, end, timeout_s) for division in self.divisions
        )
        return {of: units for part, _ in found for of, units in part.items()}, sum(rows for _, rows in found)

    async def ask(self, query: str, parameters: Mapping[str, Any], timeout_s: float) -> list[Sequence[Any]]:
        """The rows of an answer about many events, those of one division after those of another."""
        found = await all_of(division.ask(query, parameters, timeout_s) for division in self.divisions)
        return [row for rows in found for row in rows]


def parts_of(block: ActivityBlock, divisions: int) -> list[ActivityBlock]:
    """The rows of a block by division. It follows from the block alone."""
    kept: list[list[tuple[str, int, str]]] = [[] for _ in range(divisions)]
    for message in block.kept:
        kept[_division_of(message[2], divisions)].append(message)
    parts = divide(block.columns, _OF_COLUMNS, block.rows, _ORGANISATIONS, divisions)
    return [
        ActivityBlock(rows=rows, columns=columns, kept=of)
        for (rows, columns), of in zip(parts, kept, strict=True)
    ]


def _division_of(encoded: str, divisions: int) -> int:
    """The division of a message that is kept; what cannot be decoded is stored in none."""
    try:
        return shard_of(_message(encoded).organisation_id, divisions)
    except msgspec.DecodeError:
        return 0
