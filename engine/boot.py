"""The composition root: from a forked process to a role at work.

Every role is the same skeleton: uvloop, connect, announce ready, beat, drain on SIGTERM.
Exit codes: 0 drained; 1 ended, to be replaced; 3 ended by what an operator must mend.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import structlog
import uvloop

from engine import ids, keys, providers
from engine.api.app import create_app
from engine.api.server import Server
from engine.api.services import Services
from engine.boot_archiver import archive_and_match
from engine.config import Config, Role
from engine.delivery import Backoff
from engine.dispatch import Dispatcher
from engine.errors import Broken, EngineError, Unavailable
from engine.ingest import Ingest
from engine.ledger import Ledger
from engine.life import Life
from engine.price_list import PriceList
from engine.quota import Quota
from engine.records import Queue
from engine.routing_table import RoutingTable
from engine.shards import holders_key, shard_of
from engine.stores.activity import ClickHouseActivityStore
from engine.stores.activity_stream import RedisActivityStream
from engine.stores.admission import RedisAdmission, fence_command
from engine.stores.directory import Directory
from engine.stores.journal import Journal
from engine.stores.ledger import PostgresLedger
from engine.stores.outstanding import ClickHouseOutstanding
from engine.stores.pacing import RedisPace
from engine.stores.pool import Pool
from engine.stores.prices import Prices
from engine.stores.queue import QueueStreams
from engine.stores.receipts import RedisReceipts
from engine.stores.redis import RedisLink
from engine.stores.routing import Routing, RoutingCopy
from engine.stores.usage import RedisUsage
from engine.sweeper import Sweeper
from engine.views import Views
from engine.worker import Worker

log = structlog.get_logger("boot")

CANNOT_BOOT = 3
_STORE_TIMEOUT_S = 5.0
_DRAIN_S = 20.0
_START_S = 20.0
# Due messages moved to a queue in one step of one shard.
_PROMOTE_MAX = 500


def now_us() -> int:
    """UTC, microseconds since 1970."""
    return time.time_ns() // 1000


class Process:
    """What every role is given."""

    def __init__(
        self, role: Role, config: Config, name: str, life: Life, listener: socket.socket | None
    ) -> None:
        self.role = role
        self.config = config
        self.name = name
        self.life = life
        self.listener = listener

    @asynccontextmanager
    async def link(self, purpose: str) -> AsyncIterator[RedisLink]:
        """A Redis connection of this process, closed at the end."""
        link = RedisLink(self.config.redis.url, timeout_s=_STORE_TIMEOUT_S, name=f"{self.role}:{purpose}")
        await link.start()
        try:
            yield link
        finally:
            await link.close()


def run_role(role: Role, config: Config, name: str, pipe_fd: int, listener: socket.socket | None) -> int:
    """Be `role` until drained; the exit code."""

    async def main() -> int:
        life = Life(pipe_fd)
        life.start()
        asyncio.get_running_loop().set_exception_handler(_end_when_broken)
        process = Process(role, config, name, life, listener)
        beating = asyncio.create_task(life.beat())
        try:
            await _ROLES[role](process)
            return 0
        # Whatever ended it may be wrapped in the groups of its tasks.
        except BaseException as e:
            reasons = [leaf for leaf in _leaves(e) if not isinstance(leaf, asyncio.CancelledError)]
            if not reasons or not all(isinstance(reason, EngineError) for reason in reasons):
                raise
            sentence = " ".join(str(reason) for reason in reasons)
            log.error("role ends", role=role, reason=sentence)
            life.failed(sentence)
            # A store that is away may come back; a setting does not mend itself.
            return 1 if all(isinstance(reason, Unavailable) for reason in reasons) else CANNOT_BOOT
        finally:
            beating.cancel()

    return uvloop.run(main())


def _end_when_broken(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An invariant that broke inside a request must not be served over: end at once."""
    loop.default_exception_handler(context)
    if isinstance(context.get("exception"), Broken):
        os._exit(1)


def fence(config: Config, names: list[str]) -> int:
    """Fence these holders in every shard; none named: all of this node. Exit code 0 when done."""

    async def main() -> int:
        link = RedisLink(config.redis.url, timeout_s=_STORE_TIMEOUT_S, name="fence")
        try:
            wanted = names
            if not names:
                registered = await link.batch([("HKEYS", holders_key(s)) for s in range(config.shards)])
                mine = f"{config.node_name}."
                wanted = sorted({h.decode() for of_shard in registered for h in of_shard})
                wanted = [h for h in wanted if h.startswith(mine)]
            await link.batch([fence_command(s, h) for h in wanted for s in range(config.shards)])
        except Unavailable as e:
            log.warning("fence again", reason=e.detail)
            return 1
        finally:
            await link.close()
        return 0

    return uvloop.run(main())


async def _ingest(process: Process) -> None:
    config, life = process.config, process.life
    assert process.listener is not None
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(process.link("commands"))
        inbox_link = await stack.enter_async_context(process.link("inbox"))
        postgres = await Pool.connect(config.postgres.url)
        stack.push_async_callback(postgres.close)
        directory, prices = Directory(postgres, config.shards), PriceList(Prices(postgres))
        quota = Quota(
            RedisAdmission(link, inbox_link, config.shards),
            process.name,
            shards=config.shards,
            shard_of=partial(shard_of, shards=config.shards),
            now_us=now_us,
            quota_s=config.credit.quota_s,
            quota_min=config.credit.quota_min,
            validity_s=config.credit.validity_s,
            spenders=await directory.spenders(config.credit.prefetch_max),
        )
        await _patiently(quota.start)
        await prices.refresh()
        ingest = Ingest(
            quota,
            prices,
            config.queues,
            ids.MessageIds(random.SystemRandom().getrandbits(26), random.SystemRandom().getrandbits(48)),
            now_us=now_us,
            timeout_s=config.http.timeout_s * 0.9,
        )
        services = await _services(process, stack, link, postgres, directory, ingest)
        server = Server(create_app(services), process.listener)
        serving = [asyncio.create_task(quota.run()), asyncio.create_task(prices.run())]
        try:
            await server.start()
            life.ready()
            await _until(life.draining.wait(), *serving)
            await server.stop(_DRAIN_S)
            await quota.leave()
            counts = ingest.counts
            log.info(
                "credit found",
                submissions=counts.submissions,
                waited=counts.waited,
                waited_again=counts.waited_again,
            )
        finally:
            await _end(*serving)


async def _services(
    process: Process,
    stack: AsyncExitStack,
    link: RedisLink,
    postgres: Pool,
    directory: Directory,
    ingest: Ingest,
) -> Services:
    config = process.config
    stream = RedisActivityStream(config.redis.url, config.shards)
    stack.push_async_callback(stream.close)
    activity = ClickHouseActivityStore(config.clickhouse.url)
    stack.push_async_callback(activity.close)
    # Apart from the directory's: an audit may take long, and must not hold up a key look-up.
    pool = await asyncpg.create_pool(
        config.postgres.url,
        min_size=0,
        max_size=2,
        timeout=_STORE_TIMEOUT_S,
        command_timeout=_STORE_TIMEOUT_S,
    )
    stack.push_async_callback(pool.close)
    receipts = RedisReceipts(await stack.enter_async_context(process.link("receipts")), config.shards)
    stack.push_async_callback(receipts.close)
    outstanding = ClickHouseOutstanding(config.clickhouse.url)
    stack.push_async_callback(outstanding.close)
    views = Views(config, pool, link, stream, activity, directory.ping, outstanding.unmatched)
    return Services(
        ingest=ingest,
        directory=directory,
        prices=Prices(postgres),
        receipt_readers=providers.receipt_readers(config.providers),
        receipts=receipts,
        now_us=now_us,
        routing=Routing(postgres, [p.name for p in config.providers]),
        providers=config.providers,
        transactions=Journal(postgres).transactions,
        history=views.message,
        status=views.status,
        audit=views.audit,
        ready=views.ready,
        admin_key_sha256=_admin_key_digest(config),
        body_bytes_max=config.http.body_bytes_max,
        timeout_s=config.http.timeout_s,
        draining=process.life.draining,
    )


async def _worker(process: Process) -> None:
    config, life = process.config, process.life
    queue: Queue = "express" if process.role == "express" else "normal"
    log = structlog.get_logger(queue)
    settings = config.queues.of(queue)
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(process.link("commands"))
        read_link = await stack.enter_async_context(process.link("read"))
        pace_link = await stack.enter_async_context(process.link("pace"))
        receipts_link = await stack.enter_async_context(process.link("receipts"))
        receipts = RedisReceipts(receipts_link, config.shards)
        stack.push_async_callback(receipts.close)
        carriers = [providers.build(p, receipts) for p in config.providers]
        dispatcher = Dispatcher(
            queue,
            carriers,
            config.providers,
            RedisPace(pace_link),
            concurrency=settings.concurrency,
            rng=random.Random(),
            log=log,
            hedge=settings.hedge and settings.unknown_outcome == "at-least-once",
        )
        postgres = await Pool.connect(config.postgres.url, connections_max=1)
        stack.push_async_callback(postgres.close)
        routes = RoutingTable(Routing(postgres), RoutingCopy(link), dispatcher.use)
        await _patiently(routes.start)
        for carrier in carriers:
            await carrier.start()
            stack.push_async_callback(carrier.stop)
        reader = QueueStreams(
            link,
            read_link,
            queue=queue,
            shards=config.shards,
            worker_name=process.name,
            timeout_s=_STORE_TIMEOUT_S,
            log=log,
        )
        await _patiently(reader.join)
        worker = Worker(
            reader,
            dispatcher,
            concurrency=settings.concurrency,
            backoff=Backoff(first_us=int(settings.backoff_s * 1e6), max_us=int(settings.backoff_max_s * 1e6)),
            hand_s=config.take_over_s / 4,
            now_us=now_us,
            rng=random.Random(),
            log=log,
            at_most_once=settings.unknown_outcome == "at-most-once",
        )
        sweeper = Sweeper(
            reader,
            room=worker.room,
            take=worker.take,
            min_idle_ms=int(config.take_over_s * 1000),
            promote_max=_PROMOTE_MAX,
            now_us=now_us,
            log=log,
        )
        beside = [asyncio.create_task(sweeper.run(life.draining)), asyncio.create_task(routes.run())]
        try:
            life.ready()
            await _until(worker.run(life.draining, _DRAIN_S), *beside)
        finally:
            await _end(*beside)
        # Whatever could not be settled in time is now free for the other workers.
        await link.batch([fence_command(s, process.name) for s in range(config.shards)])


async def _ledger(process: Process) -> None:
    config, life = process.config, process.life
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(process.link("commands"))
        read_link = await stack.enter_async_context(process.link("read"))
        ledger = Ledger(
            PostgresLedger(config.postgres.url, timeout_s=_STORE_TIMEOUT_S),
            RedisUsage(link, read_link, config.shards),
            shards=config.shards,
            fresh_generation=lambda: os.urandom(16).hex(),
            overdue_s=config.credit.overdue_s,
            clock_s=time.monotonic,
        )
        await ledger.run(life.draining, life.ready)


async def _archiver(process: Process) -> None:
    await archive_and_match(process.config, process.name, process.life, process.link, now_us)


_ROLES: dict[Role, Callable[[Process], Awaitable[None]]] = {
    "ingest": _ingest,
    "express": _worker,
    "normal": _worker,
    "ledger": _ledger,
    "archiver": _archiver,
}


async def _until(wanted: Awaitable[Any], *needed: asyncio.Task[Any]) -> None:
    """Wait for `wanted`; a needed task that ends first brings its error here."""
    waiting = asyncio.ensure_future(wanted)
    try:
        done, _ = await asyncio.wait({waiting, *needed}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        waiting.cancel()


async def _patiently(step: Callable[[], Awaitable[None]]) -> None:
    """A step that needs Redis as the ledger prepares it, which may be starting as well."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            return await step()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _leaves(error: BaseException) -> list[BaseException]:
    """What really happened, out of the groups that task groups wrap it in."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for e in error.exceptions for leaf in _leaves(e)]
    return [error]


def _admin_key_digest(config: Config) -> bytes:
    path = Path(config.http.admin_key_file or Path(config.data_dir, "secrets", "admin_key"))
    try:
        return keys.digest(path.read_text().strip())
    except OSError as e:
        log.warning("admin calls are closed", file=str(path), reason=e.strerror)
        return b""
