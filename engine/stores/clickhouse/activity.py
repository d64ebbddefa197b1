"""Activity in ClickHouse: the inserts of the archiver, and the reads by message and for the audit.

An insert is one HTTP request with one block in the Native format. The types of the columns are given
here, so that no insert has to ask the server for them. clickhouse_connect serialises and
compresses in threads of its own.

Under failure. Every insert carries the token of its block, so it may be sent any number
of times, by any number of archivers at once. The table, and each view that it feeds, remember
the last 1,000 tokens (`non_replicated_deduplication_window`; a block that spans two
months counts twice). Is that enough? There is one plan at a time. So other blocks can come
between two inserts of the same block only while the first sender is frozen between its last
look at its lease and the last byte of its request. It would have to sleep there for 1,000
blocks, which take minutes at full load and a quarter of an hour otherwise; and a server drops a
request whose body stalls (`http_receive_timeout`, 30 s by default).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from clickhouse_connect.datatypes.registry import get_from_name
from clickhouse_connect.driver.exceptions import DataError

from engine.activity.records import ActivityBlock, MessageKey
from engine.credit.laws import EVENTS_BY_CHARGE, Units
from engine.errors import Unavailable
from engine.records import ActivityRow, Message
from engine.stores.clickhouse.client import answering, connect, parse_url
from engine.stream_id import StreamId

# Column and type on the wire, in the order of ActivityRow without `kept`. The server turns
# strings into LowCardinality, which costs it less than it would cost Python.
_TIME = "DateTime64(6, 'UTC')"
_COLUMNS = {
    "at": _TIME,
    "organisation_id": "Int64",
    "message_id": "String",
    "accepted_at": _TIME,
    "event": "String",
    "queue": "String",
    "to": "String",
    "sender": "String",
    "encoding": "String",
    "segments": "UInt16",
    "units": "UInt32",
    "attempt": "UInt16",
    "provider": "String",
    "provider_message_id": "String",
    "code": "String",
    "latency_us": "UInt32",
    "reference": "String",
    "due_at": _TIME,
    "expires_at": _TIME,
    "outcome_unknown": "Bool",
    "segment": "UInt16",
    "shard": "UInt16",
    "stream_ms": "UInt64",
    "stream_seq": "UInt32",
}
INSERT_SETTINGS = {
    # Answer after the rows are stored, not after they are buffered.
    "async_insert": 0,
    # Answer with the outcome; without this the status 200 may go out before an error.
    "wait_end_of_query": 1,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # The server must not split a block, so that there is one token a partition.
    "min_insert_block_size_rows": 1_048_576,
    "min_insert_block_size_bytes": 1 << 30,
    "max_partitions_per_insert_block": 100,
    "input_format_native_allow_types_conversion": 1,
}
# Columns of `kept_messages`, the messages that may be sent again.
_KEPT_COLUMNS = {
    "message_id": "String",
    "attempt": "UInt16",
    "expires_at": "DateTime('UTC')",
    "message": "String",
}
# More events than any message has.
_ROWS_MAX = 10_000

_FIELDS = ActivityRow.__struct_fields__
_AT = {name: place for place, name in enumerate(_FIELDS)}
_STORED = [name for name in _FIELDS if name != "kept"]
_SELECT = ", ".join(
    f"toUnixTimestamp64Micro(`{name}`) AS {name}_us" if kind == _TIME else f"`{name}`"
    for name, kind in list(_COLUMNS.items())[: len(_STORED)]
)
# `rows_of`: the events of messages. The hint is not computed for each row; it only chooses what is read, by
# the first two columns of the sort key. A set is searched in it, so its cost hardly grows with the messages.
_ROWS_OF = f"""
SELECT {_SELECT}
FROM activity
WHERE indexHint((organisation_id, toDateTime(accepted_at, 'UTC')) IN ({{places}}))
  AND accepted_at BETWEEN fromUnixTimestamp64Micro({{{{from_us:Int64}}}}, 'UTC')
                      AND fromUnixTimestamp64Micro({{{{until_us:Int64}}}}, 'UTC')
  AND message_id IN {{{{ids:Array(String)}}}}
ORDER BY at
LIMIT {_ROWS_MAX} BY message_id
"""  # noqa: S608 - built from the constants above
# A millisecond before and after, because an id has the time to the millisecond.
_SLACK_US = 1000
# The type DateTime ends there, in 2106.
_TIMES_END_US = (2**32 - 1) * 1_000_000
_SUMS = ", ".join(f"sumIf(units, event IN {events!r})" for events in EVENTS_BY_CHARGE)
# `units_between`: the condition with BETWEEN makes ClickHouse read the projection `by_stream`.
_UNITS_BETWEEN = f"""
SELECT organisation_id, {_SUMS}, count()
FROM activity
WHERE shard = {{shard:UInt16}} AND stream_ms BETWEEN {{from_ms:UInt64}} AND {{end_ms:UInt64}}
  AND (stream_ms, toUInt64(stream_seq)) >= ({{from_ms:UInt64}}, {{from_seq:UInt64}})
  AND (stream_ms, toUInt64(stream_seq)) < ({{end_ms:UInt64}}, {{end_seq:UInt64}})
GROUP BY organisation_id
"""  # noqa: S608 - built from the constants above
# So few threads leave processors to inserts and look-ups; beyond so many bytes ClickHouse groups on its disk,
# so that a question about very many messages cannot take the memory of the server.
_UNITS_THREADS = 2
_GROUPED_BYTES = 400_000_000


class ClickHouseActivityStore:
    """The port `ActivityStore`. Connects at the first use, and again after a failure.

    Every call raises Unavailable, and ConfigError when an operator must act.
    """

    def __init__(self, url: str, timeout_s: float = 30.0) -> None:
        """`timeout_s`: the deadline of each call, seconds. Raises ConfigError for a malformed URL."""
        self._url = parse_url(url)
        self._timeout_s = timeout_s
        self._client: Any = None
        self._connecting = asyncio.Lock()
        self._message = msgspec.json.Decoder(Message).decode

    async def close(self) -> None:
        """Close the connections; the next call connects again."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def insert(self, block: ActivityBlock, token: str) -> None:
        """Store the block as a whole; a second insert with the same `token` stores nothing.

        Killed here: the server has all of it, or a view lacks it, or one of two months lacks it, or
        only the kept messages are there, which mean nothing by themselves. The same insert completes
        what is missing. Answered twice, never answered, time-out: insert again. Raises ValueError
        for a value that does not fit its column.
        """
        if not block.rows:
            return
        columns = list(block.columns)
        kept = columns.pop(_AT["kept"])
        # Before the rows, so that nobody sees a `sent` whose message is not there yet.
        if any(kept) and (messages := self._kept(block, kept)):
            await self._insert("kept_messages", _KEPT_COLUMNS, messages, token + "-kept")
        await self._insert("activity", _COLUMNS, columns, token)

    def _kept(self, block: ActivityBlock, kept: Sequence[Any]) -> list[list[Any]]:
        """The columns of `kept_messages`, without messages that cannot be decoded."""
        rows = []
        for message_id, attempt, encoded in zip(
            block.columns[_AT["message_id"]], block.columns[_AT["attempt"]], kept, strict=True
        ):
            if encoded:
                with contextlib.suppress(msgspec.DecodeError):
                    # Rounded up, because the message may be sent until its validity ends.
                    expires_at_s = self._message(encoded).expires_at_us // 1_000_000 + 1
                    rows.append((message_id, attempt, min(expires_at_s, 2**32 - 1), encoded))
        return [list(column) for column in zip(*rows, strict=True)]

    async def _insert(
        self, table: str, names_and_types: Mapping[str, str], columns: Sequence[Sequence[Any]], token: str
    ) -> None:
        client = await self._connected()
        try:
            async with answering(self._url, self._timeout_s):
                context = await client.create_insert_context(
                    table,
                    column_names=list(names_and_types),
                    column_types=[get_from_name(name) for name in names_and_types.values()],
                    column_oriented=True,
                    settings={**INSERT_SETTINGS, "insert_deduplication_token": token},
                )
                context.req_block_size = len(columns[0])
                await client.insert(data=columns, context=context)
        except Unavailable as e:
            if isinstance(e.__cause__, DataError):
                raise ValueError(str(e.__cause__)) from e
            raise

    async def rows_of(
        self, messages: Sequence[MessageKey], timeout_s: float | None = None
    ) -> dict[MessageKey, list[ActivityRow]]:
        """The events of each message by time, at most 10,000 of one; a message without any has [].

        One query, that reads a granule or two of the table for each message. `timeout_s`: the deadline
        with that of a connection, if one must be made; None: that of every call.
        """
        found: dict[MessageKey, list[ActivityRow]] = {key: [] for key in messages}
        # Anybody can write an id of a time that no row can have.
        keys = {
            (key.organisation_id, key.message_id): key
            for key in messages
            if key.accepted_at_us < _TIMES_END_US
        }
        if not keys:
            return found
        times = [key.accepted_at_us for key in keys.values()]
        # Numbers of our own: nothing here that a caller could write.
        places = {
            f"({key.organisation_id}, {max(0, key.accepted_at_us + slack) // 1_000_000})"
            for key in keys.values()
            for slack in (-_SLACK_US, _SLACK_US)
        }
        parameters = {
            "from_us": min(times) - _SLACK_US,
            "until_us": max(times) + _SLACK_US,
            "ids": [key.message_id for key in keys.values()],
        }
        async with answering(self._url, self._timeout_s if timeout_s is None else timeout_s):
            answer = await (await self._connected()).query(
                _ROWS_OF.format(places=", ".join(places)), parameters=parameters, settings={"max_threads": 1}
            )
        for values in answer.result_rows:
            row = ActivityRow(**dict(zip(_STORED, values, strict=True)))
            # Another organisation's message is not theirs to see.
            if key := keys.get((row.organisation_id, row.message_id)):
                found[key].append(row)
        return found

    async def ping(self, timeout_s: float) -> None:
        """Ask whether the server answers within `timeout_s` seconds. Raises Unavailable, ConfigError."""
        async with answering(self._url, timeout_s):
            await (await self._connected()).command("SELECT 1")

    async def units_between(
        self, shard: int, first: StreamId, end: StreamId, timeout_s: float
    ) -> tuple[dict[int, Units], int]:
        """({organisation: units}, how many rows) of a shard from the place `first` to before `end`.

        ClickHouse reads those rows, and at most one granule more in each part of the table. It ends the
        query after `timeout_s` seconds, also when nobody waits for it any more.
        """
        parameters = {
            "shard": shard,
            "from_ms": first[0], "from_seq": first[1], "end_ms": end[0], "end_seq": end[1],
        }  # fmt: skip
        rows = await self.ask(_UNITS_BETWEEN, parameters, timeout_s)
        if not rows:
            return {}, 0
        organisations, *units, counts = zip(*rows, strict=True)
        return dict(zip(organisations, map(Units, *units), strict=True)), sum(counts)

    async def ask(
        self, query: str, parameters: Mapping[str, int], timeout_s: float
    ) -> Sequence[Sequence[Any]]:
        """The rows of an answer about many events; read on few threads, and ended as `units_between`."""
        settings = {
            "max_threads": _UNITS_THREADS,
            "max_execution_time": timeout_s,
            "max_bytes_before_external_group_by": _GROUPED_BYTES,
        }
        async with answering(self._url, timeout_s):
            client = await self._connected()
            found = await client.query(query, parameters=dict(parameters), settings=settings)
        rows: Sequence[Sequence[Any]] = found.result_rows
        return rows

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._client is None:
                self._client = await connect(
                    self._url, database=self._url.database, timeout_s=self._timeout_s
                )
            return self._client
