"""Which server is the master now, asked of the sentinels.

All are asked at once, at each connect. A failover has a number that counts up, the *config epoch*; a sentinel
that was away may still name the master before it. So the answer with the highest epoch counts, of the
first answers of more than half of them, or of those that answer within ASK_S when fewer do. Protocol:
https://redis.io/docs/latest/operate/oss_and_stack/reference/sentinel-clients/

The sentinels may name a server that is not the master any more, or not yet. The link asks the server itself
(`ROLE`) before it uses it, and asks the sentinels again when it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from engine.errors import Unavailable
from engine.stores.redis.url import RedisUrl
from engine.stores.redis.wire import ReplyError

# How long sentinels may take to answer, seconds.
ASK_S = 0.5

# Connect to a server, carry out one command, and hang up; its reply. Raises OSError, Unavailable, ReplyError.
Ask = Callable[[RedisUrl, tuple[str, ...]], Awaitable[Any]]


async def find_master(url: RedisUrl, ask: Ask) -> RedisUrl:
    """Where the master of `url` is now, as its sentinels say. Raises Unavailable when none knows."""
    asking = {
        asyncio.ensure_future(ask(url.sentinel(*address), ("SENTINEL", "MASTER", url.master)))
        for address in url.sentinels
    }
    answers: list[tuple[int, str, int]] = []
    refusal = "no answer in time"
    deadline = asyncio.get_running_loop().time() + ASK_S
    try:
        while asking and 2 * len(answers) <= len(url.sentinels):
            left_s = deadline - asyncio.get_running_loop().time()
            done, asking = await asyncio.wait(
                asking, timeout=max(0.0, left_s), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for answer in done:
                try:
                    answers.append(_place(answer.result()))
                except (OSError, Unavailable, ReplyError) as e:
                    refusal = str(e)
    finally:
        for late in asking:
            late.cancel()
        if asking:
            await asyncio.wait(asking)
    if not answers:
        raise Unavailable(f"No sentinel of {url.shown} says where the master is: {refusal.rstrip('.')}.")
    _, host, port = max(answers)
    return url.at(host, port)


def _place(reply: list[bytes]) -> tuple[int, str, int]:
    """(epoch, host, port) from the reply to SENTINEL MASTER."""
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    return int(fields[b"config-epoch"]), fields[b"ip"].decode(), int(fields[b"port"])
