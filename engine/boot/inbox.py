"""Puts the inbox together. It runs in the archiver's process: of both one is active, and mostly waits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from engine.boot.process import closed_by
from engine.config import Config
from engine.inbound.inbox import Inbox
from engine.inbound.words import WordList
from engine.shards import shard_of
from engine.stores.clickhouse.divided.inbound import DividedInbound
from engine.stores.postgres.auto_replies import AutoReplyBook
from engine.stores.postgres.inbound_routes import InboundRouteBook
from engine.stores.postgres.opt_outs import OptOutBook
from engine.stores.postgres.pool import Pool
from engine.stores.redis.auto_replies import RedisReplyQueue
from engine.stores.redis.inbound_stream import RedisInboundEvents, RedisInboundStream
from engine.stores.redis.link import RedisLink


async def assemble_inbox(
    config: Config, name: str, stack: AsyncExitStack, link: RedisLink, now_us: Callable[[], int]
) -> Inbox:
    """The inbox; `stack` closes its connections, and nothing runs yet. `name` is unique per process
    incarnation. Raises ConfigError when a URL is not one of its store."""
    postgres = closed_by(stack, await Pool.connect(config.postgres.url, connections_max=1))
    return Inbox(
        RedisInboundStream(link),
        InboundRouteBook(postgres),
        OptOutBook(postgres),
        closed_by(stack, DividedInbound(config.clickhouse.url)),
        RedisInboundEvents(link, partial(shard_of, shards=config.shards)),
        WordList(config.inbound.all_words()),
        AutoReplyBook(postgres),
        RedisReplyQueue(link),
        name,
        part_wait_s=config.inbound.part_wait_s,
        now_us=now_us,
    )
