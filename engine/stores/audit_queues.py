"""Judges the law `queues` of shards in which more messages wait than can be counted at one instant.

Under failure. A count that finds a difference is made again: one that somebody left behind is the same each
time. What processes of an older version bring back while it is counted, in an upgrade, is not noted for the
count, and gives a difference that changes. Then the law is `not_checked` there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from engine.credit.laws import Laws, ShardCut
from engine.errors import ConfigError, Unavailable
from engine.stores.audit_findings import sentence_of
from engine.stores.redis.link import RedisLink
from engine.stores.redis.recount import Disturbed, Recount, recount
from engine.stores.redis.wire import ReplyError

# A shard is counted so often at most, and a step is answered within this time, seconds.
_COUNTS, _ANSWER_S = 6, 5.0
_PAUSE_S = 0.5


async def judge_queues(
    laws: Laws, link: RedisLink, cuts: Iterable[ShardCut], token: str, ends_s: float
) -> None:
    """Judge those of `cuts` that have no recount, until `ends_s` by the loop's clock.

    `token`: see `recount`.
    """
    for cut in cuts:
        if cut.recount is not None:
            continue
        try:
            async with asyncio.timeout_at(ends_s):
                await _judge(laws, link, cut, token)
        except TimeoutError:
            why = f"the time was over before its messages were counted ({cut.waiting} wait)."
            do = "Run it again with more time: `smsengine audit --timeout SECONDS`."
            laws.not_checked(("queues",), why, do, cut.shard)
        except (Unavailable, ReplyError, ConfigError) as e:
            why = f"Redis cannot be asked: {sentence_of(e)}"
            do = "See to it that Redis answers (`smsengine check`), then run the audit again."
            laws.not_checked(("queues",), why, do, cut.shard)


async def _judge(laws: Laws, link: RedisLink, cut: ShardCut, token: str) -> None:
    why, before = "", 0
    for attempt in range(_COUNTS):
        if attempt:
            await asyncio.sleep(_PAUSE_S)
        try:
            found = await recount(link, cut.shard, cut.waiting, token, _ANSWER_S)
        except Disturbed as e:
            why = str(e)
            continue
        difference = _difference(found)
        if difference in (0, before):
            laws.queues(cut.shard, found.held, found.units)
            return
        why, before = "no two counts of its messages were alike.", difference
    laws.not_checked(
        ("queues",), why, "Run the audit again, and after an upgrade that is under way.", cut.shard
    )


def _difference(found: Recount) -> int:
    return found.held - found.units
