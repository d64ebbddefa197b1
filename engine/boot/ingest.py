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

from engine.api.app import create_app
from engine.api.auth import Keys
from engine.api.compatible.app import compatible_listener, create_compatible_app
from engine.api.edge.edge import Edge
from engine.api.ports import Services
from engine.api.server import Server
from engine.boot.auto_replies import answering_ingest, auto_replies
from engine.boot.heartbeat import Heartbeat
from engine.boot.ingest_counts import watch_ingest
from engine.boot.ingest_services import ingest_services
from engine.boot.process import DRAIN_S, Process, closed_by, end, patiently, until
from engine.clocks.store_clock import StoreClock
from engine.config import Config, Credit, Queues
from engine.credit.ports import AdmissionStore
from engine.credit.quota import Quota
from engine.errors import Refusal
from engine.ids import MessageIds
from engine.intake.addressing import Free, Permit, any_sender, never_free
from engine.intake.closures import Closures
from engine.intake.ingest import Ingest
from engine.intake.opt_outs import OptOutTable
from engine.intake.permissions import Permissions
from engine.intake.ports import Prices as Pricing
from engine.intake.price_list import PriceList
from engine.intake.sender_table import SenderTable
from engine.intake.under_way import FirstUse
from engine.limits.gate import Gate
from engine.limits.table import LimitTable
from engine.limits.watch import watch
from engine.records import MessageDraft
from engine.shards import shard_of
from engine.stores.postgres.closures import PostgresClosures
from engine.stores.postgres.directory import Directory
from engine.stores.postgres.limits import LimitBook
from engine.stores.postgres.opt_outs import OptOutBook
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.prices import Prices
from engine.stores.postgres.sender_rules import SenderBook
from engine.stores.redis.admission import RedisAdmission
from engine.stores.redis.kept_answers import RedisKeptAnswers
from engine.stores.redis.limits import RedisLimits
from engine.stores.redis.link import RedisLink

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
    free: Free = never_free,
    first: FirstUse | None = None,
) -> tuple[Quota, Ingest]:
    """Put together the way in for messages, and the credit that it spends. Nothing runs yet.

    `name` is unique per process incarnation. `timeout_s` bounds a submission. `spenders` have quota
    before they ask. `check` raises Unavailable when a request with these messages is not to be taken in.
    `gate`: the limits of organisations; None: those of all. `permit`: whether a message may be sent, and by
    which sender; `free`: whose messages need none. `first`: what a key was first used for, for repetitions
    when nothing can be taken. With an `rng` that draws as another's does, messages have the same ids.
    """
    gate = gate or Gate(clock_s=time.monotonic)
    quota = Quota(
        store,
        name,
        shards=shards,
        shard_of=partial(shard_of, shards=shards),
        now_us=now_us,
        quota_s=credit.quota_s, quota_min=credit.quota_min, validity_s=credit.validity_s,
        spenders=spenders,
        heed=lambda admitted: gate.heed(admitted.backlogs, admitted.levels),
    )  # fmt: skip
    ingest = Ingest(
        quota,
        prices,
        queues.validities_s(),
        MessageIds.drawn(rng),
        now_us=now_us, timeout_s=timeout_s, check=check, gate=gate, permit=permit, free=free, first=first,
    )  # fmt: skip
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
        limits, permissions = LimitTable(LimitBook(postgres)), _permissions(postgres)
        gate, closures = _gate(config, limits), _closures(config, postgres)
        check = partial(_check, process.clock, closures)
        admission = RedisAdmission(
            link, inbox_link, config.shards, process.pulse,
            accepted_on=config.redis.accepted_on, texts=config.activity.texts_days is not None,
        )  # fmt: skip
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
            check=check,
            gate=gate,
            permit=permissions.sender, free=permissions.are_free, first=answers.first,
        )  # fmt: skip
        answering = answering_ingest(process, quota, prices, gate, check, permissions, answers.first)
        replies = await auto_replies(process, stack, link, answering)
        await watch_ingest(process, stack, ingest, quota)
        await patiently(quota.start)
        for followed in (prices, limits, permissions, closures):
            await followed.refresh()
        services = await ingest_services(
            process, stack, link, postgres, directory, quota, ingest, closures, answers
        )
        servers = _servers(config, services, process.listener)
        runs = (
            quota.run(), prices.run(), limits.run(), permissions.run(), watch(gate, _backlogs(config, link)),
            closures.run(life.admits, lambda: ingest.under_way + answering.under_way),
        )  # fmt: skip
        replying = asyncio.create_task(replies.run(life.draining))
        await _answer(servers, quota, life, replying, [asyncio.create_task(run) for run in runs])


async def _answer(
    servers: Sequence[Server],
    quota: Quota,
    life: Heartbeat,
    replying: asyncio.Task[None],
    runs: list[asyncio.Task[None]],
) -> None:
    """Serve until drained, or until `replying` or one of `runs` fails; they have ended then. `replying`
    ends by itself when the process is to drain."""
    try:
        for server in servers:
            await server.start()
        life.ready()
        await until(life.draining.wait(), replying, *runs)
        await asyncio.gather(replying, *(server.stop(DRAIN_S) for server in servers))
        await quota.leave()
    finally:
        await end(replying, *runs)


def _permissions(postgres: Pool) -> Permissions:
    return Permissions(OptOutTable(OptOutBook(postgres)), SenderTable(SenderBook(postgres)))


def _closures(config: Config, postgres: Pool) -> Closures:
    store = PostgresClosures(postgres, config.node_name)
    return Closures(store, notice_s=config.http.drain_notice_s, clock_s=time.monotonic)


def _check(clock: StoreClock, closures: Closures, drafts: Sequence[MessageDraft | Refusal]) -> None:
    """Raise Unavailable when these messages must not be taken in now."""
    if clock.off:
        clock.check()
    if not closures.takes_all:
        closures.check(drafts)


def _gate(config: Config, limits: LimitTable) -> Gate:
    return Gate(limits.limits_of, backlog_max=config.limits.backlog_max, clock_s=time.monotonic)


def _backlogs(config: Config, link: RedisLink) -> RedisLimits:
    return RedisLimits(link, config.shards, partial(shard_of, shards=config.shards))


def _servers(config: Config, services: Services, listener: socket.socket) -> list[Server]:
    """The API on its socket, with the edge in front, and where calls of other gateways are understood.

    Raises ConfigError.
    """
    keys = Keys(services.directory, services.trusted_proxies)
    edge = Edge(services, keys, config.http.connections_max)
    servers = [Server(create_app(services, keys), listener, edge)]
    if config.compatible.listen:
        socket_ = compatible_listener(config.compatible.listen)
        servers.append(Server(create_compatible_app(services, keys), socket_))
    return servers
