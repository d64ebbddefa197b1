"""The role `ingest`: the HTTP API, and what it answers from."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from random import Random

import structlog

from engine import ids, providers
from engine.activity.batches import Batches
from engine.activity.cancels import Cancels
from engine.activity.lookups import Lookups
from engine.activity.message_list import MessageLists
from engine.api.app import create_app
from engine.api.auth import Keys
from engine.api.compatible.app import compatible_listener, create_compatible_app
from engine.api.edge.edge import Edge
from engine.api.ports import Services
from engine.api.reads import PART_S, MessageReads
from engine.api.request_counts import RequestCounts
from engine.api.server import Server
from engine.boot.admin import admin_services, readiness, webhook_services
from engine.boot.counter_log import CounterLog
from engine.boot.ingest_counts import watch_ingest, watch_requests
from engine.boot.problem_flush import ProblemFlush
from engine.boot.process import DRAIN_S, Process, closed_by, end, patiently, until
from engine.boot.recipients import recipient_services
from engine.boot.reports import report_services
from engine.config import Config, Credit, Queues
from engine.credit.ports import AdmissionStore
from engine.credit.quota import Quota, can_spend, obstacle_of
from engine.errors import Refusal, Unavailable
from engine.intake.addressing import Permit, any_sender
from engine.intake.closures import Closures
from engine.intake.ingest import FirstUse, Ingest
from engine.intake.opt_outs import OptOutTable
from engine.intake.permissions import Permissions
from engine.intake.ports import Prices as Pricing
from engine.intake.price_list import PriceList
from engine.intake.sender_table import SenderTable
from engine.limits.gate import Gate
from engine.limits.table import LimitTable
from engine.limits.watch import watch
from engine.providers.problems import Problems
from engine.records import MessageDraft
from engine.shards import shard_of
from engine.store_clock import StoreClock
from engine.stores.clickhouse.activity import ClickHouseActivityStore
from engine.stores.clickhouse.message_list import ClickHouseMessageList
from engine.stores.postgres.closures import PostgresClosures
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.journal import Journal
from engine.stores.postgres.key_uses import KeyUses
from engine.stores.postgres.limits import LimitBook
from engine.stores.postgres.opt_outs import OptOutBook
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.prices import Prices
from engine.stores.postgres.sender_rules import SenderBook
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.archive_progress import RedisArchiveProgress
from engine.stores.redis.cancels import RedisCancels
from engine.stores.redis.kept_answers import RedisKeptAnswers
from engine.stores.redis.limits import RedisLimits
from engine.stores.redis.link import RedisLink
from engine.stores.redis.problems import RedisProblems
from engine.stores.redis.receipt_sink import RedisReceiptSink

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
    check: Callable[[Sequence[MessageDraft | Refusal]], None] = lambda drafts: None,
    gate: Gate | None = None,
    permit: Permit = any_sender,
    first: FirstUse | None = None,
) -> tuple[Quota, Ingest]:
    """Put together the way in for messages, and the credit that it spends. Nothing runs yet.

    `name` is unique per process incarnation. `timeout_s` bounds a submission. `spenders` have quota
    before they ask. `check` raises Unavailable when a request with these messages is not to be taken in.
    `gate`: the limits of organisations; None: those of all. `permit`: whether a message may be sent, and
    under which sender. `first`: what a key was first used for, for repetitions while nothing is taken. Two
    processes whose `rng` draw alike would give messages the same ids, so in a real process it is the system's
    source of randomness.
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
        permit=permit,
        first=first,
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
        permissions = Permissions(OptOutTable(OptOutBook(postgres)), SenderTable(SenderBook(postgres)))
        gate = _gate(config, limits)
        closures = _closures(config, postgres)
        admission = RedisAdmission(
            link, inbox_link, config.shards, process.pulse, accepted_on=config.redis.accepted_on
        )
        answers = RedisKeptAnswers(link, config.shards, lambda: admission.key_ttl_s)
        quota, ingest = assemble_ingest(
            admission,
            prices,
            process.name,
            config.credit,
            config.queues,
            shards=config.shards,
            timeout_s=config.http.timeout_s * 0.9,
            spenders=await directory.spenders(config.credit.prefetch_max),
            now_us=process.clock.now_us,
            rng=random.SystemRandom(),
            check=partial(_check, process.clock, closures),
            gate=gate,
            permit=permissions.sender,
            first=answers.first,
        )
        await watch_ingest(process, stack, ingest, quota)
        await patiently(quota.start)
        for followed in (prices, limits, permissions, closures):
            await followed.refresh()
        services = await _services(
            process, stack, link, postgres, directory, quota, ingest, closures, answers
        )
        servers = _servers(config, services, process.listener)
        runs = (
            quota.run(), prices.run(), limits.run(), permissions.run(), watch(gate, _backlogs(config, link)),
            closures.run(life.admits, lambda: ingest.under_way),
        )  # fmt: skip
        serving = [asyncio.create_task(run) for run in runs]
        try:
            for server in servers:
                await server.start()
            life.ready()
            await until(life.draining.wait(), *serving)
            await asyncio.gather(*(server.stop(DRAIN_S) for server in servers))
            await quota.leave()
        finally:
            await end(*serving)


def _closures(config: Config, postgres: Pool) -> Closures:
    store = PostgresClosures(postgres, config.node_name)
    return Closures(store, notice_s=config.http.drain_notice_s, clock_s=time.monotonic)


def _check(clock: StoreClock, closures: Closures, drafts: Sequence[MessageDraft | Refusal]) -> None:
    """Raise Unavailable when these messages must not be taken in now."""
    clock.check()
    closures.check(drafts)


def _gate(config: Config, limits: LimitTable) -> Gate:
    return Gate(limits.limits_of, backlog_max=config.limits.backlog_max, clock_s=time.monotonic)


def _backlogs(config: Config, link: RedisLink) -> RedisLimits:
    return RedisLimits(link, config.shards, partial(shard_of, shards=config.shards))


def _servers(config: Config, services: Services, listener: socket.socket) -> list[Server]:
    """The API on its socket, with the edge in front, and where calls of other gateways are understood.

    Raises ConfigError.
    """
    keys = Keys(services.directory)
    edge = Edge(services, keys, config.http.connections_max)
    servers = [Server(create_app(services, keys), listener, edge)]
    if config.compatible.listen:
        socket_ = compatible_listener(config.compatible.listen)
        servers.append(Server(create_compatible_app(services, keys), socket_))
    return servers


async def _services(
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
    config, shards, problems = process.config, process.config.shards, Problems(process.clock.now_us)
    stream = closed_by(stack, RedisActivityStream(config.redis.url, shards))
    activity = closed_by(stack, ClickHouseActivityStore(config.clickhouse.url))
    lookups = closed_by(stack, Lookups(stream, activity, shards, PART_S))
    listed = ClickHouseMessageList(activity)
    progress = RedisArchiveProgress(link, shards)
    batches = Batches(progress, listed, shards)
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
        note_key_uses=KeyUses(postgres, "api_keys").note,
        receipt_readers=providers.receipt_readers(config.providers, problems),
        receipts=await _receipts(process, stack, problems),
        problems=problems,
        now_us=process.clock.now_us,
        webhooks=webhook_services(config, postgres, link),
        transactions=Journal(postgres).transactions,
        history=MessageReads(lookups).message,
        cancels=Cancels(
            lookups, batches, RedisCancels(link, shards, process.clock.now_us), process.pulse.readable
        ),
        lists=MessageLists(listed, progress, shards, process.clock.now_us),
        batches=batches,
        reports=report_services(config, stack),
        ready=ready,
        can_spend=partial(can_spend, quota),
        counts=counts,
        body_bytes_max=config.http.body_bytes_max,
        timeout_s=config.http.timeout_s,
        draining=process.life.draining,
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
    receipts = closed_by(stack, RedisReceiptSink(link, process.config.shards))
    counters.watch("receipts stored", receipts.counts)
    return receipts
