"""What a delivery of a webhook costs a notifier, and what an endpoint that never answers costs others.

    python -m benchmarks.webhooks [--events 60000] [--dead 100000] [--loads fast dead]

One notifier as the product runs it, in a process of its own, reads events that lie on the streams of a Redis
of its own and keeps what it must in a PostgreSQL of its own. The receiver is a process that answers at once.

    fast   `--events` events of 20 organisations wait when the notifier starts; it delivers all of them.
    Deliveries
           a second as seen, and of a core that runs nothing but the notifier
    dead   `--dead` events wait for an endpoint that takes connections and never answers, while another
           organisation has 50 events a second to the receiver: how long those take from the stream to the
           receiver's answer, and how much memory the notifier has more than before

Takes about two minutes. Exit code 1 when an event is not delivered.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop
from redis import Redis

from benchmarks.arguments import count_from_1, parser_of
from benchmarks.micro.http_answerer import answerer
from engine.boot.notifier import assemble_notifier
from engine.providers.http_client.pools import HttpPools
from engine.records import ActivityRow
from engine.redis_keys import activity_key
from engine.shards import shard_of
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.clickhouse.activity_log import ClickHouseActivityLog
from engine.stores.migrate import migrate_postgres
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.webhook_deliveries import PostgresDeliveries
from engine.stores.postgres.webhook_endpoints import EndpointBook
from engine.stores.redis.link import RedisLink
from engine.stores.redis.webhook_stream import RedisWebhookStreams
from engine.webhooks.notifier import NotifierStores
from supervisor.embedded.servers import start_all

_SHARDS = 16
_BATCH = 50
_ORGANISATIONS = 20
_PROBES, _PROBE_S = 400, 0.02
_END_S = 200.0
_encode = msgspec.msgpack.Encoder().encode
_numbers = itertools.count(1)


class Urls(NamedTuple):
    """The stores of the benchmark."""

    redis: str
    postgres: str


class Report(NamedTuple):
    """What a notifier says of itself when it is asked."""

    delivered: int
    kept: int
    in_hand: int
    cpu_s: float
    memory_mb: float


def _now_us() -> int:
    return time.time_ns() // 1000


def _memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def _notify(urls: Urls, pipe: socket.socket) -> None:
    """Be a notifier; answer each octet on `pipe` with a report, and end with the pipe."""
    link = RedisLink(urls.redis, timeout_s=5, name="commands")
    reading = RedisLink(urls.redis, timeout_s=5, name="read")
    await link.start()
    await reading.start()
    pool = await Pool.connect(urls.postgres, connections_max=2)
    pools = HttpPools(connections=8, timeout_s=10.0, permitted=None)
    # Nothing is archived here, so nobody asks it.
    log = ClickHouseActivityLog(ClickHouseActivityStore("http://127.0.0.1:9"))
    stores = NotifierStores(RedisWebhookStreams(link, reading), log, PostgresDeliveries(pool))
    notifier, table, sender, keeper = assemble_notifier(
        stores, EndpointBook(pool), pools, f"notifier {os.getpid()}", shards=_SHARDS, connections=8,
        now_us=_now_us, rng=random.Random(1),
    )  # fmt: skip
    await table.refresh()
    draining = asyncio.Event()
    work = asyncio.create_task(notifier.run(draining))
    reader, writer = await asyncio.open_connection(sock=pipe)
    while await reader.read(1):
        report = Report(
            sender.counts.delivered, keeper.counts.kept, notifier.in_hand, time.process_time(), _memory_mb()
        )
        writer.write(msgspec.json.encode(report) + b"\n")
        await writer.drain()
    draining.set()
    await work


def _child(urls: Urls, pipe: socket.socket, other_end: socket.socket) -> None:
    other_end.close()
    uvloop.run(_notify(urls, pipe))


class Notifier:
    """A notifier in a process of its own."""

    def __init__(self, urls: Urls) -> None:
        ours, theirs = socket.socketpair()
        self._process = multiprocessing.get_context("fork").Process(target=_child, args=(urls, theirs, ours))
        self._process.start()
        theirs.close()
        self._pipe = ours.makefile("rwb")
        self._socket = ours

    def report(self) -> Report:
        """What it has done so far."""
        self._pipe.write(b"?")
        self._pipe.flush()
        return msgspec.json.decode(self._pipe.readline(), type=Report)

    def end(self) -> None:
        """Drain it."""
        self._pipe.close()
        self._socket.close()
        self._process.join(30)


def _row(organisation_id: int) -> bytes:
    number, now_us = next(_numbers), _now_us()
    return _encode(
        ActivityRow(
            at_us=now_us, organisation_id=organisation_id, accepted_at_us=now_us,
            message_id=f"019aaaaa-0000-7000-8000-{number:012x}", event="sent", queue="normal",
            to="+989120000001", sender="ACME",
            encoding="GSM-7", segments=1, units=2, attempt=1, provider="sim", code="0", reference="order 7",
        )
    )  # fmt: skip


def _put(redis: Redis, organisation_id: int, events: int) -> None:
    """Events of one organisation, in entries as workers write them."""
    pipe = redis.pipeline(transaction=False)
    key = activity_key(shard_of(organisation_id, _SHARDS))
    for start in range(0, events, _BATCH):
        rows = [_row(organisation_id) for _ in range(min(_BATCH, events - start))]
        pipe.xadd(key, {b"b": b"\xdd" + len(rows).to_bytes(4, "big") + b"".join(rows)})
    pipe.execute()


def _begin(redis: Redis) -> None:
    """The streams are read from here on: a shard that was never read begins at its end."""
    for shard in range(_SHARDS):
        redis.hset(f"webhooks:{{{shard}}}:settled", mapping={"activity": "0-0", "events": "0-0"})


async def _organisations(urls: Urls, endpoints: Sequence[str]) -> list[int]:
    """An organisation for each endpoint."""
    pool = await Pool.connect(urls.postgres)
    found = []
    for url in endpoints:
        made = await Directory(pool, _SHARDS).create_organisation(f"organisation {next(_numbers)}")
        await EndpointBook(pool, allow_private=True).create(made.id, url)
        found.append(made.id)
    await pool.close()
    return found


def _until(notifier: Notifier, delivered: int) -> Report:
    deadline = time.monotonic() + _END_S
    while (report := notifier.report()).delivered < delivered:
        if time.monotonic() > deadline:
            sys.exit(f"only {report.delivered} of {delivered} events were delivered")
        time.sleep(0.01)
    return report


def _fast(urls: Urls, redis: Redis, port: int, events: int) -> None:
    redis.flushdb()
    _begin(redis)
    organisations = asyncio.run(_organisations(urls, [f"http://127.0.0.1:{port}/"] * _ORGANISATIONS))
    for _ in range(max(1, events // _ORGANISATIONS // 1000)):
        for organisation in organisations:
            _put(redis, organisation, min(1000, events // _ORGANISATIONS))
    events = max(1, events // _ORGANISATIONS // 1000) * min(1000, events // _ORGANISATIONS) * _ORGANISATIONS
    notifier = Notifier(urls)
    first = _until(notifier, 1)
    began_s = time.monotonic()
    last = _until(notifier, events)
    took_s, count = time.monotonic() - began_s, last.delivered - first.delivered
    cpu_s = last.cpu_s - first.cpu_s
    print(f"fast   {count:,} deliveries: {count / took_s:,.0f}/s as seen, {count / cpu_s:,.0f}/s of a core")
    print(
        f"       {cpu_s / count * 1e6:.0f} us of the notifier each, {last.kept:,} kept,"
        f" {last.memory_mb:.0f} MB"
    )
    notifier.end()


def _dead(urls: Urls, redis: Redis, port: int, events: int) -> None:
    redis.flushdb()
    _begin(redis)
    # Connections are taken by the kernel, and nobody answers.
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        dead_url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        dead, other = asyncio.run(_organisations(urls, [dead_url, f"http://127.0.0.1:{port}/"]))
        notifier = Notifier(urls)
        _put(redis, other, 1)
        before = _until(notifier, 1)
        alone = sorted(_probe(redis, notifier, other) for _ in range(_PROBES // 4))
        for _ in range(events // 1000):
            _put(redis, dead, 1000)
        times, most_mb, began_s = list[float](), before.memory_mb, time.monotonic()
        while len(times) < _PROBES or (
            notifier.report().kept < events and time.monotonic() < began_s + _END_S
        ):
            times.append(_probe(redis, notifier, other))
            most_mb = max(most_mb, notifier.report().memory_mb)
        report = notifier.report()
        times.sort()
        of = partial(_quantile, times)
        print(f"dead   {report.kept:,} events of {events:,} kept {time.monotonic() - began_s:.0f} s after"
              f" they came, {report.in_hand:,} in memory")  # fmt: skip
        print(f"       {most_mb - before.memory_mb:+.0f} MB at most ({before.memory_mb:.0f} MB before)")
        print(f"       another organisation's {len(times):,} events: median {of(0.5) * 1e3:.0f} ms, p99"
              f" {of(0.99) * 1e3:.0f} ms (before: {_quantile(alone, 0.5) * 1e3:.0f},"
              f" {_quantile(alone, 0.99) * 1e3:.0f} ms)")  # fmt: skip
        notifier.end()


def _probe(redis: Redis, notifier: Notifier, organisation: int) -> float:
    """How long an event takes until it is delivered, seconds."""
    before, began_s = notifier.report().delivered, time.monotonic()
    _put(redis, organisation, 1)
    while notifier.report().delivered == before:
        if time.monotonic() > began_s + _END_S:
            sys.exit("an event was not delivered")
        time.sleep(0.001)
    took_s = time.monotonic() - began_s
    time.sleep(_PROBE_S)
    return took_s


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main() -> None:
    """Measure and print."""
    parser = parser_of("webhooks", __doc__)
    parser.add_argument("--events", type=count_from_1, default=60_000)
    parser.add_argument("--dead", type=count_from_1, default=100_000)
    parser.add_argument("--loads", nargs="+", choices=("fast", "dead"), default=["fast", "dead"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="webhooks-") as directory, answerer() as receiver:
        servers = start_all(Path(directory), {"redis", "postgres"})
        try:
            urls = Urls(servers["redis"].url, servers["postgres"].url)
            asyncio.run(migrate_postgres(urls.postgres))
            redis = Redis.from_url(urls.redis)
            if "fast" in asked.loads:
                _fast(urls, redis, receiver.port, asked.events)
            if "dead" in asked.loads:
                _dead(urls, redis, receiver.port, asked.dead)
            redis.close()
        finally:
            for server in servers.values():
                server.stop(10)


if __name__ == "__main__":
    main()
