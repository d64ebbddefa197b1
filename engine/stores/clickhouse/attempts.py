"""Attempts by the ids that providers gave them, in ClickHouse (`engine.receipts.ports.AttemptStore`).

All rows come from the activity, by the views of 0003_receipts.sql: every attempt in the table
`activity` is found here. Under failure: these are reads, and one insert that may be sent again, so
every call may be repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from clickhouse_connect.datatypes.registry import get_from_name

from engine import message_format
from engine.activity.numbers import PLAIN, Numbers
from engine.activity.records import AttemptRecord
from engine.receipts.match import Reason
from engine.receipts.records import Receipt
from engine.records import Message
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering

_UNMATCHED_SINCE = """
SELECT count() FROM receipts_unmatched FINAL WHERE given_up_at >= fromUnixTimestamp({since:UInt32})
"""
# PREWHERE: the column `row`, which is most of the bytes, is read only where a key was found.
# One thread reads thousands of small granules as fast as two, and leaves the other core free.
# Blocks have no size limit in bytes: with the usual one each would hold a few granules only, which
# costs half as much CPU again.
_FILED = """
SELECT key, row FROM outstanding PREWHERE key IN {keys:Array(UInt64)}
SETTINGS max_threads = 1, preferred_block_size_bytes = 0, local_filesystem_read_method = 'pread'
"""
_KEYS_OF_MESSAGES = """
SELECT message_id, key FROM outstanding_messages PREWHERE message_id IN {ids:Array(String)}
"""
_KEPT = """
SELECT message_id, attempt, message FROM kept_messages
WHERE (message_id, attempt) IN {attempts:Array(Tuple(String, UInt16))}
"""
# Answer after the rows are stored, with the outcome.
UNMATCHED_SETTINGS = {"async_insert": 0, "wait_end_of_query": 1}
_UNMATCHED = {
    "at": "DateTime64(6, 'UTC')",
    "provider": "String",
    "provider_message_id": "String",
    "message_id": "String",
    "state": "String",
    "code": "String",
    "to": "String",
    "reason": "String",
    "given_up_at": "DateTime('UTC')",
}


def key_of(provider: str, form: str) -> int:
    """The key of an attempt in `outstanding`: ClickHouse's halfMD5 of '<provider>:<form>', 64 bits.

    It protects nothing; it only spreads evenly.
    """
    digest = hashlib.md5(f"{provider}:{form}".encode("utf-8", "replace"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big")


class ClickHouseAttempts(ClickHouseAdapter):
    """The port `AttemptStore`. Connects at the first use, and again after a failure.

    Every call raises Unavailable, and ConfigError when an operator must act.
    """

    def __init__(self, url: str, timeout_s: float = 30.0, numbers: Numbers = PLAIN) -> None:
        """`timeout_s`: the deadline of each call, seconds. `numbers`: how those of receipts that are given
        up are stored. Raises ConfigError for a malformed URL."""
        super().__init__(url, timeout_s)
        self._numbers = numbers
        # Not strict: a server may write large numbers as JSON strings.
        self._filed = msgspec.json.Decoder(AttemptRecord, strict=False).decode

    async def filed(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], list[AttemptRecord]]:
        """The attempts under each key, (provider, form of the id); keys without any are absent."""
        names = {key_of(*key): key for key in keys}
        return {names[number]: filed for number, filed in (await self.under(names)).items()}

    async def filed_by_message(self, message_ids: Collection[str]) -> dict[str, list[AttemptRecord]]:
        """The attempts of each message, by message id; messages without any are absent."""
        found = await self.keys_of(message_ids)
        under = await self.under({key for _, key in found})
        filed: dict[str, list[AttemptRecord]] = {}
        for message_id, key in found:
            filed.setdefault(message_id, []).extend(under.get(key, ()))
        return filed

    async def kept(self, attempts: Collection[tuple[str, int]]) -> dict[tuple[str, int], Message]:
        """The kept messages of attempts, by (message id, number of the attempt); others are absent."""
        if not attempts:
            return {}
        found = await self._query(_KEPT, {"attempts": list(attempts)}, {"message": "bytes"})
        return {
            (message_id, attempt): message_format.from_json(message) for message_id, attempt, message in found
        }

    async def give_up(self, receipts: Sequence[tuple[Receipt, Reason]], now_us: int) -> None:
        """Record receipts that match no message, each with the reason, as given up at `now_us`.

        A second insert of the same ones is merged with the first by the table.
        """
        columns: list[list[Any]] = [
            [r.at_us for r, _ in receipts],
            [r.provider for r, _ in receipts],
            [r.provider_message_id for r, _ in receipts],
            [r.message_id for r, _ in receipts],
            [r.state for r, _ in receipts],
            [r.code for r, _ in receipts],
            [self._stored(r.to) for r, _ in receipts],
            [reason for _, reason in receipts],
            [now_us // 1_000_000] * len(receipts),
        ]
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            await client.insert(
                "receipts_unmatched",
                columns,
                column_names=list(_UNMATCHED),
                column_types=[get_from_name(kind) for kind in _UNMATCHED.values()],
                column_oriented=True,
                settings=UNMATCHED_SETTINGS,
            )

    def _stored(self, digits: str) -> str:
        """What is stored for the digits in a receipt that is given up."""
        if not digits or not self._numbers.hashed:
            return digits
        return self._numbers.stored(f"+{digits}".encode()).decode()

    async def unmatched(self, since_s: int) -> int:
        """How many receipts were given up since `since_s`, seconds since 1970."""
        return int((await self._query(_UNMATCHED_SINCE, {"since": since_s}))[0][0])

    async def keys_of(self, message_ids: Collection[str]) -> list[tuple[str, int]]:
        """Where the attempts of messages are filed: (message id, key)."""
        if not message_ids:
            return []
        found = await self._query(_KEYS_OF_MESSAGES, {"ids": list(message_ids)})
        return [(message_id, key) for message_id, key in found]

    async def under(self, keys: Collection[int]) -> dict[int, list[AttemptRecord]]:
        """The attempts under each key (`key_of`); keys without any are absent."""
        filed: dict[int, list[AttemptRecord]] = {}
        if keys:
            for key, row in await self._query(_FILED, {"keys": list(keys)}, {"row": "bytes"}):
                filed.setdefault(key, []).append(self._filed(row))
        return filed

    async def _query(
        self, sql: str, parameters: dict[str, Any], formats: dict[str, str] | None = None
    ) -> Sequence[Sequence[Any]]:
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            found = await client.query(sql, parameters=parameters, column_formats=formats)
        rows: Sequence[Sequence[Any]] = found.result_rows
        return rows
