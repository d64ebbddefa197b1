"""Puts together what the calls about recipients and senders need."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from engine.api.recipient_ports import RecipientServices
from engine.boot.process import closed_by
from engine.config import Config
from engine.inbound.words import WordList
from engine.stores.clickhouse.divided.inbound import DividedInbound
from engine.stores.postgres.auto_replies import AutoReplyBook
from engine.stores.postgres.inbound_routes import InboundRouteBook
from engine.stores.postgres.opt_outs import OptOutBook
from engine.stores.postgres.pool import Pool
from engine.stores.postgres.sender_rules import SenderBook
from engine.stores.redis.inbound_sink import RedisInboundSink
from engine.stores.redis.link import RedisLink


def recipient_services(
    config: Config, stack: AsyncExitStack, postgres: Pool, link: RedisLink, now_us: Callable[[], int]
) -> RecipientServices:
    """Those of one process; `stack` closes what they open. Raises ConfigError when a URL is not one of its
    store."""
    return RecipientServices(
        opt_outs=OptOutBook(postgres),
        senders=SenderBook(postgres),
        inbound=closed_by(stack, RedisInboundSink(link, now_us)),
        inbound_page=closed_by(stack, DividedInbound(config.clickhouse.url)).page,
        inbound_routes=InboundRouteBook(postgres),
        auto_replies=AutoReplyBook(postgres),
        words=WordList(config.inbound.all_words()),
        now_us=now_us,
    )
