"""The role `ingest`: the HTTP API, and what it answers from."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import structlog

from engine import api_keys, ids, providers, text_file
from engine.activity.lookups import Lookups
from engine.api.app import create_app
from engine.api.auth import Keys
from engine.api.edge.edge import Edge
from engine.api.ports import Services
from engine.api.readiness import Readiness
from engine.api.reads import PART_S, Reads
from engine.api.server import Server
from engine.boot.counter_log import CounterLog
from engine.boot.ingest_counts import watch_ingest, watch_requests
from engine.boot.problem_flush import ProblemFlush
from engine.boot.process import DRAIN_S, STORE_TIMEOUT_S, Process, closed_by, end, patiently, until
from engine.boot.scrape import Scrape
from engine.config import Config, Credit, Queues
from engine.credit.ports import AdmissionStore
from engine.credit.quota import Quota, can_spend
from engine.intake.ingest import Ingest
from engine.intake.ports import Prices as Pricing
from engine.intake.price_list import PriceList
from engine.limits.gate import Gate
from engine.limits.table import LimitTable
from engine.limits.watch import watch
from engine.providers.problems import Problems
from engine.shards import shard_of
from engine.stores.audit import AuditReader
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.clickhouse.attempts import ClickHouseAttempts
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.journal import Journal
from engine.stores.postgres.limits import LimitBook
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.prices import Prices
from engine.stores.postgres.rebuilt_usage import LostUsage
from engine.stores.postgres.routing import Routing
from engine.stores.postgres.unbooked import Unbooked
from engine.stores.rebuild import Rebuild
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.dead_letters import RedisDeadLetters
from engine.stores.redis.limits import RedisLimits
from engine.stores.redis.link import RedisLink
from engine.stores.redis.problems import RedisProblems
from engine.stores.redis.receipt_sink import RedisReceiptSink
from engine.stores.status import StatusReader
from engine.text_file import NotUtf8

log = structlog.get_logger("ingest")


def assemble_ingest(
    store: AdmissionStore,
    prices: Pricing,
    name: str,
    credit: Credit,
    queues: Queues,
    *,
    shards: int,
    timeout_s: float,
    spenders: Sequence[int] = (),
    now_us: Callable[[], int],
    rng: Random,
    check: Callable[[], None] = lambda: None,
    gate: Gate | None = None,
) -> tuple[Quota, Ingest]:
    """Put together the way in for messages, and the credit that it spends. Nothing runs yet.

    `name` is unique per process incarnation. `timeout_s` bounds a submission. `spenders` have quota
    before they ask. `check` raises Unavailable while nothing is to be taken in. `gate`: the limits of
    organisations; None: those of all. Two processes whose
    `rng` draw alike would give messages the same ids, so in a real process it is the system's source of
    randomness.
    """
    gate = gate or Gate(clock_s=time.monotonic)
    quota = Quota(
        store,
        name,
        shards=shards,
        shard_of=partial(shard_of, shards=shards),
        now_us=now_us,
        quota_s=credit.quota_s,
        quota_min=credit.quota_min,
        validity_s=credit.validity_s,
        spenders=spenders,
        heed=lambda admitted: gate.heed(admitted.backlogs, admitted.levels),
    )
    ingest = Ingest(
        quota,
        prices,
        queues.validities_s(),
        ids.MessageIds(rng.getrandbits(26), rng.getrandbits(48)),
        now_us=now_us,
        timeout_s=timeout_s,
        check=check,
        gate=gate,
    )
    return quota, ingest


async def serve(process: Process) -> None:
    """Answer the API until drained. Raises Unavailable, ConfigError."""
    config, life = process.config, process.life
    assert process.listener is not None
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(process.link("commands"))
        inbox_link = await stack.enter_async_context(process.link("inbox"))
        await process.know_the_time(link)
        postgres = closed_by(stack, await Pool.connect(config.postgres.url))
        directory, prices = Directory(postgres, config.shards), PriceList(Prices(postgres))
        limits = LimitTable(LimitBook(postgres))
        gate = _gate(config, limits)
        quota, ingest = assemble_ingest(
            RedisAdmission(
                link, inbox_link, config.shards, process.pulse, accepted_on=config.redis.accepted_on
            ),
            prices,
            process.name,
            config.credit,
            config.queues,
            shards=config.shards,
            timeout_s=config.http.timeout_s * 0.9,
            spenders=await directory.spenders(config.credit.prefetch_max),
            now_us=process.clock.now_us,
            rng=random.SystemRandom(),
            check=process.clock.check,
            gate=gate,
        )
        await watch_ingest(process, stack, ingest, quota)
        await patiently(quota.start)
        await prices.refresh()
        await limits.refresh()
        services = await _services(process, stack, link, postgres, directory, quota, ingest)
        watch_requests(process.meter, services.counts)
        server = _server(services, process.listener)
        runs = (quota.run(), prices.run(), limits.run(), watch(gate, _backlogs(config, link)))
        serving = [asyncio.create_task(run) for run in runs]
        try:
            await server.start()
            life.ready()
            await until(life.draining.wait(), *serving)
            await server.stop(DRAIN_S)
            await quota.leave()
        finally:
            await end(*serving)


def _gate(config: Config, limits: LimitTable) -> Gate:
    return Gate(limits.limits_of, backlog_max=config.limits.backlog_max, clock_s=time.monotonic)


def _backlogs(config: Config, link: RedisLink) -> RedisLimits:
    return RedisLimits(link, config.shards, partial(shard_of, shards=config.shards))


def _server(services: Services, listener: socket.socket) -> Server:
    """The API on its socket, with the edge in front."""
    keys = Keys(services.directory)
    return Server(create_app(services, keys), listener, Edge(services, keys))


async def _services(
    process: Process,
    stack: AsyncExitStack,
    link: RedisLink,
    postgres: Pool,
    directory: Directory,
    quota: Quota,
    ingest: Ingest,
) -> Services:
    config, shards, problems = process.config, process.config.shards, Problems(process.clock.now_us)
    stream = closed_by(stack, RedisActivityStream(config.redis.url, shards))
    activity = closed_by(stack, ClickHouseActivityStore(config.clickhouse.url))
    attempts = closed_by(stack, ClickHouseAttempts(config.clickhouse.url))
    # Apart from the directory's: a look at everything must not hold up a key look-up.
    wide = Pool.connect(config.postgres.url, timeout_s=STORE_TIMEOUT_S, connections_max=2)
    pool = closed_by(stack, await wide)
    # Links of its own, made when first used: an audit may wait long for an answer.
    audit_link = RedisLink(config.redis.url, timeout_s=STORE_TIMEOUT_S, name="ingest:audit")
    auditor = AuditReader(config.postgres.url, closed_by(stack, audit_link), activity, shards)
    lookups = closed_by(stack, Lookups(stream, activity, shards, PART_S))
    reads = Reads(config, pool, link, stream, lookups, attempts.unmatched, process.clock)
    return Services(
        ingest=ingest,
        directory=directory,
        limits=LimitBook(postgres, config.limits.backlog_max),
        unbooked=Unbooked(postgres, shards),
        losses=Rebuild(auditor, activity, LostUsage(pool)),
        prices=Prices(postgres),
        receipt_readers=providers.receipt_readers(config.providers, problems),
        receipts=await _receipts(process, stack, problems),
        problems=problems,
        provider_problems=RedisProblems(link, process.clock.now_us),
        now_us=process.clock.now_us,
        dead_letters=RedisDeadLetters(link, shards, partial(shard_of, shards=shards), process.clock.now_us),
        routing=Routing(postgres, [p.name for p in config.providers]),
        providers=config.providers,
        transactions=Journal(postgres).transactions,
        history=reads.message,
        status=reads.status,
        scrape=_scrape(process, pool, link, stream).text,
        backlog=reads.backlog,
        audit=auditor.audit,
        ready=(await _readiness(process, stack, link)).parts,
        can_spend=partial(can_spend, quota),
        admin_key_sha256=_admin_key_digest(config),
        metrics_key_sha256=_metrics_key_digest(config),
        body_bytes_max=config.http.body_bytes_max,
        timeout_s=config.http.timeout_s,
        draining=process.life.draining,
    )


def _scrape(process: Process, pool: Pool, link: RedisLink, stream: RedisActivityStream) -> Scrape:
    config, now_us = process.config, process.clock.now_us
    status = StatusReader(pool, link, stream, config.shards)
    providers = [p.name for p in config.providers]
    return Scrape(process.meter, status, RedisProblems(link, now_us), providers, now_us)


async def _readiness(process: Process, stack: AsyncExitStack, link: RedisLink) -> Readiness:
    """Whether Redis and PostgreSQL can be reached, and the clock of the node is right."""
    # A connection of its own: anybody may ask for the readiness, without a key.
    postgres = closed_by(stack, await Pool.connect(process.config.postgres.url, connections_max=1))

    async def clock() -> None:
        process.clock.check()

    probes: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "redis": partial(link.call, "PING"),
        "postgres": postgres.ping,
        "clock": clock,
    }
    return Readiness(probes, time.monotonic)


async def _receipts(process: Process, stack: AsyncExitStack, problems: Problems) -> RedisReceiptSink:
    """Where the receipts go that providers push to the API; what it counted is logged when it is closed.

    What is not understood in them goes to Redis from `problems`.
    """
    link = await stack.enter_async_context(process.link("receipts"))
    counters = await stack.enter_async_context(CounterLog(log, process.meter))
    await stack.enter_async_context(
        ProblemFlush(problems, RedisProblems(link, process.clock.now_us).add, log)
    )
    receipts = closed_by(stack, RedisReceiptSink(link, process.config.shards))
    counters.watch("receipts stored", receipts.counts)
    return receipts


def _metrics_key_digest(config: Config) -> bytes:
    """Of the key that an operator has put there for metrics alone; b"" when there is none."""
    try:
        key = text_file.read(Path(config.data_dir, "secrets", "metrics_key")).strip()
    except (OSError, NotUtf8):
        return b""
    return api_keys.digest(key) if key else b""


def _admin_key_digest(config: Config) -> bytes:
    path = Path(config.http.admin_key_file or Path(config.data_dir, "secrets", "admin_key"))
    try:
        key = text_file.read(path).strip()
        reason = "" if key else "it is empty"
    except (OSError, NotUtf8) as e:
        key, reason = "", str(e.strerror if isinstance(e, OSError) else e)
    if not key:
        log.warning("admin calls are closed", file=str(path), reason=reason)
        return b""
    return api_keys.digest(key)
