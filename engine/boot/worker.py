"""The roles `express` and `normal`: the messages of one queue to their providers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from random import Random
from typing import NamedTuple

import structlog
from structlog.typing import FilteringBoundLogger

from engine import providers
from engine.boot.counter_log import CounterLog
from engine.boot.lane_gauges import watch_worker
from engine.boot.loop_lag import watch_lag
from engine.boot.problem_flush import ProblemFlush
from engine.boot.process import DRAIN_S, STORE_TIMEOUT_S, Process, closed_by, end, patiently, until
from engine.config import QueueSettings
from engine.delivery.dispatcher import Dispatcher
from engine.delivery.lanes import Lanes
from engine.delivery.ports import QueueReader
from engine.delivery.recaller import Recaller
from engine.delivery.settlement import RetryPauses, UnknownOutcomes, before_sending
from engine.delivery.settler import Settler
from engine.delivery.sweeper import Sweeper
from engine.delivery.worker import Worker
from engine.hosts.cpu_waits import CpuWaits
from engine.limits.keeper import LimitKeeper
from engine.limits.table import LimitTable
from engine.providers.ports import Provider
from engine.providers.problems import Problems
from engine.providers.settings import ProviderSettings
from engine.records import Entry, Queue, Settlement
from engine.routing.ports import SlotStore
from engine.routing.records import RoutingPlan
from engine.routing.table import RoutingTable
from engine.shards import shard_of
from engine.stores.postgres.limits import LimitBook
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.routing import Routing
from engine.stores.redis.admission import fence_all
from engine.stores.redis.inbound_sink import RedisInboundSink
from engine.stores.redis.limits import RedisLimits
from engine.stores.redis.link import RedisLink
from engine.stores.redis.problems import RedisProblems
from engine.stores.redis.queue import QueueStreams
from engine.stores.redis.reads import ReadLinks
from engine.stores.redis.receipt_sink import RedisReceiptSink
from engine.stores.redis.routing_copy import RoutingCopy
from engine.stores.redis.throughput import RedisSlots

# A message that comes so soon after a read may wait so long for others to be read with it, seconds. What
# is read alone costs the worker and Redis several times as much. Redis serves who waits for a message
# before it answers its client, so a worker that waits all the time also delays every 202 of one who sends
# alone.
_LINGER_S, _EXPRESS_LINGER_S = 0.01, 0.002
# Due messages moved to a queue in one step of one shard.
_PROMOTE_MAX = 500


def _never_waits(now_s: float) -> float:
    return 0.0


def _waits(queue: Queue) -> Callable[[float], float]:
    """What part of the time the worker of a queue waits for a core; `express` gives way to nobody."""
    return CpuWaits().part if queue == "normal" else _never_waits


class WorkerParts(NamedTuple):
    """What runs in a worker's process. `worker` and `sweeper` are run; `dispatcher` is given routes."""

    worker: Worker
    sweeper: Sweeper
    dispatcher: Dispatcher


def assemble_worker(
    reader: QueueReader,
    built: Sequence[Provider],
    provider_settings: Sequence[ProviderSettings],
    slots: SlotStore,
    settings: QueueSettings,
    *,
    take_over_s: float,
    hand_s: float | None = None,
    now_us: Callable[[], int],
    clock_s: Callable[[], float],
    rng: Random,
    log: FilteringBoundLogger,
    fit: Callable[[], bool] = lambda: True,
    readable: Callable[[str], bool] = lambda event: True,
    weight_of: Callable[[int], float] = lambda organisation_id: 1.0,
    waited: Callable[[float], float] = _never_waits,
) -> WorkerParts:
    """Put together the worker of `reader`'s queue. Nothing runs yet.

    `built`: the providers in order of preference, with the settings of each in the same order. The
    caller starts and stops them. `take_over_s`: entries that were given out so long ago are taken
    over from their worker. `hand_s`: entries that were read so long ago are not sent; None: a
    quarter of `take_over_s`. While it is not `fit`, the worker takes nothing more. `readable`: whether
    every living process can read an event, by its name. `weight_of`: the weight of an organisation. `waited`:
    see `Worker`.
    """
    unknown = _unknown_outcomes(settings)
    settler = Settler(
        reader, pauses=_pauses(settings), hand_s=take_over_s / 4 if hand_s is None else hand_s,
        now_us=now_us, clock_s=clock_s, rng=rng, log=log, unknown=unknown, readable=readable,
    )  # fmt: skip
    dispatcher = Dispatcher(
        reader.queue, built, provider_settings, slots, settler,
        concurrency=settings.concurrency, rng=rng, log=log, clock_s=clock_s, hedge=settings.hedge,
        weight_of=weight_of, puts_off=lambda: reader.put_off.allowed,
    )  # fmt: skip
    recaller = Recaller(
        reader.put_off, dispatcher.ways, dispatcher.lanes.supply, clock_s=clock_s, log=log
    )  # fmt: skip
    _know_receipts(dispatcher.lanes, provider_settings)
    ends = partial(_ending, now_us, unknown, readable)
    worker = Worker(
        reader, dispatcher, settler, concurrency=settings.concurrency, clock_s=clock_s, log=log, fit=fit,
        linger_s=_EXPRESS_LINGER_S if reader.queue == "express" else _LINGER_S,
        careful=unknown.sends_max == 1, recalling=recaller.run, known=recaller.known, waited=waited,
    )  # fmt: skip
    sweeper = _sweeper(reader, worker, ends, recaller, take_over_s, now_us, log)
    return WorkerParts(worker, sweeper, dispatcher)


def _ending(
    now_us: Callable[[], int], unknown: UnknownOutcomes, readable: Callable[[str], bool], entry: Entry
) -> Settlement | None:
    """The settlement of an unread message that must not be sent; None: it is left to the worker.

    So is one whose event an older version beside this one cannot read.
    """
    settlement = before_sending(entry, now_us(), unknown)
    known = settlement is None or settlement.row is None or readable(settlement.row.event)
    return settlement if known else None


def _know_receipts(lanes: Lanes, provider_settings: Sequence[ProviderSettings]) -> None:
    """Let each lane know how the receipts of its provider name messages."""
    for of in provider_settings:
        lanes.by_name[of.name].receipts_by = providers.receipts_by(of)


def _pauses(settings: QueueSettings) -> RetryPauses:
    return RetryPauses(first_us=int(settings.backoff_s * 1e6), max_us=int(settings.backoff_max_s * 1e6))


def _unknown_outcomes(settings: QueueSettings) -> UnknownOutcomes:
    at_most_once = settings.unknown_outcome == "at-most-once"
    charge = settings.unknown_outcome_charge or ("released" if at_most_once else "captured")
    return UnknownOutcomes(
        sends_max=1 if at_most_once else settings.unknown_outcomes_max, charged=charge == "captured"
    )


def _sweeper(
    reader: QueueReader,
    worker: Worker,
    ends: Callable[[Entry], Settlement | None],
    recaller: Recaller,
    take_over_s: float,
    now_us: Callable[[], int],
    log: FilteringBoundLogger,
) -> Sweeper:
    return Sweeper(
        reader,
        room=worker.room,
        busy=lambda: worker.in_hand > 0,
        stirred=worker.stirred,
        take=worker.take,
        before_sending=ends,
        asks=recaller.asks,
        looked=recaller.look,
        min_idle_ms=int(take_over_s * 1000),
        promote_max=_PROMOTE_MAX,
        now_us=now_us,
        log=log,
    )


async def deliver(process: Process) -> None:
    """Deliver until drained. Raises ConfigError for a provider that cannot be used."""
    config, life, queue = process.config, process.life, _queue(process)
    log = structlog.get_logger(queue)
    async with AsyncExitStack() as stack:
        links = await _read_links(process, stack)
        link = links.commands
        await process.know_the_time(link)
        reader = _reader(process, links, queue, log)
        # Before all that counts, so that its last line comes after them.
        counters = await stack.enter_async_context(CounterLog(log, process.meter))
        built = await _providers(process, stack, counters)
        postgres = closed_by(stack, await Pool.connect(config.postgres.url, connections_max=1))
        limits = LimitTable(LimitBook(postgres))
        worker, sweeper, dispatcher = assemble_worker(
            reader, built, config.providers,
            RedisSlots(await stack.enter_async_context(process.link("pace"))),
            config.queues.of(queue),
            take_over_s=config.take_over_s,
            now_us=process.clock.now_us,
            clock_s=time.monotonic,
            rng=random.Random(),
            log=log,
            fit=lambda: not process.clock.off,
            readable=process.pulse.readable,
            weight_of=limits.weight_of, waited=_waits(queue),
        )  # fmt: skip
        watch_worker(process.meter, counters, worker, dispatcher.lanes)
        keeper = _limit_keeper(process, link, limits, dispatcher)

        def use(plan: RoutingPlan) -> None:
            dispatcher.use(plan)
            life.routing(plan.version)

        routes = RoutingTable(Routing(postgres), RoutingCopy(link), use)
        await patiently(routes.start)
        await _start(stack, built)
        await patiently(reader.join)
        await patiently(keeper.look)
        watch = watch_lag(process.meter.lag, lambda: worker.in_hand > 0)
        runs = (sweeper.run(life.draining), routes.run(), keeper.run(), watch)
        beside = list(map(asyncio.create_task, runs))
        try:
            life.follow_concurrency(config.queues.of(queue).concurrency, worker.allow)
            life.ready()
            await until(worker.run(life.draining, DRAIN_S), *beside)
        finally:
            await end(*beside)
        # Whatever could not be settled in time is now free for the other workers.
        await fence_all(link, [process.name], config.shards)


def _queue(process: Process) -> Queue:
    return "express" if process.role == "express" else "normal"


async def _start(stack: AsyncExitStack, built: Sequence[Provider]) -> None:
    """Start the providers, to be stopped with `stack`."""
    for provider in built:
        await provider.start()
        stack.push_async_callback(provider.stop)


def _limit_keeper(
    process: Process, link: RedisLink, limits: LimitTable, dispatcher: Dispatcher
) -> LimitKeeper:
    shards = process.config.shards
    of = partial(shard_of, shards=shards)
    in_force = RedisLimits(link, shards, of, _queue(process))
    return LimitKeeper(limits, in_force, of, dispatcher.pause, readable=process.pulse.readable)


async def _providers(process: Process, stack: AsyncExitStack, counters: CounterLog) -> list[Provider]:
    """The providers, not yet started, and what they count watched by `counters`."""
    link = await stack.enter_async_context(process.link("receipts"))
    ids = {p.name: p.receipt_ids for p in process.config.providers}
    receipts = closed_by(stack, RedisReceiptSink(link, process.config.shards, ids))
    counters.watch("receipts stored", receipts.counts)
    now_us = process.clock.now_us
    inbound = closed_by(stack, RedisInboundSink(link, now_us))
    problems = Problems(now_us)
    await stack.enter_async_context(
        ProblemFlush(problems, RedisProblems(link, now_us).add, structlog.get_logger(process.role))
    )
    built = [
        providers.build(p, receipts, problems, now_us=now_us, inbound=inbound)
        for p in process.config.providers
    ]
    for provider in built:
        if (counts := providers.traffic_counts(provider)) is not None:
            counters.watch("provider traffic", counts, provider=provider.name)
    return built


async def _read_links(process: Process, stack: AsyncExitStack) -> ReadLinks:
    commands = await stack.enter_async_context(process.link("commands", together=True))
    reading = await stack.enter_async_context(process.link("read"))
    return ReadLinks(commands, reading, await stack.enter_async_context(process.link("read beside")))


def _reader(process: Process, links: ReadLinks, queue: Queue, log: FilteringBoundLogger) -> QueueStreams:
    return QueueStreams(
        links.commands,
        links.reading,
        queue=queue,
        shards=process.config.shards,
        worker_name=process.name,
        timeout_s=STORE_TIMEOUT_S,
        log=log,
        pulse=process.pulse,
        accepted_on=process.config.redis.accepted_on,
        beside=links.beside,
    )
