"""The role `notifier`: events of messages to the URLs of their organisations."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random

import structlog

from engine.boot.counter_log import CounterLog
from engine.boot.meter import Meter
from engine.boot.process import Process, closed_by, end, until
from engine.clocks.waits import next_tick
from engine.hosts.tls import trusting
from engine.hosts.webhook_urls import is_public
from engine.providers.http_client.pools import HttpPools
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.clickhouse.divided.activity_log import DividedActivityLog
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.webhook_deliveries import PostgresDeliveries
from engine.stores.postgres.webhook_endpoints import EndpointBook
from engine.stores.redis.webhook_stream import RedisWebhookStreams
from engine.webhooks.endpoint_table import EndpointTable
from engine.webhooks.keeper import Keeper
from engine.webhooks.made import MadeDeliveries
from engine.webhooks.notifier import Notifier, NotifierStores
from engine.webhooks.ports import EndpointStore, Poster
from engine.webhooks.retries import RETRY_S
from engine.webhooks.sender import Sender
from engine.webhooks.shares import LEASE_S, Shares

_SWEEP_S = 10.0


def assemble_notifier(
    stores: NotifierStores,
    endpoints: EndpointStore,
    poster: Poster,
    name: str,
    *,
    shards: int,
    connections: int,
    now_us: Callable[[], int],
    rng: Random,
    lease_s: float = LEASE_S,
    retry_s: float = RETRY_S,
) -> tuple[Notifier, EndpointTable, Sender, Keeper]:
    """Put together a notifier. Nothing runs yet.

    `name` is unique per process incarnation. `connections`: requests in flight to one origin of an
    organisation. `now_us`: the stores' time, microseconds since 1970. `rng`: where jitter comes from.
    `lease_s`: how long the shards of a notifier that is gone wait for another; `retry_s`: how often what is
    kept is looked at, seconds.
    """
    table, keeper = EndpointTable(endpoints), Keeper(stores.book)
    made = MadeDeliveries(stores.streams, now_us)
    sender = Sender(
        poster, table, keeper, made, connections=connections, now_us=now_us, clock_s=time.monotonic, rng=rng
    )
    shares = Shares(stores.streams, name, shards, lease_s=lease_s)
    notifier = Notifier(
        stores, table, sender, keeper, made, shares, name=name, shards=shards, now_us=now_us, retry_s=retry_s
    )
    return notifier, table, sender, keeper


async def notify(process: Process) -> None:
    """Notify until drained. Raises Unavailable, ConfigError."""
    config, settings, log = process.config, process.config.notifier, structlog.get_logger("notifier")
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(process.link("commands"))
        reading = await stack.enter_async_context(process.link("read"))
        await process.know_the_time(link)
        postgres = closed_by(stack, await Pool.connect(config.postgres.url, connections_max=2))
        activity = closed_by(stack, DividedActivityStore(config.clickhouse.url))
        pools = HttpPools(
            connections=settings.connections_max,
            timeout_s=settings.timeout_s,
            permitted=None if settings.allow_private else is_public,
            tls=trusting(settings.tls_ca_file, "notifier.tls_ca_file"),
        )
        stack.push_async_callback(pools.stop)
        stores = NotifierStores(
            RedisWebhookStreams(link, reading),
            DividedActivityLog(activity, config.shards),
            PostgresDeliveries(postgres),
        )
        notifier, table, sender, keeper = assemble_notifier(
            stores,
            EndpointBook(postgres),
            pools,
            process.name,
            shards=config.shards,
            connections=settings.connections_max,
            now_us=process.clock.now_us,
            rng=random.Random(),
        )
        counters = await stack.enter_async_context(CounterLog(log, process.meter))
        counters.watch("webhook events", notifier.counts)
        counters.watch("webhook attempts", sender.counts)
        counters.watch("webhook deliveries kept", keeper.counts)
        _show(process.meter, notifier, sender)
        await table.refresh()
        beside = [asyncio.create_task(process.keep_pulse(link)), asyncio.create_task(_sweep(pools))]
        try:
            process.life.ready()
            await until(notifier.run(process.life.draining), *beside)
        finally:
            await end(*beside)


def _show(meter: Meter, notifier: Notifier, sender: Sender) -> None:
    def show() -> None:
        meter.gauge("smsengine_webhook_deliveries_waiting", notifier.retries.waiting)
        meter.gauge("smsengine_webhook_deliveries_in_hand", notifier.in_hand)
        meter.gauge("smsengine_webhook_open_circuits", sender.open_circuits)
        meter.gauge("smsengine_webhook_lag_seconds", notifier.lag_s)

    meter.gauges(show)


async def _sweep(pools: HttpPools) -> None:
    while True:
        await next_tick(_SWEEP_S)
        pools.sweep()
