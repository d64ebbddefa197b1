"""What every role is given, and the ways in which roles wait."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from engine.boot.heartbeat import Heartbeat
from engine.config import Config, Role
from engine.errors import Unavailable
from engine.stores.redis.link import RedisLink

STORE_TIMEOUT_S = 5.0
DRAIN_S = 20.0
_START_S = 20.0


def now_us() -> int:
    """UTC, microseconds since 1970."""
    return time.time_ns() // 1000


class Process:
    """What every role is given."""

    def __init__(
        self, role: Role, config: Config, name: str, life: Heartbeat, listener: socket.socket | None
    ) -> None:
        self.role = role
        self.config = config
        self.name = name
        self.life = life
        self.listener = listener

    @asynccontextmanager
    async def link(self, purpose: str) -> AsyncIterator[RedisLink]:
        """A Redis connection of this process, closed at the end."""
        link = RedisLink(self.config.redis.url, timeout_s=STORE_TIMEOUT_S, name=f"{self.role}:{purpose}")
        await link.start()
        try:
            yield link
        finally:
            await link.close()


async def until(wanted: Awaitable[Any], *needed: asyncio.Task[Any]) -> None:
    """Wait for `wanted`; a needed task that ends first brings its error here."""
    waiting = asyncio.ensure_future(wanted)
    try:
        done, _ = await asyncio.wait({waiting, *needed}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        waiting.cancel()


async def patiently(step: Callable[[], Awaitable[None]]) -> None:
    """A step that needs Redis as the ledger prepares it, which may be starting as well."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            return await step()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until each has ended, however it ends."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
