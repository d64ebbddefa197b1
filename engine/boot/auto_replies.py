"""Puts together what sends the replies to STOP, START and HELP, in a process of role `ingest`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import structlog

from engine.boot.counter_log import CounterLog
from engine.boot.process import Process
from engine.credit.quota import Quota
from engine.errors import Refusal
from engine.ids import MessageIds
from engine.inbound.reply_sending import AutoReplies, Submission, render
from engine.intake.ingest import Ingest
from engine.intake.permissions import Permissions
from engine.intake.ports import Prices
from engine.intake.under_way import FirstUse, Submitted
from engine.limits.gate import Gate
from engine.records import MessageDraft
from engine.stores.redis.auto_replies import RedisReplyQueue
from engine.stores.redis.link import RedisLink

log = structlog.get_logger("auto-replies")


def answering_ingest(
    process: Process,
    quota: Quota,
    prices: Prices,
    gate: Gate,
    check: Callable[[Sequence[MessageDraft | Refusal]], None],
    permissions: Permissions,
    first: FirstUse,
) -> Ingest:
    """The way in for replies: as that of messages (`engine.boot.ingest`), with what a reply may."""
    config = process.config
    return Ingest(
        quota,
        prices,
        config.queues.validities_s(),
        MessageIds.drawn(random.SystemRandom()),
        now_us=process.clock.now_us,
        timeout_s=config.http.timeout_s * 0.9,
        gate=gate,
        check=check,
        permit=permissions.reply_sender,
        first=first,
    )


async def auto_replies(
    process: Process, stack: AsyncExitStack, link: RedisLink, ingest: Ingest
) -> AutoReplies:
    """What sends them through `ingest`, which permits what a reply may have. Nothing runs yet."""

    async def submit(one: Submission) -> Submitted:
        return await ingest.submit(
            one.organisation_id,
            (one.draft,),
            render=render,
            idempotency_key=one.idempotency_key,
            fingerprint=one.fingerprint,
        )

    replies = AutoReplies(RedisReplyQueue(link), submit, process.name, now_us=process.clock.now_us)
    counters = await stack.enter_async_context(CounterLog(log, process.meter))
    counters.watch("auto-replies", replies.counts)
    return replies
