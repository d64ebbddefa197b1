"""What the archiver and ClickHouse cost a row, how late rows are, and how fast a backlog goes.

    python -m benchmarks.archiver [--versions DIR ...] [--rounds 3] [--loads LOAD ...] [--rate 30000]

Takes four minutes. An archiver as the product runs it, in a process of its own, moves rows from a Redis to
a ClickHouse of its own. `DIR` is the root of another version of the engine; each round tries the versions
one after another, and medians are printed.

    batches   messages come at `--rate` a second for `--seconds`: entries of 100 accepted rows, then
              entries of 50 sent rows
    singles   messages come at `--singles` a second: entries of 1 to 3 accepted and of 1 to 5 sent rows
    backlog   the archiver stands still while `--rows` rows come in batches, then moves them
    ceiling   the rows of a backlog in blocks that are made before, put into the same ClickHouse one after
              another: no archiver, no Redis

`--receipts`: how the provider's receipts name messages: `any`, by its id or by ours; `id`, by its alone, as
over SMPP; `none`, there are none. Versions that do not know this of a row are measured with `any`.

Printed are, for each row, the CPU of the archiver, of ClickHouse with its merges (for each message too)
and of Redis; how many rows a block has; inserts a second; the lag, from an entry in the stream until the
insert was answered: of the oldest row of a block (median, 95 % and highest), and the mean of all rows; rows/s
of a core that runs nothing but the archiver; and rows/s as seen. The speed of a shared machine changes from
minute to minute, so compare only what stands in one table. Exit code 1 when a row is lost or doubled.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import clickhouse_connect
from redis import Redis

from benchmarks.activity_rows import BATCHES, SHARDS, SINGLES, Entry, entries_of
from benchmarks.arguments import count_from_1, more_than_0, parser_of
from engine.activity.blocks import block_of
from engine.activity.records import ActivityEntry
from engine.records import NO_RECEIPTS, RECEIPTS_BY_ANY_ID, RECEIPTS_BY_THEIR_ID
from engine.redis_keys import activity_key
from engine.stores.clickhouse.activity import COLUMNS, INSERT_SETTINGS
from engine.stores.clickhouse.native import block as native_block
from engine.stream_id import StreamId
from supervisor.embedded.servers import start_redis

_HERE = Path(__file__).resolve().parent.parent
_PROCESS = str(_HERE / "benchmarks" / "archiver_process.py")
_TICK_S = 0.02
_CEILING_ROWS = 100_000
_SLOW_S = 120.0
_LOADS = ("batches", "singles", "backlog", "ceiling")
_WAYS = {"any": RECEIPTS_BY_ANY_ID, "id": RECEIPTS_BY_THEIR_ID, "none": NO_RECEIPTS}


class Figures(NamedTuple):
    """What one load came to."""

    archiver_us: float
    clickhouse_us: float
    redis_us: float
    rows_per_block: float
    inserts_per_s: float
    oldest_ms: float
    oldest_95_ms: float
    oldest_max_ms: float
    mean_ms: float
    rows_per_s: float


class Version:
    """One version of the archiver, with its Redis and its ClickHouse."""

    def __init__(
        self,
        root: Path,
        redis_url: str,
        redis_pid: int,
        process: subprocess.Popen[str],
        receipts_by: int = RECEIPTS_BY_ANY_ID,
    ) -> None:
        self.name = root.name
        # An archiver that does not know the field reads rows that have it slowly.
        knows = "receipts_by" in Path(root, "engine", "records.py").read_text()
        self._receipts_by = receipts_by if knows else RECEIPTS_BY_ANY_ID
        self._redis = Redis.from_url(redis_url, protocol=2)
        self._redis_pid, self._process = redis_pid, process
        _, pid, self.clickhouse_url = self._line().split()
        self._clickhouse_pid = int(pid)
        parts = urlsplit(self.clickhouse_url)
        self._client = clickhouse_connect.get_client(
            host=parts.hostname, port=parts.port, username=parts.username, password=parts.password or "",
            database=parts.path.strip("/"), autogenerate_session_id=False,
        )  # fmt: skip
        self.rows_put = 0

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"The archiver of {self.name} has ended.")
        return line

    def tell(self, command: str) -> list[tuple[float, float, int]]:
        """Have the archiver's process do it; how late each block was since the last `go`, as it says."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return [(oldest, mean, rows) for oldest, mean, rows in json.loads(self._line())]

    def paced(self, sizes: tuple[Sequence[int], Sequence[int]], rate: float, seconds: float) -> Figures:
        """Put messages on the streams at a rate, while they are archived."""
        per_tick, ticks = round(rate * _TICK_S), round(seconds / _TICK_S)
        start_us = time.time_ns() // 1000
        load = [
            entries_of(per_tick, sizes, start_us + round(n * _TICK_S * 1e6), self._receipts_by)
            for n in range(ticks)
        ]
        self._quiet()
        self.tell("go")
        begun = self._reading()
        for n, entries in enumerate(load):
            self._put(entries)
            time.sleep(max(0.0, begun[0] + (n + 1) * _TICK_S - time.monotonic()))
        rows = 2 * per_tick * ticks
        return self._figures(begun, rows)

    def backlog(self, rows: int) -> Figures:
        """Let it move so many rows that wait."""
        at_us = time.time_ns() // 1000
        for _ in range(10):
            self._put(entries_of(rows // 20, BATCHES, at_us, self._receipts_by))
        self._quiet()
        begun = self._reading()
        self.tell("go")
        return self._figures(begun, rows // 20 * 20)

    def ceiling(self, rows: int) -> Figures:
        """Put so many rows into ClickHouse, in blocks that were made before."""
        at_us, blocks = time.time_ns() // 1000, []
        names, types = list(COLUMNS), list(COLUMNS.values())
        size = min(rows, _CEILING_ROWS)
        for n in range(rows // size):
            entries = [
                ActivityEntry(shard=shard, id=StreamId(at_us // 1000 + n, i), blob=blob)
                for i, (shard, blob) in enumerate(entries_of(size // 2, BATCHES, at_us, self._receipts_by))
            ]
            found = block_of(entries)[0]
            blocks.append(b"".join(native_block(names, types, found.rows, found.columns)))
        self._quiet()
        begun = self._reading()
        for block in blocks:
            insert(self.clickhouse_url, block)
        took_s = time.monotonic() - begun[0]
        self._quiet()
        put = size // 2 * 2 * len(blocks)
        self.rows_put += put
        clickhouse_s = self._reading()[2] - begun[2]
        return Figures(
            0.0, clickhouse_s / put * 1e6, 0.0, size, len(blocks) / took_s, 0.0, 0.0, 0.0, 0.0, put / took_s
        )

    def is_whole(self) -> bool:
        """Whether each row that was put is in the table once; says so when not."""
        [(rows, distinct)] = self._ask("SELECT count(), uniqExact(message_id, event) FROM activity")
        if rows != self.rows_put or distinct != self.rows_put:
            print(f"{self.name}: {self.rows_put} rows put, {rows} stored, {distinct} of them different")
        return bool(rows == self.rows_put == distinct)

    def _figures(self, begun: tuple[float, ...], rows: int) -> Figures:
        """The figures since `begun`; the archiver is halted, and ClickHouse has nothing more to do."""
        self._until_archived()
        took_s = time.monotonic() - begun[0]
        # Before it is halted: it would have nothing more to do, but for its pauses.
        _, archiver_s, _, redis_s = (now - then for now, then in zip(self._reading(), begun, strict=True))
        lags = self.tell("halt")
        oldest = [lag for lag, _, _ in lags]
        self.rows_put += rows
        self._quiet()
        clickhouse_s = self._reading()[2] - begun[2]
        return Figures(
            archiver_s / rows * 1e6,
            clickhouse_s / rows * 1e6,
            redis_s / rows * 1e6,
            rows / len(lags),
            len(lags) / took_s,
            statistics.median(oldest),
            sorted(oldest)[len(oldest) * 95 // 100],
            max(oldest),
            sum(mean * of for _, mean, of in lags) / rows,
            rows / took_s,
        )

    def _put(self, entries: Sequence[Entry]) -> None:
        pipe = self._redis.pipeline(transaction=False)
        for shard, blob in entries:
            pipe.xadd(activity_key(shard), {b"b": blob})
        pipe.execute()

    def _until_archived(self) -> None:
        deadline = time.monotonic() + _SLOW_S
        while any(self._redis.xlen(activity_key(shard)) for shard in range(SHARDS)):
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name} has not archived everything after {_SLOW_S:.0f} s.")
            time.sleep(0.005)

    def _quiet(self) -> None:
        """Wait until ClickHouse has merged what it wants to merge."""
        before = _cpu_s(self._clickhouse_pid)
        while True:
            time.sleep(0.5)
            now = _cpu_s(self._clickhouse_pid)
            if now - before < 0.03:
                return
            before = now

    def _ask(self, sql: str) -> Any:
        return self._client.query(sql).result_rows

    def _reading(self) -> tuple[float, float, float, float]:
        pids = (self._process.pid, self._clickhouse_pid, self._redis_pid)
        return (time.monotonic(), *map(_cpu_s, pids))  # type: ignore[return-value]


def insert(url: str, block: bytes) -> None:
    """Put one block into ClickHouse."""
    parts = urlsplit(url)
    names = ", ".join(f"`{name}`" for name in COLUMNS)
    asked = {
        "database": parts.path.strip("/"), "query": f"INSERT INTO activity ({names}) FORMAT Native",
        **INSERT_SETTINGS, "insert_deduplication_token": os.urandom(8).hex(),
    }  # fmt: skip
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=_SLOW_S)
    headers = {"X-ClickHouse-User": str(parts.username), "X-ClickHouse-Key": str(parts.password)}
    connection.request("POST", "/?" + urlencode(asked), block, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != http.client.OK:
        raise SystemExit(f"ClickHouse refuses the block: {text}")
    connection.close()


def _cpu_s(pid: int) -> float:
    """CPU time that all threads of a process have used so far, seconds (utime and stime of proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _version(root: Path, place: Path, receipts_by: int) -> Iterator[Version]:
    """That version with its servers."""
    server = start_redis(place)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop, 10)
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-P", _PROCESS, server.url, str(SHARDS), str(place)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
            )
        )
        stack.callback(process.terminate)
        yield Version(root, server.url, server.pid, process, receipts_by)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def main() -> None:
    """Measure, and print a line for each version and load."""
    parser = parser_of("archiver", __doc__, versions=True)
    parser.add_argument("--rounds", type=count_from_1, default=3)
    parser.add_argument("--rate", type=more_than_0, default=30_000, help="messages a second in batches")
    parser.add_argument("--singles", type=more_than_0, default=6_000, help="single messages a second")
    parser.add_argument("--seconds", type=more_than_0, default=5, help="of batches and of singles in a round")
    parser.add_argument("--rows", type=count_from_1, default=1_000_000, help="of a backlog")
    parser.add_argument("--receipts", choices=_WAYS, default="any", help="(default any)")
    parser.add_argument("--loads", nargs="*", choices=_LOADS, default=_LOADS, help="all by default")
    given = parser.parse_args()
    figures: dict[tuple[str, str], list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="smsengine-bench-") as temporary, contextlib.ExitStack() as stack:
        Path(temporary).chmod(0o755)
        versions = [
            stack.enter_context(_version(root.resolve(), Path(temporary, str(n)), _WAYS[given.receipts]))
            for n, root in enumerate([*given.versions, _HERE])
        ]
        for turn in range(given.rounds):
            for version in versions:
                loads = {
                    "batches": partial(version.paced, BATCHES, given.rate, given.seconds),
                    "singles": partial(version.paced, SINGLES, given.singles, given.seconds),
                    "backlog": partial(version.backlog, given.rows),
                    "ceiling": partial(version.ceiling, given.rows),
                }
                for load in given.loads:
                    figures.setdefault((load, version.name), []).append(loads[load]())
            print(f"round {turn + 1} of {given.rounds}", file=sys.stderr)
        broken = [version.name for version in versions if not version.is_whole()]
    _print(figures)
    sys.exit(1 if broken else 0)


def _print(figures: dict[tuple[str, str], list[Figures]]) -> None:
    print(
        f"{'':16} µs a row:                  µs a message:  rows inserts  oldest, ms       mean rows/s\n"
        f"{'':16} archiver ClickHouse Redis    ClickHouse a block     a s   mid  95 %   max   ms a core  seen"
    )
    for (load, name), rounds in sorted(figures.items()):
        f = Figures(*(statistics.median(values) for values in zip(*rounds, strict=True)))
        a_core = f"{1e6 / f.archiver_us:6.0f}" if f.archiver_us else " " * 6
        cpu = f"{f.archiver_us:8.2f} {f.clickhouse_us:10.2f} {f.redis_us:5.2f} {2 * f.clickhouse_us:13.2f}"
        lag = f"{f.oldest_ms:5.0f} {f.oldest_95_ms:5.0f} {f.oldest_max_ms:5.0f} {f.mean_ms:4.0f}"
        blocks = f"{f.rows_per_block:7.0f} {f.inserts_per_s:7.2f}"
        print(f"{load:8} {name:7} {cpu} {blocks} {lag} {a_core} {f.rows_per_s:5.0f}")


if __name__ == "__main__":
    main()
