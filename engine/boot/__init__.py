"""The composition root: from a forked process to a role at work.

Every role is the same skeleton: uvloop, connect, announce ready, beat, drain when asked (see `life`).
Exit codes: 0 drained; 1 ended, to be replaced; 3 ended by what an operator must mend.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import structlog
import uvloop

from engine import ids, keys, providers
from engine.api.app import create_app
from engine.api.ports import Services
from engine.api.readiness import Readiness
from engine.api.reads import Reads
from engine.api.server import Server
from engine.boot.archiver import archive_and_match
from engine.boot.heartbeat import Heartbeat
from engine.boot.process import (
    DRAIN_S,
    STORE_TIMEOUT_S,
    Process,
    end,
    end_by_fault,
    now_us,
    patiently,
    reasons,
    until,
)
from engine.boot.worker import deliver
from engine.config import Config, Role
from engine.credit.ledger import Ledger
from engine.credit.quota import Quota
from engine.errors import Broken, EngineError, Unavailable
from engine.intake.ingest import Ingest
from engine.intake.price_list import PriceList
from engine.shards import holders_key, shard_of
from engine.stores.audit import AuditReader
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.journal import Journal
from engine.stores.postgres.layout import confirm_shards
from engine.stores.postgres.ledger import PostgresLedger
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.prices import Prices
from engine.stores.postgres.routing import Routing
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.admission import RedisAdmission, fence_all
from engine.stores.redis.link import RedisLink
from engine.stores.redis.receipt_sink import RedisReceiptSink
from engine.stores.redis.usage import RedisUsage
from engine.stores.redis.wire import ReplyError

log = structlog.get_logger("boot")

CANNOT_BOOT = 3


def run_role(role: Role, config: Config, name: str, pipe_fd: int, listener: socket.socket | None) -> int:
    """Be `role` until drained; the exit code."""

    async def main() -> int:
        life = Heartbeat(pipe_fd)
        life.start()
        asyncio.get_running_loop().set_exception_handler(_end_when_broken)
        process = Process(role, config, name, life, listener)
        beating = asyncio.create_task(life.beat())
        try:
            await confirm_shards(config.postgres.url, config.shards)
            await _ROLES[role](process)
            return 0
        # Whatever ended it may be wrapped in the groups of its tasks.
        except BaseException as e:
            found = reasons(e)
            if not found:
                raise
            if not all(isinstance(reason, EngineError) for reason in found):
                end_by_fault(e)
            sentence = " ".join(str(reason) for reason in found)
            log.error("role ends", role=role, reason=sentence)
            life.failed(sentence)
            # A store that is away may come back; a setting does not mend itself.
            return 1 if all(isinstance(reason, Unavailable) for reason in found) else CANNOT_BOOT
        finally:
            beating.cancel()

    return uvloop.run(main())


def _end_when_broken(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An invariant that broke inside a request must not be served over: end at once."""
    loop.default_exception_handler(context)
    if isinstance(context.get("exception"), Broken):
        os._exit(1)


def fence(config: Config, names: list[str]) -> int:
    """Fence these holders in every shard; none named: all of this node. Exit code 0 when done.

    Raises Unavailable or ReplyError when not all of it was done: Redis is away, or refuses a step.
    Killed half way: some are fenced, and fencing them again does nothing.
    """

    async def main() -> int:
        link = RedisLink(config.redis.url, timeout_s=STORE_TIMEOUT_S, name="fence")
        try:
            wanted = names or await _holders_here(link, config)
            await fence_all(link, wanted, config.shards)
        finally:
            await link.close()
        return 0

    return uvloop.run(main())


async def _holders_here(link: RedisLink, config: Config) -> list[str]:
    """The holders of this node that are registered in any shard. Raises Unavailable."""
    found: set[str] = set()
    for reply in await link.batch([("HKEYS", holders_key(s)) for s in range(config.shards)]):
        if isinstance(reply, ReplyError):
            raise Unavailable(f"Redis does not say who is registered: {reply}.") from reply
        found.update(name.decode() for name in reply)
    return sorted(name for name in found if name.startswith(f"{config.node_name}."))


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
        await patiently(quota.start)
        await prices.refresh()
        ingest = Ingest(
            quota,
            prices,
            config.queues.validities_s(),
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
            await until(life.draining.wait(), *serving)
            await server.stop(DRAIN_S)
            await quota.leave()
            counts = ingest.counts
            log.info(
                "credit found",
                submissions=counts.submissions,
                waited=counts.waited,
                waited_again=counts.waited_again,
            )
        finally:
            await end(*serving)


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
    # Apart from the directory's: a look at everything must not hold up a key look-up.
    pool = await asyncpg.create_pool(
        config.postgres.url,
        min_size=0,
        max_size=2,
        timeout=STORE_TIMEOUT_S,
        command_timeout=STORE_TIMEOUT_S,
    )
    stack.push_async_callback(pool.close)
    receipts = RedisReceiptSink(await stack.enter_async_context(process.link("receipts")), config.shards)
    stack.push_async_callback(receipts.close)
    outstanding = ClickHouseAttempts(config.clickhouse.url)
    stack.push_async_callback(outstanding.close)
    # A connection of its own too: anybody may ask for the readiness, without a key.
    probe = await Pool.connect(config.postgres.url, connections_max=1)
    stack.push_async_callback(probe.close)
    readiness = Readiness({"redis": partial(link.call, "PING"), "postgres": probe.ping}, time.monotonic)
    # Links of its own, made when first used: an audit may wait long for an answer.
    audit_link = RedisLink(config.redis.url, timeout_s=STORE_TIMEOUT_S, name="ingest:audit")
    stack.push_async_callback(audit_link.close)
    auditor = AuditReader(config.postgres.url, audit_link, activity, config.shards)
    views = Reads(config, pool, link, stream, activity, outstanding.unmatched)
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
        audit=auditor.audit,
        ready=readiness.parts,
        admin_key_sha256=_admin_key_digest(config),
        body_bytes_max=config.http.body_bytes_max,
        timeout_s=config.http.timeout_s,
        draining=process.life.draining,
    )


async def _ledger(process: Process) -> None:
    config, life = process.config, process.life
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(process.link("commands"))
        read_link = await stack.enter_async_context(process.link("read"))
        ledger = Ledger(
            PostgresLedger(config.postgres.url, timeout_s=STORE_TIMEOUT_S),
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
    "express": deliver,
    "normal": deliver,
    "ledger": _ledger,
    "archiver": _archiver,
}


def _admin_key_digest(config: Config) -> bytes:
    path = Path(config.http.admin_key_file or Path(config.data_dir, "secrets", "admin_key"))
    try:
        return keys.digest(path.read_text().strip())
    except OSError as e:
        log.warning("admin calls are closed", file=str(path), reason=e.strerror)
        return b""
