"""What the calls of the API need of the rest of the engine, put together for a process of role `ingest`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import structlog

from engine import providers
from engine.api.client_address import TrustedProxies
from engine.api.ports import Services
from engine.api.request_counts import RequestCounts
from engine.boot.admin import admin_services, readiness, webhook_services
from engine.boot.counter_log import CounterLog
from engine.boot.ingest_counts import watch_requests
from engine.boot.kept_messages import kept_messages
from engine.boot.problem_flush import ProblemFlush
from engine.boot.process import Process, closed_by
from engine.boot.recipients import recipient_services
from engine.boot.reports import report_services
from engine.credit.quota import Quota, can_spend, obstacle_of
from engine.errors import Unavailable
from engine.intake.closures import Closures
from engine.intake.ingest import Ingest
from engine.providers.problems import Problems
from engine.stores.postgres.api_key_book import ApiKeyBook
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.journal import Journal
from engine.stores.postgres.key_uses import KeyUses
from engine.stores.postgres.pool import Pool
from engine.stores.redis.kept_answers import RedisKeptAnswers
from engine.stores.redis.link import RedisLink
from engine.stores.redis.problems import RedisProblems
from engine.stores.redis.receipt_sink import RedisReceiptSink

log = structlog.get_logger("ingest")


async def ingest_services(
    process: Process,
    stack: AsyncExitStack,
    link: RedisLink,
    postgres: Pool,
    directory: Directory,
    quota: Quota,
    ingest: Ingest,
    closures: Closures,
    answers: RedisKeptAnswers,
) -> Services:
    """What the calls of the API need. Raises Unavailable, ConfigError."""
    config, problems = process.config, Problems(process.clock.now_us)
    kept = kept_messages(process, stack, link)
    ready = (await readiness(process, stack, partial(takes_messages, link, quota))).parts
    counts = RequestCounts()
    watch_requests(process.meter, counts)
    admin = None
    if config.admin.public:
        admin = await admin_services(process, stack, link, directory, ready=ready, counts=counts)
    return Services(
        ingest=ingest,
        directory=directory,
        recipients=recipient_services(config, stack, postgres, link, process.clock.now_us),
        inbound_readers=providers.inbound_readers(config.providers),
        answers=answers,
        api_keys=ApiKeyBook(postgres),
        note_key_uses=KeyUses(postgres, "api_keys").note,
        receipt_readers=providers.receipt_readers(config.providers, problems),
        receipts=await _receipts(process, stack, problems),
        problems=problems,
        now_us=process.clock.now_us,
        webhooks=webhook_services(config, postgres, link),
        transactions=Journal(postgres).transactions,
        history=kept.history.message,
        cancels=kept.cancels,
        lists=kept.lists,
        batches=kept.batches,
        reports=report_services(config, stack, link),
        ready=ready,
        can_spend=partial(can_spend, quota),
        counts=counts,
        body_bytes_max=config.http.body_bytes_max,
        timeout_s=config.http.timeout_s,
        draining=process.life.draining,
        trusted_proxies=TrustedProxies(config.http.trusted_proxies),
        admin=admin,
        drained=lambda: closures.node_drained,
    )


async def takes_messages(link: RedisLink, quota: Quota) -> None:
    """Raises Unavailable when Redis does not answer, or this holder cannot write messages to it now."""
    await link.call("PING")
    if obstacle := obstacle_of(quota):
        raise Unavailable(obstacle)


async def _receipts(process: Process, stack: AsyncExitStack, problems: Problems) -> RedisReceiptSink:
    """Where the receipts go that providers push to the API; what it counted is logged when it is closed.

    What is not understood in them goes to Redis from `problems`.
    """
    link = await stack.enter_async_context(process.link("receipts"))
    counters = await stack.enter_async_context(CounterLog(log, process.meter))
    await stack.enter_async_context(
        ProblemFlush(problems, RedisProblems(link, process.clock.now_us).add, log)
    )
    ids = {p.name: p.receipt_ids for p in process.config.providers}
    receipts = closed_by(stack, RedisReceiptSink(link, process.config.shards, ids))
    counters.watch("receipts stored", receipts.counts)
    return receipts
