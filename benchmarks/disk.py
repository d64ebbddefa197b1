"""What a recorded event takes on ClickHouse's disk, table by table, and column by column of `activity`.

    python -m benchmarks.disk [--messages 300000]

Takes a minute. Three events of each message (accepted, sent, delivered) of 200 organisations go in as the
archiver sends them, in blocks of 100,000 rows; ids of providers have 16 hexadecimal digits, and half of the
messages a reference. Then all parts are merged, and what they take is divided by the events. What receipts
look up for eight days (`outstanding`) is told apart.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import msgspec

from benchmarks.archiver import insert
from benchmarks.arguments import count_from_1, parser_of
from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.ids import MessageIds
from engine.records import ActivityRow
from engine.stores.clickhouse.activity import COLUMNS
from engine.stores.clickhouse.native import block as native_block
from engine.stores.migrate import migrate_clickhouse
from engine.stream_id import StreamId
from supervisor.embedded.servers import start_clickhouse

_ORGANISATIONS, _SHARDS, _MESSAGES_A_SECOND = 200, 16, 5_000
_BLOCK_ROWS, _ENTRY_ROWS = 100_000, 50
_SHORT_LIVED = ("outstanding", "outstanding_messages", "kept_messages")
_encode = msgspec.msgpack.Encoder().encode


def _events(messages: int, begun_us: int, rng: random.Random) -> Iterator[tuple[int, int, ActivityRow]]:
    """(when it is recorded, microseconds; shard; row) of every event."""
    ids = MessageIds.drawn(rng)
    for number in range(messages):
        at_us = begun_us + number * 1_000_000 // _MESSAGES_A_SECOND
        organisation, latency_us = 1000 + rng.randrange(_ORGANISATIONS), rng.randrange(20_000, 90_000)
        accepted = ActivityRow(
            at_us=at_us, organisation_id=organisation, message_id=ids.make(at_us // 1000, 1)[0],
            accepted_at_us=at_us, event="accepted", queue="normal", to=f"+98912{rng.randrange(10**7):07}",
            sender="ACME", encoding="GSM-7", segments=1 + (rng.random() < 0.1), units=2,
            reference=f"order-{rng.randrange(10**6)}" if number % 2 else "",
            expires_at_us=at_us + 86_400_000_000,
        )  # fmt: skip
        sent = msgspec.structs.replace(
            accepted, at_us=at_us + 1_000 + latency_us, event="sent", attempt=1, provider="one", code="0",
            provider_message_id=f"{rng.getrandbits(64):016x}", latency_us=latency_us, expires_at_us=0,
        )  # fmt: skip
        delivered = msgspec.structs.replace(
            sent, at_us=sent.at_us + rng.randrange(1_000_000, 9_000_000), event="delivered",
            code="DELIVRD err:000", latency_us=0,
        )  # fmt: skip
        for row in (accepted, sent, delivered):
            yield row.at_us, organisation % _SHARDS, row


def _blocks(messages: int, rng: random.Random) -> Iterator[list[ActivityEntry]]:
    """The entries of each block: the events by time, those of a shard together."""
    rows = sorted(_events(messages, time.time_ns() // 1000, rng), key=lambda event: event[0])
    for first in range(0, len(rows), _BLOCK_ROWS):
        shards: dict[int, list[tuple[int, bytes]]] = {}
        for at_us, shard, row in rows[first : first + _BLOCK_ROWS]:
            shards.setdefault(shard, []).append((at_us, _encode(row)))
        yield [
            ActivityEntry(
                shard=shard,
                id=StreamId(some[-1][0] // 1000, place),
                blob=b"\xdd" + len(some).to_bytes(4, "big") + b"".join(row for _, row in some),
            )
            for shard, events in sorted(shards.items())
            for place in range(0, len(events), _ENTRY_ROWS)
            if (some := events[place : place + _ENTRY_ROWS])
        ]


def _measure(url: str, messages: int) -> None:
    names, types = list(COLUMNS), list(COLUMNS.values())
    for entries in _blocks(messages, random.Random(1)):
        block, unreadable = block_of(entries)
        assert not unreadable
        insert(url, b"".join(native_block(names, types, block.rows, block.columns)))
    parts = urlsplit(url)
    client = clickhouse_connect.get_client(
        host=parts.hostname, port=parts.port, username=parts.username, password=parts.password or "",
        database=parts.path.strip("/"), autogenerate_session_id=False,
    )  # fmt: skip
    events = 3 * messages
    assert client.query("SELECT count() FROM activity").result_rows == [(events,)]
    for (table,) in client.query("SELECT DISTINCT table FROM system.parts WHERE active AND rows").result_rows:
        client.command(f"OPTIMIZE TABLE `{table}` FINAL")
    _print(client, events)


def _print(client: Any, events: int) -> None:
    tables = client.query(
        "SELECT table, sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase()"
        " GROUP BY table ORDER BY 2 DESC"
    ).result_rows
    projections = client.query(
        "SELECT name, sum(bytes_on_disk) FROM system.projection_parts"
        " WHERE active AND database = currentDatabase() GROUP BY name"
    ).result_rows
    columns = client.query(
        "SELECT column, sum(column_data_compressed_bytes + column_marks_bytes) FROM system.parts_columns"
        " WHERE active AND database = currentDatabase() AND table = 'activity'"
        " GROUP BY column ORDER BY 2 DESC"
    ).result_rows
    lasting = sum(size for name, size in tables if name not in _SHORT_LIVED)
    print(f"{events} events, {lasting / events:.1f} bytes each, without what receipts look up")
    for title, found in (("table", tables), ("projection", projections), ("column of activity", columns)):
        print(f"\n{title}")
        for name, size in found:
            print(f"  {name:24} {size / events:6.2f}")


def main() -> None:
    """Measure, and print the bytes of an event."""
    parser = parser_of("disk", __doc__)
    parser.add_argument("--messages", type=count_from_1, default=300_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smsengine-bench-") as folder:
        Path(folder).chmod(0o755)
        server = start_clickhouse(Path(folder))
        try:
            asyncio.run(migrate_clickhouse(server.url))
            _measure(server.url, given.messages)
        finally:
            server.stop(10)


if __name__ == "__main__":
    main()
