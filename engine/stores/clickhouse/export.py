"""The messages of an organisation, or their events, a row each, as a file that ClickHouse writes while it is
sent on.

The rows are read in the order of acceptance, which is that of the table, so that the server needs little
memory and begins at once however many there are. Messages are put together in blocks, whose rows come in no
order; sorting them all first would let a large export begin too late. Killed, or the reader is gone: the
query ends with its connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec

from engine.activity.csv_texts import FORMULA, NUMBER
from engine.errors import Unavailable
from engine.lifecycle import EVENTS, STATUSES, events_that
from engine.records import Queue
from engine.stores.clickhouse.adapter import ClickHouseAdapter
from engine.stores.clickhouse.client import answering

ExportFormat = Literal["csv", "jsonl", "parquet"]
ExportRows = Literal["messages", "events"]

_FORMATS = {"csv": "CSV", "jsonl": "JSONEachRow", "parquet": "Parquet"}
# How long the server may take to begin, and for all of it, seconds.
_BEGIN_S = 20.0
_WHOLE_S = 1800
_THREADS = 2
_BYTES_MAX = 1_000_000_000
# What a server writes at the end of an answer that it could not finish.
_BROKEN = b"__exception__\r\n"

_RANKS = [STATUSES.index(meaning.status) + 1 for meaning in EVENTS.values()]
_RANK = f"transform(toString(event), {[*EVENTS]!r}, {_RANKS!r}, 1)"
_TIME = "formatDateTime({time}, '%Y-%m-%dT%H:%i:%S.%fZ', 'UTC')"
_FIRST = "if(countIf(event = '{event}') = 0, '', " + _TIME.format(time="minIf(at, event = '{event}')") + ")"
# Name and expression of each column, where a row is a message, and where it is an event.
COLUMNS = {
    "id": "message_id",
    "accepted_at": _TIME.format(time="accepted_at"),
    "status": f"{list(STATUSES)!r}[max({_RANK})]",
    "charge": f"multiIf(countIf(event IN {events_that('captures')!r}) > 0, 'captured', "
    f"countIf(event IN {events_that('releases')!r}) > 0, 'released', 'held')",
    "queue": "any(queue)",
    "to": "any(to)",
    "from": "any(sender)",
    "encoding": "any(encoding)",
    "segments": "any(segments)",
    # What is sent again after its receipt holds none.
    "units": "max(units)",
    "reference": "any(reference)",
    "provider": "argMaxIf(provider, (event = 'delivered', event = 'sent', at), provider != '')",
    "code": f"argMax(code, ({_RANK}, at))",
    "attempts": "max(attempt)",
    "sent_at": _FIRST.format(event="sent"),
    "delivered_at": _FIRST.format(event="delivered"),
    # "" where it is not recorded, or not any more.
    "text": "max(text)",
}
EVENT_COLUMNS = {
    "id": "message_id",
    "accepted_at": _TIME.format(time="accepted_at"),
    "at": _TIME.format(time="at"),
    "event": "event",
    "attempt": "attempt",
    "provider": "provider",
    "provider_message_id": "provider_message_id",
    "code": "code",
    "segment": "segment",
    "latency_ms": "latency_us / 1000",
    "outcome_unknown": "outcome_unknown",
    "queue": "queue",
    "to": "to",
    "from": "sender",
    "segments": "segments",
    "units": "units",
    "reference": "reference",
}
_BY_ROWS = {
    "messages": (COLUMNS, "GROUP BY organisation_id, accepted_at, message_id"),
    "events": (EVENT_COLUMNS, "ORDER BY organisation_id, accepted_at, message_id, at"),
}


# Columns of texts that customers and providers wrote.
_TEXTS = {"from", "reference", "provider_message_id", "code", "text"}
# As `engine.activity.csv_texts.as_cell`. In SQL a backslash is written as two.
_CELL = "if(match({{0}} AS {{1}}, '{}') AND NOT match({{1}}, '{}'), concat('\\'', {{1}}), {{1}})".format(
    FORMULA.replace("\\", "\\\\"), NUMBER
)

# Parquet has times of its own, and null for one that is missing.
_FIRST_MOMENT = "minOrNullIf(at, event = '{event}')"
_MOMENTS = {
    "messages": {
        "accepted_at": "accepted_at",
        "sent_at": _FIRST_MOMENT.format(event="sent"),
        "delivered_at": _FIRST_MOMENT.format(event="delivered"),
    },
    "events": {"accepted_at": "accepted_at", "at": "at"},
}


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is written, and how."""

    organisation_id: int
    # Of the acceptance, seconds since 1970.
    from_s: int
    until_s: int
    format: ExportFormat
    # "": both.
    queue: Queue | Literal[""] = ""
    rows: ExportRows = "messages"
    # Whether messages have their texts.
    texts: bool = False


class ClickHouseExport(ClickHouseAdapter):
    """Writes exports. Every call raises Unavailable, and ConfigError when an operator must act."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError for a malformed URL."""
        super().__init__(url, _WHOLE_S)

    @asynccontextmanager
    async def messages(self, query: ExportQuery) -> AsyncIterator[AsyncIterator[bytes]]:
        """The octets of the file, in parts; the first is there already. Iterating raises Unavailable when
        the server breaks off: then the file is not whole."""
        sql, parameters = statement(query)
        settings = {
            "max_threads": _THREADS,
            "max_execution_time": _WHOLE_S,
            "max_memory_usage": _BYTES_MAX,
            "optimize_aggregation_in_order": 1,
            "priority": 10,
        }
        async with answering(self._url, _BEGIN_S):
            client = await self._connected()
            stream = await client.raw_stream(
                sql, parameters=parameters, settings=settings, fmt=_FORMATS[query.format]
            )
        async with stream as parts:
            yield self._whole(aiter(parts), query)

    async def _whole(self, parts: AsyncIterator[bytes], query: ExportQuery) -> AsyncIterator[bytes]:
        if query.format == "csv":
            yield ",".join(_columns(query)).encode() + b"\n"
        # The end of an answer says whether it is whole, and may be in two parts.
        held = b""
        while True:
            async with answering(self._url, _BEGIN_S):
                part = await anext(parts, None)
            if part is None:
                break
            if len(held) >= len(_BROKEN):
                yield held
                held = b""
            held += part
        if held.endswith(_BROKEN):
            raise Unavailable(f"ClickHouse at {self._url.shown} broke off an export.")
        if held:
            yield held


def _columns(query: ExportQuery) -> dict[str, str]:
    """Name and expression of each column of an export."""
    columns = {name: of for name, of in _BY_ROWS[query.rows][0].items() if name != "text" or query.texts}
    if query.format == "csv":
        # Opened with spreadsheets, which take some texts for formulas.
        columns |= {
            name: _CELL.format(columns[name], f"t{place}")
            for place, name in enumerate(columns)
            if name in _TEXTS
        }
    if query.format == "parquet":
        columns |= _MOMENTS[query.rows]
    return columns


def statement(query: ExportQuery) -> tuple[str, dict[str, Any]]:
    """The SQL of an export, and its parameters."""
    parameters: dict[str, Any] = {
        "organisation": query.organisation_id, "from": query.from_s, "until": query.until_s,
    }  # fmt: skip
    where = ""
    if query.queue:
        where, parameters["queue"] = "AND queue = {queue:String}", query.queue
    # The columns are named in a query around it: a name like that of a column would be read in its place.
    columns, order = _columns(query), _BY_ROWS[query.rows][1]
    inner = ", ".join(f"{expression} AS c{i}" for i, expression in enumerate(columns.values()))
    outer = ", ".join(f"c{i} AS `{name}`" for i, name in enumerate(columns))
    sql = (
        f"SELECT {outer} FROM (SELECT {inner} FROM activity "  # noqa: S608 - our own names; values are parameters
        "WHERE organisation_id = {organisation:Int64} AND message_id != '' "
        "AND accepted_at >= fromUnixTimestamp({from:UInt32}) "
        f"AND accepted_at < fromUnixTimestamp({{until:UInt32}}) {where} "
        f"{order})"
    )
    return sql, parameters
