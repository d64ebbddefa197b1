"""The role `admin`: the admin calls and /metrics of its node, on an address of their own.

It runs on every node, also on one without ingest, and nothing else runs in it: an operator can act while
the API is overloaded. With `[admin] public` each ingest process answers the same calls too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from engine import api_keys, text_file
from engine.api.app import AdminCallTable, create_admin_app
from engine.api.client_address import TrustedProxies
from engine.api.ports import AdminServices
from engine.api.readiness import Readiness
from engine.api.reads import Reports
from engine.api.request_counts import RequestCounts
from engine.api.server import Server
from engine.api.webhook_ports import WebhookServices
from engine.boot.ingest_counts import watch_requests
from engine.boot.kept_messages import kept_messages
from engine.boot.plans import PlanProcess
from engine.boot.process import DRAIN_S, STORE_TIMEOUT_S, Process, closed_by, end, until
from engine.boot.recipients import recipient_services
from engine.boot.reports import report_services
from engine.boot.scrape import Scrape
from engine.config import Config
from engine.console.app import console
from engine.console.sessions import AGE_S, IDLE_S, PER_KEY_MAX
from engine.nodes.control import NodeControl
from engine.shards import shard_of
from engine.stores.audit import AuditReader
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.clickhouse.divided.attempts import DividedAttempts
from engine.stores.clickhouse.traffic import ClickHouseTraffic
from engine.stores.postgres.adjustments import Adjustments
from engine.stores.postgres.admin_keys import AdminKeyBook
from engine.stores.postgres.api_key_book import ApiKeyBook
from engine.stores.postgres.changes import Changes
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.journal import Journal
from engine.stores.postgres.key_uses import KeyUses
from engine.stores.postgres.limits import LimitBook
from engine.stores.postgres.nodes import PostgresNodeWishes
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.prices import Prices
from engine.stores.postgres.rebuilt_usage import LostUsage
from engine.stores.postgres.routing import Routing
from engine.stores.postgres.unbooked import Unbooked
from engine.stores.postgres.webhook_endpoints import EndpointBook
from engine.stores.rebuild import Rebuild
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.admit_wire import KEY_TTL_S
from engine.stores.redis.console_sessions import RedisConsoleSessions
from engine.stores.redis.dead_letters import RedisDeadLetters
from engine.stores.redis.kept_answers import RedisKeptAnswers
from engine.stores.redis.link import RedisLink
from engine.stores.redis.node_notes import RedisNodeNotes
from engine.stores.redis.problems import RedisProblems
from engine.stores.redis.webhook_stream import RedisWebhookStreams
from engine.stores.status import StatusReader
from engine.text_file import NotUtf8

log = structlog.get_logger("admin")


async def serve_admin(process: Process) -> None:
    """Answer the admin calls until drained. Raises Unavailable, ConfigError."""
    assert process.listener is not None
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(process.link("commands"))
        await process.know_the_time(link)
        directory = Directory(
            closed_by(stack, await Pool.connect(process.config.postgres.url)), process.config.shards
        )
        ready = (await readiness(process, stack, partial(link.call, "PING"))).parts
        counts = RequestCounts()
        watch_requests(process.meter, counts)
        services = await admin_services(process, stack, link, directory, ready=ready, counts=counts)
        app = create_admin_app(services, *_console(process.config, services, link))
        server = Server(app, process.listener)
        pulse = asyncio.create_task(process.keep_pulse(link))
        try:
            await server.start()
            process.life.ready()
            await until(process.life.draining.wait(), pulse)
            await server.stop(DRAIN_S)
        finally:
            await end(pulse)


def _console(
    config: Config, services: AdminServices, link: RedisLink
) -> Iterator[Callable[[AdminCallTable], None]]:
    """What adds the web console, unless the settings want none."""
    if config.admin.console:
        yield console(
            services, RedisConsoleSessions(link, idle_s=IDLE_S, age_s=AGE_S, per_key_max=PER_KEY_MAX)
        )


def webhook_services(config: Config, postgres: Pool, link: RedisLink) -> WebhookServices:
    """What the calls on webhooks work with."""
    book = EndpointBook(postgres, allow_private=config.notifier.allow_private)
    return WebhookServices(book, RedisWebhookStreams(link, link), config.shards)


async def admin_services(
    process: Process,
    stack: AsyncExitStack,
    link: RedisLink,
    directory: Directory,
    *,
    ready: Callable[[], Awaitable[dict[str, str]]],
    counts: RequestCounts,
) -> AdminServices:
    """What the admin calls need; `stack` closes its connections. Raises ConfigError for a wrong URL."""
    config, shards, now_us = process.config, process.config.shards, process.clock.now_us
    postgres, looks = directory.pool, await _looks(process, stack, link)
    kept = kept_messages(process, stack, link)
    traffic = closed_by(stack, ClickHouseTraffic(config.clickhouse.url, now_us)).traffic
    return AdminServices(
        directory=directory,
        webhooks=webhook_services(config, postgres, link),
        now_us=now_us,
        answers=RedisKeptAnswers(link, shards, lambda: KEY_TTL_S),
        api_keys=ApiKeyBook(postgres),
        admin_keys=AdminKeyBook(postgres),
        note_key_uses=KeyUses(postgres, "api_keys").note,
        note_admin_key_uses=KeyUses(postgres, "admin_keys").note,
        changes=Changes(postgres),
        adjust=Adjustments(postgres).adjust,
        limits=LimitBook(postgres, config.limits.backlog_max),
        recipients=recipient_services(config, stack, postgres, link, now_us),
        unbooked=Unbooked(postgres, shards),
        losses=looks.losses,
        prices=Prices(postgres),
        provider_problems=RedisProblems(link, now_us),
        dead_letters=RedisDeadLetters(link, shards, partial(shard_of, shards=shards), now_us),
        history=kept.history.message, cancels=kept.cancels, lists=kept.lists, batches=kept.batches,
        nodes=looks.nodes,
        routing=Routing(postgres, [p.name for p in config.providers]),
        providers=config.providers,
        transactions=Journal(postgres).transactions,
        status=looks.reports.status, scrape=looks.scrape.text, backlog=looks.reports.backlog,
        reports=report_services(config, stack, link),
        traffic=traffic, plan=PlanProcess(config, traffic).plan,
        audit=looks.auditor.audit,
        ready=ready, counts=counts,
        admin_key_sha256=_admin_key_digest(config),
        metrics_key_sha256=_metrics_key_digest(config),
        body_bytes_max=config.http.body_bytes_max,
        timeout_s=config.http.timeout_s,
        draining=process.life.draining,
        trusted_proxies=TrustedProxies(config.http.trusted_proxies),
    )  # fmt: skip


class _Looks(NamedTuple):
    """What looks at everything that the stores hold."""

    reports: Reports
    scrape: Scrape
    auditor: AuditReader
    losses: Rebuild
    nodes: NodeControl


async def _looks(process: Process, stack: AsyncExitStack, link: RedisLink) -> _Looks:
    config = process.config
    stream = closed_by(stack, RedisActivityStream(config.redis.url, config.shards))
    activity = closed_by(stack, DividedActivityStore(config.clickhouse.url))
    attempts = closed_by(stack, DividedAttempts(config.clickhouse.url))
    # Apart from the directory's: a look at everything must not hold up a key look-up.
    wide = Pool.connect(config.postgres.url, timeout_s=STORE_TIMEOUT_S, connections_max=2)
    pool = closed_by(stack, await wide)
    # Links of its own, made when first used: an audit may wait long for an answer.
    audit_link = RedisLink(config.redis.url, timeout_s=STORE_TIMEOUT_S, name=f"{process.role}:audit")
    auditor = AuditReader(config.postgres.url, closed_by(stack, audit_link), activity, config.shards)
    nodes = NodeControl(
        config.node_name, RedisNodeNotes(link), PostgresNodeWishes(pool), process.clock.now_us
    )
    return _Looks(
        Reports(config, pool, link, stream, attempts.unmatched, process.clock, nodes),
        _scrape(process, pool, link, stream),
        auditor,
        Rebuild(auditor, activity, LostUsage(pool)),
        nodes,
    )


async def readiness(
    process: Process, stack: AsyncExitStack, redis: Callable[[], Coroutine[Any, Any, object]]
) -> Readiness:
    """Whether Redis serves, as the probe `redis` finds, PostgreSQL can be reached, and the clock is right."""
    # A connection of its own: anybody may ask for the readiness, without a key.
    postgres = closed_by(stack, await Pool.connect(process.config.postgres.url, connections_max=1))

    async def clock() -> None:
        process.clock.check()

    probes: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "redis": redis,
        "postgres": postgres.ping,
        "clock": clock,
    }
    return Readiness(probes, time.monotonic)


def _scrape(process: Process, pool: Pool, link: RedisLink, stream: RedisActivityStream) -> Scrape:
    config, now_us = process.config, process.clock.now_us
    status = StatusReader(pool, link, stream, config.shards)
    providers = [p.name for p in config.providers]
    return Scrape(process.meter, status, RedisProblems(link, now_us), providers, now_us, config.data_dir)


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
