"""Activity in ClickHouse: the inserts of the archiver, and the reads by message and for the audit.

An insert is one HTTP request with one block in the Native format, whose columns come packed. The types of
the columns are given here, so that no insert has to ask the server for them.

Under failure. Every insert carries the token of its block, so it may be sent any number
of times, by any number of archivers at once. The table, and each view that it feeds, remember
the last 1,000 tokens (`non_replicated_deduplication_window`; a block that spans two
months counts twice). Is that enough? A shard has one plan at a time. So other blocks can come
between two inserts of the same block only from other archivers, while it is tried again, or while
its first sender is frozen between its last look at its leases and the last byte of its request. That
would have to last for 1,000 blocks. An archiver makes two a second at most, and goes on trying while
the others do; they make none either while the store does not take any, and of several divisions while one
does not (`engine.stores.clickhouse.divided.activity`); and a server drops a request whose body stalls
(`http_receive_timeout`, 30 s by default).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from clickhouse_connect.datatypes.registry import get_from_name

from engine.activity.records import ActivityBlock, MessageKey
from engine.credit.laws import EVENTS_BY_CHARGE, Units
from engine.errors import Unavailable
from engine.records import ActivityRow, Message
from engine.stores.clickhouse import native
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering
from engine.stream_id import StreamId

# Column and type on the wire, in the order of ActivityRow without `kept`. The server turns
# strings into LowCardinality, which costs it less than it would cost Python.
_TIME = "DateTime64(6, 'UTC')"
COLUMNS = {
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
    "callback_url": "String",
    "text": "String",
    "receipts_by": "UInt16",
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
    # Without a bound: a block that is refused for its many days would be tried for ever.
    "max_partitions_per_insert_block": 0,
    "input_format_native_allow_types_conversion": 1,
}
# Where the server knows them: versions before 2025 do not. Merges make the indexes; parts that are not merged
# yet are few and small, and are read whole.
_WHERE_KNOWN = {"materialize_skip_indexes_on_insert": 0}
# Columns of `kept_messages`, the messages that may be sent again.
_KEPT_COLUMNS = {
    "message_id": "String",
    "attempt": "UInt16",
    "expires_at": "DateTime('UTC')",
    "message": "String",
}
_INSERT_NOTHING = "INSERT INTO activity SELECT * FROM activity WHERE 0"
# More events than any message has.
_ROWS_MAX = 10_000

_FIELDS = ActivityRow.__struct_fields__
# Those that are read: the views alone need `receipts_by`.
_STORED = [name for name in _FIELDS if name not in ("kept", "receipts_by")]
SELECTED = ", ".join(
    f"toUnixTimestamp64Micro(`{name}`) AS {name}_us" if kind == _TIME else f"`{name}`"
    for name, kind in list(COLUMNS.items())[: len(_STORED)]
)
# `rows_of`: the events of messages. The hint is not computed for each row; it only chooses what is read, by
# the partition and the first two columns of the sort key. A set is searched in it, so its cost hardly grows
# with the messages. Most of what a query costs is its planning, so it has no condition and no order that it
# can do without.
_ROWS_OF = f"""
SELECT {SELECTED}
FROM activity
WHERE indexHint((organisation_id, toDateTime(accepted_at, 'UTC')) IN ({{places}}))
  AND message_id IN {{{{ids:Array(String)}}}}
LIMIT {_ROWS_MAX} BY message_id
"""  # noqa: S608 - built from the constants above
# The columns that some servers write as strings, because they have 64 bits.
_WIDE = [place for place, name in enumerate(_STORED) if name.endswith("_us") or name == "organisation_id"]
_lines = msgspec.json.Decoder(list[Any]).decode_lines
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


class ClickHouseActivityStore(ClickHouseAdapter):
    """The port `ActivityStore`. Connects at the first use, and again after a failure.

    Every call raises Unavailable, and ConfigError when an operator must act.
    """

    def __init__(self, url: str, timeout_s: float = 30.0, *, compressed: bool | None = None) -> None:
        """`timeout_s`: the deadline of each call, seconds. `compressed`: whether blocks are compressed on
        their way; None: when the server is on another machine. Raises ConfigError for a malformed URL."""
        super().__init__(url, timeout_s)
        self._compressed = not self._url.is_here if compressed is None else compressed
        self._message = msgspec.json.Decoder(Message).decode

    async def insert(self, block: ActivityBlock, token: str) -> None:
        """Store the block as a whole; a second insert with the same `token` stores nothing.

        Killed here: the server has all of it, or a view lacks it, or one of two months lacks it, or
        only the kept messages are there, which mean nothing by themselves. The same insert completes
        what is missing. Answered twice, never answered, time-out: insert again.
        """
        if not block.rows:
            return
        # Before the rows, so that nobody sees a `sent` whose message is not there yet.
        if messages := self._kept(block.kept):
            await self._insert_kept(messages, token + "-kept")
        names, types = list(COLUMNS), list(COLUMNS.values())
        body = native.block(names, types, block.rows, block.columns)
        if self._compressed:
            body = await asyncio.to_thread(native.compressed, body)
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            await client.raw_insert(
                "activity",
                column_names=names,
                insert_block=_sent(body),
                settings=_settings(token) | _known(client.server_settings),
                fmt="Native",
                compression=native.COMPRESSION if self._compressed else None,
            )

    async def insert_nothing(self) -> None:
        """Find out whether the server takes inserts of activity, by one of no rows, which changes nothing."""
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            await client.command(_INSERT_NOTHING, settings=dict(INSERT_SETTINGS))

    def _kept(self, kept: Iterable[tuple[str, int, str]]) -> list[tuple[str, int, int, str]]:
        """The rows of `kept_messages`, without messages that cannot be decoded."""
        rows = []
        for message_id, attempt, encoded in kept:
            with contextlib.suppress(msgspec.DecodeError):
                # Rounded up, because the message may be sent until its validity ends.
                expires_at_s = self._message(encoded).expires_at_us // 1_000_000 + 1
                rows.append((message_id, attempt, max(0, min(expires_at_s, 2**32 - 1)), encoded))
        return rows

    async def _insert_kept(self, messages: Sequence[tuple[str, int, int, str]], token: str) -> None:
        client = await self._connected()
        async with answering(self._url, self._timeout_s):
            await client.insert(
                "kept_messages",
                [list(column) for column in zip(*messages, strict=True)],
                column_names=list(_KEPT_COLUMNS),
                column_types=[get_from_name(name) for name in _KEPT_COLUMNS.values()],
                column_oriented=True,
                settings=_settings(token),
            )

    async def rows_of(
        self, messages: Sequence[MessageKey], timeout_s: float | None = None
    ) -> dict[MessageKey, list[ActivityRow]]:
        """The events of each message, at most 10,000 of one, in no order; a message without any has [].

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
        # Numbers of our own: nothing here that a caller could write.
        places = {
            f"({key.organisation_id}, {max(0, key.accepted_at_us + slack) // 1_000_000})"
            for key in keys.values()
            for slack in (-_SLACK_US, _SLACK_US)
        }
        parameters = {"ids": [key.message_id for key in keys.values()]}
        async with answering(self._url, self._timeout_s if timeout_s is None else timeout_s):
            answer = await (await self._connected()).raw_query(
                _ROWS_OF.format(places=", ".join(places)),
                parameters=parameters,
                settings={"max_threads": 1},
                fmt="JSONCompactEachRow",
            )
        for row in self._read(answer):
            # Another organisation's message is not theirs to see.
            if key := keys.get((row.organisation_id, row.message_id)):
                found[key].append(row)
        return found

    def _read(self, answer: bytes) -> list[ActivityRow]:
        """The rows of an answer to `_ROWS_OF`. Raises Unavailable when it broke off, or is none."""
        try:
            lines = _lines(answer)
            for line in lines:
                for place in _WIDE:
                    line[place] = int(line[place])
            return [ActivityRow(**dict(zip(_STORED, line, strict=True))) for line in lines]
        except (msgspec.DecodeError, IndexError, ValueError) as e:
            raise Unavailable(f"The answer of ClickHouse at {self._url.shown} cannot be read.") from e

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
        self, query: str, parameters: Mapping[str, Any], timeout_s: float, patience_s: float = 0.0
    ) -> Sequence[Sequence[Any]]:
        """The rows of an answer about many events; read on few threads, and ended as `units_between`.

        The answer is waited for `patience_s` seconds longer than the query may take: so a server that has
        ended it can say so (TooSlow), and is not taken for one that is away.
        """
        settings = {
            "max_threads": _UNITS_THREADS,
            "max_execution_time": timeout_s,
            "max_bytes_before_external_group_by": _GROUPED_BYTES,
        }
        async with answering(self._url, timeout_s + patience_s):
            client = await self._connected()
            found = await client.query(query, parameters=dict(parameters), settings=settings)
        rows: Sequence[Sequence[Any]] = found.result_rows
        return rows


def _settings(token: str) -> dict[str, Any]:
    """The settings of the insert with this token."""
    return {**INSERT_SETTINGS, "insert_deduplication_token": token}


def _known(servers: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `_WHERE_KNOWN` that may be set; `servers`: the settings of the server, by name."""
    return {
        name: value for name, value in _WHERE_KNOWN.items() if name in servers and not servers[name].readonly
    }


async def _sent(body: Sequence[bytes]) -> AsyncIterator[bytes]:
    """The body of a request in parts, so that it is not copied into one first."""
    for part in body:
        yield part
