"""Matching of receipts alone: millions of outstanding messages, receipts as fast as they are matched.

    python -m benchmarks.receipts [--outstanding 10000000] [--receipts 200000] [--rate 2000]

Takes ten minutes. It starts a Redis and a ClickHouse's engine of its own. ClickHouse puts `--outstanding`
messages into the table that matching looks in, as its views would. Their ids are random, so that no two of
a batch lie near each other: this is the worst case.

Backlog: `--receipts` receipts wait in Redis, then one matcher begins. Measured are receipts/s,
and the CPU a receipt of this process and of ClickHouse's, which say more on a busy machine.
Paced: `--rate` receipts/s for 20 s. Measured is the time of each from the provider's push to its
row on the activity stream. Early: like the backlog, but no receipt has a message. Measured is
the cost of a look-up that finds nothing and sets the receipt aside. The memory of Redis is shown
before and after. Exit code 1 when a receipt is lost or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import msgspec
import uvloop

from benchmarks.arguments import count_from_1, parser_of
from engine.hosts.cores import usable_cores
from engine.receipts.ports import MatchLimits
from engine.receipts.records import Receipt
from engine.receipts.rounds import Rounds
from engine.redis_keys import activity_key, receipts_key, receipts_later_key
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.migrate import migrate_clickhouse
from engine.stores.redis.link import RedisLink, load_functions
from engine.stores.redis.receipt_sink import RedisReceiptSink
from engine.stores.redis.receipt_stream import RedisReceiptStream
from supervisor.embedded.servers import Server, start_clickhouse, start_redis

_SHARDS = 16
_ORGANISATIONS = 1000
_ENTRY = 100
_PACED_S = 20.0
_FILE_ROWS = 1_000_000

# The same as the view activity_to_outstanding makes of a `sent` row. Ids are SipHash of the number.
_FILL = """
INSERT INTO outstanding
WITH lower(hex(sipHash128(number))) AS id
SELECT
    halfMD5(concat('one:', trim(LEADING '0' FROM id))) AS key,
    toDate(now('UTC')) AS day,
    toJSONString(tuple(
        'sent', concat('019aaaaa-0000-7000-8000-', leftPad(lower(hex(number)), 12, '0')), 1, '0', 0,
        toInt64(1795335960000000 + number * 1000), 'one', id, toInt64(1 + number % {organisations:UInt32}),
        toInt64(1795335960000000 + number * 1000 - 500000), 'normal',
        concat('+98912', leftPad(toString(number % 10000000), 7, '0')), 'ACME', 'GSM-7', 1, 2,
        concat('order ', toString(number))))
FROM numbers({first:UInt64}, {count:UInt64})
"""


class Bench:
    """Connections to the servers, and the parts of one matcher."""

    def __init__(self, redis_url: str, clickhouse_url: str, clickhouse_pid: int) -> None:
        self._clickhouse_pid = clickhouse_pid
        self.link = RedisLink(redis_url, timeout_s=30, name="bench")
        self._read_link = RedisLink(redis_url, timeout_s=30, name="bench read")
        self._sink_link = RedisLink(redis_url, timeout_s=30, name="bench sink")
        self.sink = RedisReceiptSink(self._sink_link, _SHARDS)
        self.store = ClickHouseAttempts(clickhouse_url)
        self._clickhouse_url = clickhouse_url
        self.rounds = Rounds(
            RedisReceiptStream(self.link, self._read_link, _SHARDS),
            self.store,
            shards=_SHARDS,
            receipt_ids={},
            now_us=_now_us,
            limits=MatchLimits(),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.sink.close()
        await self.store.close()
        for link in (self.link, self._read_link, self._sink_link):
            await link.close()

    def client(self) -> Any:
        """A new client of clickhouse_connect, for statements that the store does not make."""
        parts = urlsplit(self._clickhouse_url)
        return clickhouse_connect.get_client(
            host=parts.hostname, port=parts.port, username=parts.username, password=parts.password or "",
            database=parts.path.strip("/"), send_receive_timeout=600, autogenerate_session_id=False,
        )  # fmt: skip

    def clickhouse_cpu_s(self) -> float:
        """CPU time that ClickHouse's process has used so far, seconds (utime and stime of proc(5))."""
        fields = Path(f"/proc/{self._clickhouse_pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def sum_of(self, command: str, key: Any) -> int:
        """The sum over all shards of what Redis answers to `command` on `key(shard)`."""
        return sum(await self.link.batch([(command, key(shard)) for shard in range(_SHARDS)]))

    async def redis_mib(self) -> float:
        """Memory that Redis uses, MiB."""
        reply: bytes = await self.link.call("INFO", "memory")
        return int(reply.partition(b"used_memory:")[2].split()[0]) / 2**20

    async def rows(self) -> list[tuple[str, int]]:
        """Every row on the activity streams: (message id, milliseconds from its receipt to the stream)."""
        found = []
        for shard in range(_SHARDS):
            for entry_id, fields in await self.link.call("XRANGE", activity_key(shard), "-", "+"):
                recorded_ms = int(entry_id.partition(b"-")[0])
                found += [(row[2], recorded_ms - row[0] // 1000) for row in msgspec.msgpack.decode(fields[1])]
        return found

    async def forget(self) -> None:
        """Delete the rows on the activity streams, and the receipts that were set aside."""
        await self.link.batch([("DEL", activity_key(shard)) for shard in range(_SHARDS)])
        await self.link.batch([("DEL", receipts_later_key(shard)) for shard in range(_SHARDS)])


def _now_us() -> int:
    return time.time_ns() // 1000


async def insist(step: Any) -> None:
    """Make one step of a round, once: a failure ends the benchmark."""
    await step()


def receipts_of(ids: dict[int, str], numbers: list[int]) -> Iterator[list[Receipt]]:
    """Receipts of these messages, in batches of `_ENTRY` that are pushed together."""
    for first in range(0, len(numbers), _ENTRY):
        yield [
            Receipt(
                provider="one", provider_message_id=ids[n].upper(), state="delivered", code="DELIVRD 000",
                at_us=_now_us(), to=f"98912{n % 10_000_000:07}",
            )
            for n in numbers[first : first + _ENTRY]
        ]  # fmt: skip


def fill(bench: Bench, count: int) -> tuple[float, dict[str, Any]]:
    """Make `count` outstanding messages: (seconds it took, size of the table by name)."""
    client = bench.client()
    began = time.monotonic()
    for first in range(0, count, _FILE_ROWS):
        parameters = {
            "organisations": _ORGANISATIONS,
            "first": first,
            "count": min(_FILE_ROWS, count - first),
        }
        client.command(_FILL, parameters=parameters)
    took = time.monotonic() - began
    [row] = client.query(
        "SELECT sum(rows), count(), sum(bytes_on_disk), sum(primary_key_bytes_in_memory)"
        " FROM system.parts WHERE active AND table = 'outstanding' AND database = currentDatabase()"
    ).result_rows
    return took, dict(zip(("rows", "parts", "bytes_on_disk", "index_bytes"), row, strict=True))


def ids_of(bench: Bench, numbers: list[int]) -> dict[int, str]:
    """The provider's ids of these messages, by number: 32 hex digits each."""
    client, ids = bench.client(), dict[int, str]()
    for first in range(0, len(numbers), 20_000):
        some = numbers[first : first + 20_000]
        found = client.query(
            "SELECT lower(hex(sipHash128(toUInt64(arrayJoin({n:Array(UInt64)})))))", parameters={"n": some}
        )
        ids.update(zip(some, (row[0] for row in found.result_rows), strict=True))
    return ids


async def push(bench: Bench, batch: list[Receipt]) -> None:
    """Put one batch into Redis and wait until it is kept. Raises SystemExit when it is not."""
    kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    bench.sink.put(batch, kept.set_result)
    if not await kept:
        raise SystemExit("Redis did not keep the receipts.")


async def drain(bench: Bench) -> tuple[float, float]:
    """Make rounds until no entry waits: (seconds, CPU seconds of this process)."""
    began, cpu = time.monotonic(), time.process_time()
    while await bench.sum_of("XLEN", receipts_key):
        await bench.rounds.round(insist)
    return time.monotonic() - began, time.process_time() - cpu


async def backlog(bench: Bench, ids: dict[int, str], numbers: list[int], *, found: bool) -> dict[str, Any]:
    """Push the receipts of these messages, then match them: the figures, with `wrong` when rows are amiss.

    `found` says whether the messages exist, so that each receipt makes a row.
    """
    for batch in receipts_of(ids, numbers):
        await push(bench, batch)
    server_s = bench.clickhouse_cpu_s()
    took, cpu = await drain(bench)
    server_s = bench.clickhouse_cpu_s() - server_s
    result: dict[str, Any] = {"receipts": len(numbers), "receipts_per_s": round(len(numbers) / took)}
    result["cpu_us_per_receipt"] = round(cpu / len(numbers) * 1e6, 1)
    result["clickhouse_cpu_us_per_receipt"] = round(server_s / len(numbers) * 1e6, 1)
    rows = await bench.rows()
    wrong = len(rows) != len(numbers) if found else bool(rows)
    if wrong or len({name for name, _ in rows}) != len(rows):
        result["wrong"] = f"{len(rows)} rows"
    if not found:
        result["set_aside"] = await bench.sum_of("ZCARD", receipts_later_key)
    await bench.forget()
    return result


async def paced(bench: Bench, ids: dict[int, str], numbers: list[int], rate: int) -> dict[str, Any]:
    """Push `rate` receipts a second while they are matched as `Matcher` does: ages in milliseconds."""
    stopping = False
    pushed = 0

    async def match() -> None:
        while not stopping or await bench.sum_of("XLEN", receipts_key):
            if not await bench.rounds.round(insist):
                await asyncio.sleep(MatchLimits().gather_s)

    matching = asyncio.create_task(match())
    began, size = time.monotonic(), max(1, rate // 100)
    for place in range(0, int(rate * _PACED_S), size):
        await asyncio.sleep(began + place / rate - time.monotonic())
        some = numbers[place : place + size]
        for batch in receipts_of(ids, some):
            await push(bench, batch)
            pushed += len(batch)
    stopping = True
    await matching
    rows = await bench.rows()
    ages = sorted(age for _, age in rows)
    result: dict[str, Any] = {"receipts_per_s": rate, "receipts": pushed}
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        result[f"{name}_ms"] = ages[min(len(ages) - 1, int(len(ages) * share))]
    if len(rows) != pushed or len({name for name, _ in rows}) != pushed:
        result["wrong"] = f"{len(rows)} rows for {pushed} receipts"
    await bench.forget()
    return result


async def measure(options: argparse.Namespace, redis: Server, clickhouse: Server) -> dict[str, Any]:
    """Fill the table, then measure backlog, paced and early: the figures by name."""
    own = clickhouse.url.rpartition("/")[0] + "/bench"
    await migrate_clickhouse(own)
    bench = Bench(redis.url, own, clickhouse.pid)
    await load_functions(bench.link)
    empty_mib = await bench.redis_mib()
    filled_s, table = await asyncio.to_thread(fill, bench, options.outstanding)
    result: dict[str, Any] = {
        "cpus": usable_cores(), "outstanding": options.outstanding,
        "filled_rows_per_s": round(options.outstanding / filled_s), **table,
    }  # fmt: skip
    rng = random.Random(1)
    half, pace = options.receipts, int(options.rate * _PACED_S)
    numbers = rng.sample(range(options.outstanding), 2 * half + pace)
    lost = [options.outstanding + n for n in range(half // 4)]
    ids = await asyncio.to_thread(ids_of, bench, numbers + lost)
    # The two must be equal: outstanding messages take no memory of Redis.
    result["redis_mib_empty_then_filled"] = [round(empty_mib, 2), round(await bench.redis_mib(), 2)]
    await bench.rounds.have(range(_SHARDS), "bench/1")
    await bench.rounds.caught_up()
    result["backlog"] = await backlog(bench, ids, numbers[:half], found=True)
    result["paced"] = await paced(bench, ids, numbers[2 * half :], options.rate)
    result["early"] = await backlog(bench, ids, lost, found=False)
    await asyncio.to_thread(bench.client().command, "OPTIMIZE TABLE outstanding FINAL")
    result["backlog_one_part"] = await backlog(bench, ids, numbers[half : 2 * half], found=True)
    result["redis_mib_after"] = round(await bench.redis_mib(), 2)
    await bench.close()
    return result


def main() -> None:
    """Start the servers, run the benchmark, print its figures as JSON."""
    parser = parser_of("receipts", __doc__)
    parser.add_argument("--outstanding", type=count_from_1, default=10_000_000)
    parser.add_argument("--receipts", type=count_from_1, default=200_000)
    parser.add_argument("--rate", type=count_from_1, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smsengine-bench-") as folder:
        Path(folder).chmod(0o755)
        servers = [start_redis(Path(folder)), start_clickhouse(Path(folder))]
        try:
            result = uvloop.run(measure(options, *servers))
        finally:
            for server in servers:
                server.stop(10)
    print(json.dumps(result, indent=2))
    if any("wrong" in part for part in result.values() if isinstance(part, dict)):
        sys.exit(1)


if __name__ == "__main__":
    main()
