"""The role `archiver`: activity to ClickHouse, and receipts to the messages they are about.

Both are in one process, because both mostly wait. All archivers share the shards, and so do all matchers,
each with leases of their own."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any, get_args

import structlog

from engine.activity.archiver import Archiver
from engine.activity.numbers import PLAIN, Numbers
from engine.activity.ports import ActivityStream
from engine.activity.report_filling import fill_reports
from engine.activity.report_rolling import Progress, roll_reports
from engine.boot.counter_log import CounterLog
from engine.boot.heartbeat import Heartbeat
from engine.boot.inbox import assemble_inbox
from engine.boot.meter import Meter
from engine.boot.numbers import numbers_for
from engine.boot.problem_flush import ProblemFlush
from engine.boot.process import closed_by
from engine.config import Config
from engine.problem_records import ProblemKind
from engine.providers.problems import Problems
from engine.receipts.ids import IdForms
from engine.receipts.match import Reason
from engine.receipts.matcher import Matcher
from engine.receipts.ports import AttemptStore, MatchLimits, ReceiptStream
from engine.receipts.records import Receipt
from engine.receipts.rounds import Rounds
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.clickhouse.divided.attempts import DividedAttempts
from engine.stores.clickhouse.division import urls_of
from engine.stores.clickhouse.report_fill import ClickHouseReportFill
from engine.stores.clickhouse.report_periods import ClickHouseReportPeriods
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.link import RedisLink
from engine.stores.redis.problems import RedisProblems
from engine.stores.redis.pulse import Pulse
from engine.stores.redis.receipt_stream import RedisReceiptStream

# How long what is under way may take when the process is to end, and when ClickHouse was away before that,
# seconds. The first is longer than an archiver takes by itself (`archiver.Limits.drain_s`).
_END_S, _STUCK_S = 12.0, 2.0
# malloc.h
_M_ARENA_MAX = -8


def assemble_matcher(
    stream: ReceiptStream,
    store: AttemptStore,
    name: str,
    limits: MatchLimits,
    *,
    shards: int,
    receipt_ids: Mapping[str, IdForms],
    per_message: Collection[str] = (),
    now_us: Callable[[], int],
    numbers: Numbers = PLAIN,
    given_up: Callable[[Receipt, Reason], None] = lambda receipt, reason: None,
) -> tuple[Matcher, Rounds]:
    """Put together a matcher, and the rounds that it makes. Nothing runs yet.

    `name` is unique per process incarnation. `receipt_ids` by provider, "auto" for those not named.
    `per_message`: the providers whose receipts are each about a whole message. `numbers`: how recipients'
    numbers are stored.
    `given_up` is called with each receipt for which no message was found.
    """
    rounds = Rounds(
        stream,
        store,
        shards=shards,
        receipt_ids=receipt_ids,
        per_message=per_message,
        now_us=now_us,
        limits=limits,
        numbers=numbers,
        given_up=given_up,
    )
    return Matcher(stream, rounds, name, limits), rounds


async def archive_and_match(
    config: Config,
    name: str,
    life: Heartbeat,
    link: Callable[[str], AbstractAsyncContextManager[RedisLink]],
    pulse: Pulse,
    meter: Meter,
) -> None:
    """Archive and match until drained.

    `name` is unique per process incarnation. `link` opens a Redis connection of this process for a
    purpose. The clock of `pulse` has been measured.
    """
    # Blocks are built in threads. With an arena of its own (glibc's malloc) each thread would keep the
    # memory of the largest block that it ever built.
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    log, numbers, url = structlog.get_logger("archiver"), numbers_for(config), config.clickhouse.url
    async with AsyncExitStack() as stack:
        activity = closed_by(stack, RedisActivityStream(config.redis.url, config.shards))
        outstanding = closed_by(stack, DividedAttempts(url, numbers=numbers))
        commands = await stack.enter_async_context(link("receipts"))
        reading = await stack.enter_async_context(link("receipts read"))
        problems = Problems(now_us := pulse.clock.now_us)
        await stack.enter_async_context(ProblemFlush(problems, RedisProblems(commands, now_us).add, log))
        matcher, rounds = assemble_matcher(
            RedisReceiptStream(commands, reading, config.shards, pulse),
            outstanding,
            name,
            MatchLimits(),
            shards=config.shards,
            receipt_ids={p.name: p.receipt_ids for p in config.providers},
            per_message={p.name for p in config.providers if p.receipts_per == "message"},
            now_us=now_us,
            numbers=numbers,
            given_up=partial(_note, problems),
        )
        store = closed_by(stack, DividedActivityStore(url))
        archiver = Archiver(activity, store, name, numbers=numbers, now_us=now_us)
        inbox = await assemble_inbox(config, name, stack, commands, now_us)
        counters = await stack.enter_async_context(CounterLog(log, meter))
        counters.watch("archived", archiver.counts)
        counters.watch("inbound stored", inbox.counts)
        counters.watch("receipts matched", rounds.counts)
        _show(meter, rounds, config)
        life.ready()
        works = [archiver.run(life.draining), matcher.run(life.draining), inbox.run(life.draining)]
        counting = _count_reports(config, activity, archiver, life, now_us, meter)
        await _work(archiver, life.draining, *works, counting)


async def _work(archiver: Archiver, draining: asyncio.Event, *works: Coroutine[Any, Any, None]) -> None:
    """Do these works until they have drained, and give up what hangs in ClickHouse then: the roles end one
    after another, and each call has half a minute. Whoever comes next finds all as after a kill."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        await draining.wait()
        _, late = await asyncio.wait(tasks, timeout=_STUCK_S if archiver.is_stuck else _END_S)
        for task in late:
            task.cancel()


async def _count_reports(
    config: Config,
    stream: ActivityStream,
    archiver: Archiver,
    life: Heartbeat,
    now_us: Callable[[], int],
    meter: Meter,
) -> None:
    """Count in each division of ClickHouse by itself."""
    urls = urls_of(config.clickhouse.url)
    progress = [Progress() for _ in urls]

    def active() -> bool:
        return 0 in archiver.shards

    def show() -> None:
        if until_ms := min(of.until_ms for of in progress):
            meter.gauge("smsengine_reports_behind_seconds", now_us() / 1_000_000 - until_ms / 1000)
        for zone, part in least_filled(progress).items():
            meter.gauge("smsengine_reports_filled_ratio", part, time_zone=zone)

    async def count(url: str, of: Progress) -> None:
        async with AsyncExitStack() as stack:
            fill = closed_by(stack, ClickHouseReportFill(url))
            periods = closed_by(stack, ClickHouseReportPeriods(url))
            await fill_reports(fill, stream, life.draining, active=active, now_us=now_us)
            await roll_reports(periods, stream, life.draining, active=active, now_us=now_us, progress=of)

    meter.gauges(show)
    async with asyncio.TaskGroup() as group:
        for url, of in zip(urls, progress, strict=True):
            group.create_task(count(url, of))


def least_filled(progress: Sequence[Progress]) -> dict[str, float]:
    """Zones that have no counts yet in some division, and which part of them is made where it is least."""
    found: dict[str, float] = {}
    for of in progress:
        for zone, part in of.filling.items():
            found[zone] = min(part, found.get(zone, 1.0))
    return found


def _show(meter: Meter, rounds: Rounds, config: Config) -> None:
    """Show what `rounds` count with more labels than a record has."""
    for provider in config.providers:
        # So that they are shown before the first of them.
        rounds.matched[provider.name,] += 0
        rounds.unmatched.update({(provider.name, reason): 0 for reason in get_args(Reason)})
    meter.tally("smsengine_receipts_matched", rounds.matched, ("provider",))
    meter.tally("smsengine_receipts_unmatched", rounds.unmatched, ("provider", "reason"))
    meter.tally("smsengine_messages_delivered", rounds.ends.delivered, ("queue",))
    meter.tally("smsengine_messages_undelivered", rounds.ends.undelivered, ("queue",))
    for queue, times in rounds.ends.times.items():
        meter.histogram("smsengine_accepted_to_delivered_seconds", times, queue=queue)


def _note(problems: Problems, receipt: Receipt, reason: Reason) -> None:
    """Note a receipt for which no message was found."""
    r = receipt
    sample = f"id:{r.provider_message_id} state:{r.state} code:{r.code} to:{r.to}"
    problems.note(r.provider, ProblemKind.receipt_unmatched, sample, lead=f"{reason}: ")
