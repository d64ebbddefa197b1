"""What is known of accepted messages, put together for the roles that answer calls on them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import NamedTuple

from engine.activity.batches import Batches
from engine.activity.cancels import Cancels
from engine.activity.lookups import DividedLookups, Lookups
from engine.activity.message_list import MessageLists
from engine.api.reads import PART_S, MessageReads
from engine.boot.numbers import numbers_for
from engine.boot.process import Process, closed_by
from engine.stores.clickhouse.divided.activity import DividedActivityStore
from engine.stores.clickhouse.divided.message_list import DividedMessageList
from engine.stores.redis.activity_stream import RedisActivityStream
from engine.stores.redis.archive_progress import RedisArchiveProgress
from engine.stores.redis.cancels import RedisCancels
from engine.stores.redis.link import RedisLink


class KeptMessages(NamedTuple):
    """What is known of messages that were accepted, and what can still be done with them."""

    history: MessageReads
    cancels: Cancels
    lists: MessageLists
    batches: Batches


def kept_messages(process: Process, stack: AsyncExitStack, link: RedisLink) -> KeptMessages:
    """Put it together; `stack` closes its connections. Raises ConfigError for a wrong URL."""
    config, shards, now_us = process.config, process.config.shards, process.clock.now_us
    stream = closed_by(stack, RedisActivityStream(config.redis.url, shards))
    activity = closed_by(stack, DividedActivityStore(config.clickhouse.url))
    of_each = [Lookups(stream, division, shards, PART_S) for division in activity.divisions]
    lookups = closed_by(stack, DividedLookups(of_each))
    listed = DividedMessageList(activity, numbers_for(config))
    progress = RedisArchiveProgress(link, shards)
    batches = Batches(progress, listed, shards)
    cancels = Cancels(lookups, batches, RedisCancels(link, shards, now_us), process.pulse.readable)
    return KeptMessages(
        MessageReads(lookups), cancels, MessageLists(listed, progress, shards, now_us), batches
    )
