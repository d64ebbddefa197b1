"""A process that shares shards with others, inside the test, which can be stopped at any of its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from engine.errors import Unavailable

_LEASES = ("lease:", "release:")


class Living:
    """One that lives: its calls pass `gate` (`archiver_process.Gated`). It is killed, frozen, drained, or
    frozen but for its leases, which it wins back before it goes on with what it had in hand."""

    def __init__(self) -> None:
        # Where it stops the next time.
        self.point = ""
        self.stopped = asyncio.Event()
        self._may_ask = asyncio.Event()
        self._may_go_on = asyncio.Event()
        self.go_on()
        self._dead = False
        self._draining = asyncio.Event()
        self._work: asyncio.Task[None]
        self._close: Callable[[], Awaitable[None]]

    def start(
        self, run: Callable[[asyncio.Event], Awaitable[None]], close: Callable[[], Awaitable[None]]
    ) -> None:
        """Begin; `close` ends its connections."""

        async def work() -> None:
            await run(self._draining)

        self._close = close
        self._work = asyncio.create_task(work())

    async def gate(self, here: str) -> None:
        if here == self.point:
            self.stop()
        await (self._may_ask if here.startswith(_LEASES) else self._may_go_on).wait()
        if self._dead:
            raise Unavailable("dead")

    def stop(self) -> None:
        """From now on nothing that it does goes in or comes out."""
        self._may_go_on.clear()
        self._may_ask.clear()
        self.stopped.set()

    def ask(self) -> None:
        """Its leases are asked for again; all else stands still."""
        self._may_ask.set()

    def go_on(self) -> None:
        self.point = ""
        self.stopped.clear()
        self._may_ask.set()
        self._may_go_on.set()

    async def die(self) -> None:
        """End without another step."""
        self.stop()
        self._dead = True
        self._work.cancel()
        self.go_on()
        with suppress(asyncio.CancelledError):
            await self._work
        await self._close()

    async def end(self) -> None:
        """Drain it."""
        self.go_on()
        self._draining.set()
        async with asyncio.timeout(120):
            await self._work
        await self._close()
