"""The roles `express` and `normal`: the messages of one queue to their providers."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack

import structlog
from structlog.typing import FilteringBoundLogger

from engine import providers
from engine.boot.counter_log import CounterLog
from engine.boot.process import DRAIN_S, STORE_TIMEOUT_S, Process, end, now_us, patiently, until
from engine.config import QueueSettings
from engine.delivery.dispatcher import Dispatcher
from engine.delivery.settlement import Backoff
from engine.delivery.settler import Settler
from engine.delivery.sweeper import Sweeper
from engine.delivery.worker import Worker
from engine.providers.ports import Provider
from engine.records import Queue
from engine.routing.records import RoutingPlan
from engine.routing.table import RoutingTable
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.routing import Routing
from engine.stores.redis.admission import fence_all
from engine.stores.redis.link import RedisLink
from engine.stores.redis.queue import QueueStreams
from engine.stores.redis.receipt_sink import RedisReceiptSink
from engine.stores.redis.routing_copy import RoutingCopy
from engine.stores.redis.throughput import RedisSlots

# Due messages moved to a queue in one step of one shard.
_PROMOTE_MAX = 500


async def deliver(process: Process) -> None:
    """Until drained. Raises ConfigError for a provider that cannot be used."""
    config, life = process.config, process.life
    queue: Queue = "express" if process.role == "express" else "normal"
    log = structlog.get_logger(queue)
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(process.link("commands"))
        read_link = await stack.enter_async_context(process.link("read"))
        reader = _reader(process, link, read_link, queue, log)
        settings = config.queues.of(queue)
        settler = _settler(process, reader, settings, log)
        built, dispatcher = await _dispatcher(process, stack, settler, queue, log)
        postgres = await Pool.connect(config.postgres.url, connections_max=1)
        stack.push_async_callback(postgres.close)

        def use(plan: RoutingPlan) -> None:
            dispatcher.use(plan)
            life.routing(plan.version)

        routes = RoutingTable(Routing(postgres), RoutingCopy(link), use)
        await patiently(routes.start)
        for provider in built:
            await provider.start()
            stack.push_async_callback(provider.stop)
        await patiently(reader.join)
        worker = Worker(
            reader,
            dispatcher,
            settler,
            concurrency=settings.concurrency,
            clock_s=time.monotonic,
            log=log,
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
            await until(worker.run(life.draining, DRAIN_S), *beside)
        finally:
            await end(*beside)
        # Whatever could not be settled in time is now free for the other workers.
        await fence_all(link, [process.name], config.shards)


async def _dispatcher(
    process: Process, stack: AsyncExitStack, settler: Settler, queue: Queue, log: FilteringBoundLogger
) -> tuple[list[Provider], Dispatcher]:
    """The providers, not yet started, and what gives them messages; its links end with `stack`."""
    config, settings = process.config, process.config.queues.of(queue)
    pace_link = await stack.enter_async_context(process.link("pace"))
    receipts_link = await stack.enter_async_context(process.link("receipts"))
    # Entered before what counts, so that it writes its last lines after that has ended.
    counters = await stack.enter_async_context(CounterLog(log))
    receipts = RedisReceiptSink(receipts_link, config.shards)
    stack.push_async_callback(receipts.close)
    counters.watch("receipts stored", receipts.counts)
    built = [providers.build(p, receipts) for p in config.providers]
    for provider in built:
        if (counts := providers.traffic_counts(provider)) is not None:
            counters.watch("provider traffic", counts, provider=provider.name)
    dispatcher = Dispatcher(
        queue,
        built,
        config.providers,
        RedisSlots(pace_link),
        settler,
        concurrency=settings.concurrency,
        rng=random.Random(),
        log=log,
        clock_s=time.monotonic,
        hedge=settings.hedge and settings.unknown_outcome == "at-least-once",
    )
    return built, dispatcher


def _reader(
    process: Process, link: RedisLink, read_link: RedisLink, queue: Queue, log: FilteringBoundLogger
) -> QueueStreams:
    return QueueStreams(
        link,
        read_link,
        queue=queue,
        shards=process.config.shards,
        worker_name=process.name,
        timeout_s=STORE_TIMEOUT_S,
        log=log,
    )


def _settler(
    process: Process, reader: QueueStreams, settings: QueueSettings, log: FilteringBoundLogger
) -> Settler:
    return Settler(
        reader,
        backoff=Backoff(first_us=int(settings.backoff_s * 1e6), max_us=int(settings.backoff_max_s * 1e6)),
        hand_s=process.config.take_over_s / 4,
        now_us=now_us,
        clock_s=time.monotonic,
        rng=random.Random(),
        log=log,
        at_most_once=settings.unknown_outcome == "at-most-once",
    )
